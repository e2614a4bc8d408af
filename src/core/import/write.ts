/**
 * What `import` writes: pair.yaml with a "# QUESTION:" above each key that somebody has to fill in, the guests'
 * new configurations, and what is left to do on the hosts.
 *
 * A key that is asked for stays empty, so that reading the file fails exactly there until it is answered.
 */

import { basename } from 'node:path';

import { defaultMinor } from '../names.js';
import { FILE_PATH, NAME } from '../patterns.js';
import { formatSize, show } from '../units.js';
import type { GuestFile, ImportedDisk } from './guest.js';
import { guestConfigText } from './guest.js';
import { printable } from './ledger.js';
import type { Answer, DomainPlan, HostPlan, PairPlan } from './pairs.js';
import type { DiskPlan } from './plan-disks.js';

export interface Question {
  /** Where the answer goes, such as `pair.yaml: pairs.alpha-beta.hosts.alpha.ssh`. */
  where: string;
  question: string;
}

export interface ImportedFiles {
  pairYaml: string;
  /** New guest configurations, by the name that pair.yaml has for them. */
  guests: { name: string; from: string; text: string }[];
  questions: Question[];
  /** What somebody has to do on the hosts, in this order. */
  steps: string[];
}

/**
 * @param sources how the inputs are named
 * @param taken file names that no new guest configuration may get
 */
export function writeImport(
  pairs: readonly PairPlan[],
  sources: readonly string[],
  taken: readonly string[],
): ImportedFiles {
  return new Writer(taken).write(pairs, sources);
}

/** Names that YAML reads as something else than a text. */
const YAML_WORDS = /^(?:true|false|null|yes|no|on|off|y|n)$/i;

function scalar(value: string | number): string {
  if (typeof value === 'number') return String(value);
  return /^[A-Za-z/][\w./-]*$|^\d+(?:\.\d+){3}$/.test(value) && !YAML_WORDS.test(value)
    ? value
    : JSON.stringify(value);
}

class Writer {
  readonly #lines: string[] = [];
  readonly #questions: Question[] = [];
  readonly #guests: ImportedFiles['guests'] = [];
  readonly #names: Set<string>;
  #path: string[] = [];

  constructor(taken: readonly string[]) {
    this.#names = new Set(taken);
  }

  write(pairs: readonly PairPlan[], sources: readonly string[]): ImportedFiles {
    this.#lines.push(
      `# Written by "remus-drbd import" from ${sources.map(printable).join(', ')}.`,
      '# A line with "QUESTION:" asks for what those files do not say; the key below it is empty, and this file',
      '# can be used when all of them are filled in. conf-examples/README.md has every key.',
    );
    this.#key(0, 'pairs', () => {
      for (const pair of pairs) this.#pair(pair);
    });
    return {
      pairYaml: `${this.#lines.join('\n')}\n`,
      guests: this.#guests,
      questions: this.#questions,
      steps: steps(pairs),
    };
  }

  // --- The parts of the file ---

  #pair(pair: PairPlan): void {
    for (const question of pair.questions) this.#ask(1, `pairs.${pair.name}`, question);
    this.#key(1, pair.name, () => {
      this.#key(2, 'hosts', () => {
        for (const [index, host] of pair.hosts.entries()) this.#host(host, index);
      });
      this.#comment(
        2,
        'Who decides which side goes on after a failure is "arbiter"; without it, a person does.',
      );
      this.#key(2, 'domains', () => {
        for (const domain of pair.domains) this.#domain(domain);
      });
    });
  }

  #host(host: HostPlan, index: number): void {
    const key = host.name ?? `?${index + 1}`;
    if (host.nameQuestion !== undefined) this.#ask(3, [...this.#path, key].join('.'), host.nameQuestion);
    this.#key(3, key, () => {
      this.#answer(4, 'ssh', {
        question: `how does the controller log in, such as root@${host.name ?? 'HOST'}?`,
      });
      this.#answer(4, 'replication', host.replication);
    });
  }

  #domain(domain: DomainPlan): void {
    const key = domain.name ?? '?';
    if (domain.nameQuestion !== undefined) this.#ask(3, [...this.#path, key].join('.'), domain.nameQuestion);
    for (const remark of domain.remarks) this.#comment(3, remark);
    this.#key(3, key, () => {
      this.#answer(4, 'config', this.#config(domain));
      this.#answer(4, 'primary', domain.primary);
      if (domain.protocolD !== undefined) this.#engine(domain.protocolD);
      this.#answer(4, 'port', domain.port);
      const cpus = domain.guest?.cpus;
      if (cpus !== undefined && cpus !== '') {
        const guest = /^[\d, ]+$/.test(cpus) ? cpus : '...';
        this.#comment(
          4,
          `The guest has cpus = ${show(cpus)}. To keep the dom0 off them too, on both hosts: pin: { dom0: [...], guest: [${guest}] }`,
        );
      }
      if (domain.disksUnread) {
        this.#ask(
          4,
          [...this.#path, 'disks'].join('.'),
          'the old list of disks would have to be run: which disks has the guest?',
        );
      }
      if (domain.disks.length === 0) {
        if (!domain.disksUnread)
          this.#ask(
            4,
            [...this.#path, 'disks'].join('.'),
            'the old file names no disk: which one has the guest?',
          );
        this.#line(4, 'disks: []');
        return;
      }
      this.#key(4, 'disks', () => {
        for (const [index, disk] of domain.disks.entries()) this.#disk(disk, index, domain);
      });
    });
  }

  #config(domain: DomainPlan): Answer<string> {
    const { guest } = domain;
    if (guest === undefined)
      return { question: "where is the guest's xl configuration? No input names this resource as a disk" };
    const name = this.#freeName(domain.name ?? '');
    this.#guests.push({ name, from: guest.file, text: guestConfigText(guest, cdroms(guest)) });
    for (const { key, question } of guest.questions)
      this.#questions.push({ where: `${name}: ${key}`, question: printable(question) });
    return { value: name };
  }

  #freeName(domain: string): string {
    const base = NAME.test(domain) && FILE_PATH.test(domain) ? domain : 'guest';
    for (let count = 1; ; count++) {
      const name = `${base}${count === 1 ? '' : `-${count}`}.cfg`;
      if (this.#names.has(name)) continue;
      this.#names.add(name);
      return name;
    }
  }

  #engine({ minor }: { minor?: number }): void {
    this.#answer(4, 'engine', {
      question:
        'it had protocol D. "journal" needs no patched module and runs on DRBD as Debian ships it; "protocol-d" is for hosts that still have the module',
    });
    this.#comment(4, `With protocol-d a minor has to be given as well: minor: ${minor ?? '0 to 254'}`);
  }

  #disk(disk: DiskPlan, index: number, domain: DomainPlan): void {
    const at = (key: string): string => [...this.#path, String(index), key].join('.');
    const item: { key: string; value?: string | number }[] = [];
    const above: string[] = [...disk.remarks];
    const ask = (key: string, question: string): void => {
      this.#questions.push({ where: `pair.yaml: ${at(key)}`, question: printable(question) });
      above.push(`QUESTION: ${question}`);
      item.push({ key });
    };
    if (disk.vdev === undefined) {
      ask(
        'vdev',
        disk.questions.find((question) => question.includes("isn't a name")) ??
          'how does the guest call this disk, such as xvda?',
      );
    } else item.push({ key: 'vdev', value: disk.vdev });
    const others = disk.questions.filter((question) => !question.includes("isn't a name"));
    switch (disk.volume.kind) {
      case 'existing':
        item.push({ key: 'volumeGroup', value: disk.volume.volumeGroup });
        item.push({ key: 'logicalVolume', value: disk.volume.logicalVolume });
        break;
      case 'copy': {
        above.push(...copyRemarks(disk.volume, index, domain));
        ask('volumeGroup', 'in which LVM volume group, on both hosts, is the LV to be made?');
        ask('size', sizeQuestion(disk.volume));
        break;
      }
      case 'unknown':
        ask('volumeGroup', others.join('; '));
        ask(
          'logicalVolume',
          'the name of that LV, the same on both hosts (or "size" in its place, for one to be made)',
        );
    }
    if (disk.old?.internal === true) {
      above.push(
        `Resource ${disk.old.resource} kept its meta-data at the end of its disk: it has to be wiped before setup, on both hosts.`,
      );
    }
    for (const text of above) this.#comment(5, text);
    for (const [position, { key, value }] of item.entries()) {
      this.#line(
        5,
        `${position === 0 ? '- ' : '  '}${key}:${value === undefined ? '' : ` ${scalar(value)}`}`,
      );
    }
  }

  // --- Lines ---

  #key(depth: number, key: string, inside: () => void): void {
    this.#line(depth, `${scalar(key)}:`);
    this.#path = [...this.#path, key];
    inside();
    this.#path = this.#path.slice(0, -1);
  }

  #answer(depth: number, key: string, answer: Answer<string | number>): void {
    if ('question' in answer) {
      this.#ask(depth, [...this.#path, key].join('.'), answer.question);
      this.#line(depth, `${key}:`);
      return;
    }
    if (answer.remark !== undefined) this.#comment(depth, answer.remark);
    this.#line(depth, `${key}: ${scalar(answer.value)}`);
  }

  #ask(depth: number, path: string, question: string): void {
    this.#questions.push({ where: `pair.yaml: ${printable(path)}`, question: printable(question) });
    this.#comment(depth, `QUESTION: ${question}`);
  }

  #comment(depth: number, text: string): void {
    for (const line of wrapped(printable(text), COLUMNS - 2 * depth)) this.#line(depth, `# ${line}`);
  }

  #line(depth: number, text: string): void {
    this.#lines.push(`${'  '.repeat(depth)}${text}`);
  }
}

const COLUMNS = 110;

/** Lines of at most so many characters, broken at spaces; a command (indented) stays on one line. */
function wrapped(text: string, columns: number): string[] {
  if (text.startsWith(' ')) return [text];
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = `  ${word}`;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

// --- Disks ------------------------------------------------------------------------------------------------

function sizeQuestion({ from, convert }: DiskPlan['volume'] & { kind: 'copy' }): string {
  if (convert) return `how large is the disk in ${from}? "qemu-img info" shows its virtual size`;
  if (from.startsWith('/dev/')) return `how large is ${from}? "blockdev --getsize64 ${from}" prints it`;
  return `how large is ${from}? "stat -c %s ${from}" prints it; at least ${formatSize(4 * 2 ** 20)}, in whole sectors of 512 bytes`;
}

function copyCommand({ from, convert }: DiskPlan['volume'] & { kind: 'copy' }, device: string): string {
  return convert
    ? `qemu-img convert -n -O raw ${from} ${device}`
    : `dd if=${from} of=${device} bs=1M conv=fsync`;
}

function copyRemarks(
  volume: DiskPlan['volume'] & { kind: 'copy' },
  index: number,
  domain: DomainPlan,
): string[] {
  return [
    `${volume.from} has to become an LV: setup makes an empty one on both hosts, then, with the guest shut down, on the primary:`,
    `  ${copyThrough(volume, index, domain)}`,
    'DRBD writes it on both hosts, so that both images are the same; nothing has to be copied on the other one.',
  ];
}

function copyThrough(
  volume: DiskPlan['volume'] & { kind: 'copy' },
  index: number,
  domain: DomainPlan,
): string {
  const name = domain.name ?? 'GUEST';
  const device =
    'value' in domain.port ? `/dev/drbd${defaultMinor(domain.port.value) + index}` : '/dev/drbdMINOR';
  return `drbdadm primary ${name} && ${copyCommand(volume, device)}; drbdadm secondary ${name}`;
}

/** The drives of a guest that aren't replicated, in xl's syntax. */
function cdroms(guest: GuestFile): string[] {
  return guest.disks.flatMap(({ disk }: ImportedDisk) => {
    if (!disk.cdrom) return [];
    const { backing } = disk;
    const target =
      backing.kind === 'image' || backing.kind === 'device'
        ? backing.path
        : backing.kind === 'lv'
          ? `/dev/${backing.volumeGroup}/${backing.logicalVolume}`
          : '';
    return [`vdev=${disk.vdev},devtype=cdrom,access=r${target === '' ? '' : `,target=${target}`}`];
  });
}

// --- Steps ------------------------------------------------------------------------------------------------

function steps(pairs: readonly PairPlan[]): string[] {
  const result: string[] = [
    'Answer the questions (each is a "# QUESTION:" in the files), then: remus-drbd check',
  ];
  for (const { hosts, domains } of pairs) {
    for (const domain of domains) result.push(...domainSteps(hosts, domain));
  }
  result.push('remus-drbd setup --dry-run, and when it shows what you want: remus-drbd setup');
  for (const domain of pairs.flatMap((pair) => pair.domains)) {
    for (const [index, { volume }] of domain.disks.entries()) {
      if (volume.kind === 'copy')
        result.push(`${domain.name ?? 'the guest'}: on the primary: ${copyThrough(volume, index, domain)}`);
    }
  }
  return result.map(printable);
}

function domainSteps(hosts: readonly HostPlan[], domain: DomainPlan): string[] {
  const name = domain.name ?? 'the guest';
  const old = domain.disks.flatMap((disk) => disk.old ?? []);
  const result: string[] = [];
  if (old.length > 0) {
    const names = distinct(old.map((one) => one.resource)).join(' ');
    const internal = distinct(old.filter((one) => one.internal).map((one) => one.resource)).join(' ');
    const wipe = internal === '' ? '' : `drbdadm wipe-md ${internal}; `;
    const files = distinct(old.map((one) => basename(one.file))).join(', ');
    result.push(
      `${name}: shut the guest down; on both hosts: drbdadm down ${names}; ${wipe}and take ${files} out of /etc/drbd.d (setup writes the resource anew)`,
    );
  }
  const kept = domain.disks.flatMap(({ volume }) => (volume.kind === 'existing' ? [volume] : []));
  if (kept.length > 0) {
    const backup =
      hosts
        .map((host) => host.name ?? '?')
        .find((host) => 'value' in domain.primary && host !== domain.primary.value) ?? 'BACKUP';
    const flags = kept.map((lv) => `--overwrite ${backup}:${lv.volumeGroup}/${lv.logicalVolume}`).join(' ');
    result.push(
      `${name}: its LVs have to be on both hosts, of the same size. The first sync copies them from the primary to the backup; where the backup's hold an older copy, setup wants to be told that it can be lost: ${flags}`,
    );
  }
  return result;
}

function distinct(texts: readonly string[]): string[] {
  return [...new Set(texts)];
}
