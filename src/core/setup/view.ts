/**
 * What setup sees of a host: the facts that `check` uses too, and what only setup has to know. All of it is
 * read in one round trip together with the facts.
 */
import { ExitCode, OperatorError } from '../errors.js';
import {
  parseFacts,
  protectionUnits,
  probeCommands,
  TLS_CERTIFICATE,
  understood,
  type Fact,
  type HostFacts,
  type RunningResource,
} from '../facts.js';
import type { DomainLayout } from '../model.js';
import { domainFilePath, Paths, statePath, unitName } from '../names.js';
import { parseInstalled, type InstalledLayout } from './change.js';
import { parseTerm, RecordError, type TermRecord } from '../claim/term.js';
import { linesOf } from '../parse/text.js';
import { parseXlVcpuList, type Vcpu } from '../parse/vcpu.js';
import { DOM0_PIN_PATH, parseDom0Pin, type PinState } from '../pin.js';
import { AUTHORIZED_KEYS, ROOT_SSH, SSH_DIRECTORY, SSH_KEY, SSH_KNOWN_HOSTS, SSH_PUBLIC_KEY } from './ssh.js';

export const TLS_KEY = `${Paths.tls}/host.key`;

/** Where a host keeps the certificate that it must see from its peer. */
export function peerCertificatePath(peer: string): string {
  return `${Paths.tls}/peer-${peer}.crt`;
}

export interface InstalledFile {
  sha256: string;
  mode: number;
}

export interface HostView {
  facts: HostFacts;
  /** By path: the files that setup manages, as they are; absent where there is none. */
  files: Record<string, InstalledFile>;
  /** By domain: what `drbdadm adjust` would run now; undefined where it can't tell (no configuration yet). */
  adjust: Record<string, string[] | undefined>;
  /** By domain: the layout that an earlier setup left here. */
  installed: Record<string, InstalledLayout>;
  /** DRBD's global file is neither the package's nor ours: its owner changed it, so it is left alone. */
  ownGlobalFile: boolean;
  /** A unit file is newer than what systemd has read. */
  reloadNeeded: boolean;
  /** Those of `FOLDERS` that are there, each with the files below it. */
  folders: Record<string, string[]>;
  tls: {
    directoryMode: number | undefined;
    /** The host's certificate in PEM, where it fits the private key. */
    certificate: string | undefined;
  };
  ssh: {
    directoryMode: number | undefined;
    /** Of the host's own key; undefined where there is none, or none that can be read. */
    publicKey: string | undefined;
    /** Whether root's ~/.ssh is there. */
    rootDirectory: boolean;
    /** Root's authorized_keys, where there is one. */
    authorizedKeys: string | undefined;
  };
  /** By domain: the latest term that the host knows; `unreadable` where it can't be understood. */
  terms: Record<string, TermRecord | 'unreadable'>;
  /** What the dom0 had before "pin" was applied, and all vCPUs as they are; absent where it never was. */
  dom0Pin?: { before: NonNullable<PinState['dom0']>; vcpus: Vcpu[] };
}

/** Where a host records the latest term of a domain (edge/term-store.ts). */
export function termPath(domain: string): string {
  return statePath(domain, 'term.json');
}

/**
 * Why a domain's devices, files and configuration are not to be touched now; undefined where nothing of a
 * protection is there.
 */
export function protectionOn(view: HostView, domain: string): string | undefined {
  const units = known(view.facts.units, view.facts.host, 'the state of units');
  for (const unit of protectionUnits(domain)) {
    const state = units[unit]?.activeState ?? 'inactive';
    if (state !== 'inactive' && state !== 'failed') return `${unit} is ${state}`;
  }
  const marker = statePath(domain, 'journal-active');
  return view.folders[Paths.state]?.includes(marker) === true ? `${marker} is there` : undefined;
}

/** A fact that nothing can be planned without. */
export function known<T>(fact: Fact<T>, host: string, what: string): T {
  if (fact.known) return fact.value;
  throw new OperatorError(
    `${host}: ${what} could not be read: ${fact.reason}; nothing was changed. "remus-drbd check" says what is missing.`,
    ExitCode.failed,
  );
}

/** The domain's resource as it runs in the host's kernel, if it does. */
export function running(view: HostView, domain: string): RunningResource | undefined {
  const resources = known(view.facts.drbdRunning, view.facts.host, 'the running DRBD resources');
  return resources.find((resource) => resource.name === domain);
}

/** By host name. */
export type Views = Record<string, HostView>;

export interface CommandOutput {
  exitCode: number;
  stdout: string;
  stderr: string;
}

/** Folders that are ours alone. */
const FOLDERS: readonly string[] = [Paths.etc, Paths.lib, Paths.state, Paths.run];

const SETUP = 'setup ';

/**
 * The read-only commands that `parseView` reads.
 *
 * @param paths the files that setup manages on this host
 */
export function viewCommands(
  layouts: readonly DomainLayout[],
  host: string,
  paths: readonly string[],
  guestFiles: readonly string[],
): Map<string, string[]> {
  const commands = probeCommands(layouts, host, guestFiles);
  const add = (key: string, ...argv: string[]): void => {
    commands.set(SETUP + key, argv);
  };
  const peers = layouts.flatMap(({ hosts }) => hosts.map(({ name }) => name)).filter((name) => name !== host);
  const own = [TLS_KEY, TLS_CERTIFICATE, SSH_KEY, SSH_PUBLIC_KEY, SSH_KNOWN_HOSTS, AUTHORIZED_KEYS];
  const all = [...new Set([...paths, ...own, ...peers.map(peerCertificatePath)])];
  add('sha256sum', 'sha256sum', '--', ...all);
  add('stat', 'stat', '-c', '%a %n', '--', Paths.tls, SSH_DIRECTORY, ROOT_SSH, ...FOLDERS, ...all);
  add('inside', 'find', ...FOLDERS, '!', '-type', 'd');
  add('certificate', 'cat', TLS_CERTIFICATE);
  add('certificate-key', 'openssl', 'x509', '-in', TLS_CERTIFICATE, '-noout', '-pubkey');
  add('key', 'openssl', 'pkey', '-in', TLS_KEY, '-pubout');
  add('authorized-keys', 'cat', AUTHORIZED_KEYS);
  add('dom0-pin', 'cat', DOM0_PIN_PATH);
  add('vcpus', 'xl', 'vcpu-list');
  for (const { domain, hosts } of layouts) {
    if (!hosts.some(({ name }) => name === host)) continue;
    add(`installed ${domain.name}`, 'cat', domainFilePath(domain.name));
    add(`adjust ${domain.name}`, 'drbdadm', '--dry-run', 'adjust', domain.name);
    const units = [unitName(domain.name), ...protectionUnits(domain.name)];
    add(`reload ${domain.name}`, 'systemctl', 'show', '--property=NeedDaemonReload', ...units);
    add(`term ${domain.name}`, 'cat', termPath(domain.name));
  }
  return commands;
}

/**
 * @throws OperatorError that names host, tool and line when a tool's output is not understood
 */
export function parseView(host: string, results: ReadonlyMap<string, CommandOutput>): HostView {
  return understood(host, () => readView(host, results));
}

function readView(host: string, results: ReadonlyMap<string, CommandOutput>): HostView {
  const of = (key: string): CommandOutput =>
    results.get(SETUP + key) ?? { exitCode: 127, stdout: '', stderr: 'not asked' };
  const modes = new Map<string, number>();
  for (const line of linesOf('stat', of('stat').stdout)) {
    const found = /^([0-7]{1,4}) (\/.*)$/.exec(line.text) ?? line.fail('a mode and a path are expected');
    modes.set(found[2]!, parseInt(found[1]!, 8));
  }
  const files: Record<string, InstalledFile> = {};
  for (const line of linesOf('sha256sum', of('sha256sum').stdout)) {
    const found = /^([0-9a-f]{64}) [ *](\/.*)$/.exec(line.text) ?? line.fail('a sum and a path are expected');
    const mode = modes.get(found[2]!);
    if (mode !== undefined) files[found[2]!] = { sha256: found[1]!, mode };
  }
  const adjust: HostView['adjust'] = {};
  const installed: HostView['installed'] = {};
  const terms: HostView['terms'] = {};
  let reloadNeeded = false;
  for (const [key, result] of results) {
    if (key.startsWith(`${SETUP}adjust `)) {
      const domain = key.slice(`${SETUP}adjust `.length);
      adjust[domain] =
        result.exitCode === 0 ? linesOf('drbdadm adjust', result.stdout).map(({ text }) => text) : undefined;
    }
    if (key.startsWith(`${SETUP}installed `) && result.exitCode === 0) {
      const domain = key.slice(`${SETUP}installed `.length);
      installed[domain] = parseInstalled(domainFilePath(domain), result.stdout);
    }
    if (key.startsWith(`${SETUP}term `) && result.exitCode === 0) {
      terms[key.slice(`${SETUP}term `.length)] = readTerm(result.stdout);
    }
    if (key.startsWith(`${SETUP}reload `)) reloadNeeded ||= /^NeedDaemonReload=yes$/m.test(result.stdout);
  }
  const certificate = of('certificate');
  const publicOfCertificate = of('certificate-key');
  const publicOfKey = of('key');
  const fits =
    certificate.exitCode === 0 &&
    publicOfCertificate.exitCode === 0 &&
    publicOfKey.exitCode === 0 &&
    publicOfCertificate.stdout.trim() === publicOfKey.stdout.trim();
  const facts = parseFacts(host, results);
  return {
    facts,
    files,
    ownGlobalFile: hasOwnGlobalFile(facts),
    installed,
    adjust,
    reloadNeeded,
    folders: Object.fromEntries(
      FOLDERS.filter((folder) => modes.has(folder)).map((folder) => [
        folder,
        linesOf('find', of('inside').stdout).flatMap(({ text }) =>
          text.startsWith(`${folder}/`) ? [text] : [],
        ),
      ]),
    ),
    tls: {
      directoryMode: modes.get(Paths.tls),
      certificate: fits ? certificate.stdout : undefined,
    },
    ssh: {
      directoryMode: modes.get(SSH_DIRECTORY),
      publicKey: facts.sshPublicKey.known ? facts.sshPublicKey.value : undefined,
      rootDirectory: modes.has(ROOT_SSH),
      authorizedKeys: of('authorized-keys').exitCode === 0 ? of('authorized-keys').stdout : undefined,
    },
    terms,
    ...readDom0Pin(of('dom0-pin'), of('vcpus')),
  };
}

function readDom0Pin(note: CommandOutput, vcpus: CommandOutput): Pick<HostView, 'dom0Pin'> {
  const before = note.exitCode === 0 ? parseDom0Pin(note.stdout) : undefined;
  return before === undefined ? {} : { dom0Pin: { before, vcpus: parseXlVcpuList(vcpus.stdout) } };
}

function readTerm(text: string): TermRecord | 'unreadable' {
  try {
    return parseTerm(text);
  } catch (error) {
    if (error instanceof RecordError) return 'unreadable';
    throw error;
  }
}

function hasOwnGlobalFile(facts: HostFacts): boolean {
  const path = Paths.drbdGlobal;
  if (known(facts.diversions, facts.host, 'the list of diversions').some((one) => one.path === path))
    return false;
  const present = facts.files[path];
  return present !== undefined && facts.packagedFiles.known && facts.packagedFiles.value[path] !== present;
}
