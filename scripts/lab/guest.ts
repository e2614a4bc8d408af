/**
 * The lab's guest: a PVH guest of 96 MiB with Debian's kernel and a busybox initramfs (guest/init says what
 * it answers on its console). This renders its xl configuration and talks to it.
 *
 * xenconsoled keeps what the guest prints in /var/log/xen/console/guest-NAME.log on the host where it runs,
 * and gives its console a terminal, named in xenstore.
 */
import { guestDirectory } from './plan.js';
import type { LabHost } from './hosts.js';

export interface GuestOptions {
  readonly name: string;
  /** Entries of xl's `disk`, for example `vdev=xvda,access=w,script=block-drbd,target=web`. */
  readonly disks?: readonly string[];
  /** Address with prefix length on `xenbr0`; without it the guest has no network. */
  readonly address?: string;
  readonly mac?: string;
  /** It keeps a ledger (guest/ledger.c), with this pause between two counts. test/lab/ledger-guest.ts lays it. */
  readonly ledgerPauseMs?: number;
  /** The ledger writes blocks besides that no other run of it would. */
  readonly hasStrays?: boolean;
}

/** The initramfs of the guest with the ledger. */
export const ledgerRamdisk = `${guestDirectory}/ledger.img`;

/**
 * The guest's xl configuration.
 *
 * `tsc_mode="native"`: the emulated CPU faults on the interception of RDTSCP.
 */
export function guestConfig(options: GuestOptions): string {
  const { name, disks = [], address, mac = '00:16:3e:00:00:10', ledgerPauseMs, hasStrays } = options;
  const extra = [
    `console=hvc0 quiet lab.name=${name}`,
    ...(address === undefined ? [] : [`lab.ip=${address}`]),
    ...(ledgerPauseMs === undefined ? [] : [`LEDGER_MS=${ledgerPauseMs}`]),
    ...(hasStrays === true ? ['LEDGER_STRAY=stray'] : []),
  ].join(' ');
  const ramdisk = ledgerPauseMs === undefined ? `${guestDirectory}/initrd.img` : ledgerRamdisk;
  return [
    `name = "${name}"`,
    'type = "pvh"',
    `kernel = "${guestDirectory}/vmlinuz"`,
    `ramdisk = "${ramdisk}"`,
    `extra = "${extra}"`,
    'memory = 96',
    'vcpus = 1',
    'tsc_mode = "native"',
    'on_poweroff = "destroy"',
    'on_reboot = "destroy"',
    'on_crash = "destroy"',
    `disk = [${disks.map((disk) => `"${disk}"`).join(', ')}]`,
    `vif = [${address === undefined ? '' : `"mac=${mac},bridge=xenbr0"`}]`,
    '',
  ].join('\n');
}

export class LabGuest {
  readonly name: string;
  readonly #host: LabHost;

  constructor(host: LabHost, name: string) {
    if (!/^[a-z0-9-]+$/.test(name))
      throw new Error(`guest name ${name}: lower case, digits and dashes expected`);
    this.#host = host;
    this.name = name;
  }

  get consoleLog(): string {
    return `/var/log/xen/console/guest-${this.name}.log`;
  }

  /** Waits for a line on the guest's console that matches an extended regular expression. */
  async waitForConsole(expression: string, timeoutMs?: number): Promise<void> {
    const condition = `grep -Eqs '${expression.replaceAll("'", `'\\''`)}' ${this.consoleLog}`;
    await this.#host.waitFor(`"${expression}" on the console of ${this.name}`, condition, timeoutMs);
  }

  /** Waits for the guest's ready line. */
  waitUntilReady(timeoutMs?: number): Promise<void> {
    return this.waitForConsole(`^lab-guest: ready ${this.name} `, timeoutMs);
  }

  /**
   * Gives the guest a line on its console and returns its answer, without the `lab-guest: VERB ` before it.
   * @throws Error when it has not answered in time
   */
  async ask(line: string, timeoutSeconds = 120): Promise<string> {
    const verb = line.split(' ')[0] ?? '';
    if (!/^[A-Za-z0-9 _.,:/-]+$/.test(line)) throw new Error(`guest ${this.name}: no such line: ${line}`);
    const script = [
      `log=${this.consoleLog}`,
      `tty=$(xenstore-read "/local/domain/$(xl domid ${this.name})/console/tty")`,
      'start=$(($(stat -L -c %s "$log") + 1))',
      `printf '%s\\n' '${line}' >"$tty"`,
      `for try in $(seq ${timeoutSeconds * 5}); do`,
      `answer=$(tail -c "+$start" "$log" | tr -d '\\r' | sed -n 's/^lab-guest: ${verb} //p' | tail -n 1)`,
      '[ -n "$answer" ] && { printf "%s\\n" "$answer"; exit 0; }',
      'sleep 0.2',
      'done',
      'exit 9',
    ].join('\n');
    const { code, stdout, stderr } = await this.#host.sh(script, {
      check: false,
      timeoutMs: timeoutSeconds * 10_000,
    });
    if (code !== 0)
      throw new Error(`guest ${this.name}: no answer to "${line}" (exit code ${code}) ${stderr}`.trim());
    return stdout.trim();
  }
}
