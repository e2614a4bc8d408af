/**
 * An old guest configuration as `import` takes it: the guest's name, its disks, and a new configuration for xl
 * with everything but the disks, which `setup` renders.
 *
 * Where a value can't be known, the new configuration has a "# QUESTION:" and the key with nothing after it,
 * so that reading it fails there until it is answered.
 */

import { show } from '../units.js';
import { parseOldDisk } from './disk.js';
import type { OldDisk } from './disk.js';
import { keyRule } from './guest-keys.js';
import { Ledger, printable } from './ledger.js';
import { addValues, parsePython } from './python.js';
import type { PyStatement, PyValue } from './python.js';

export interface ImportedDisk {
  disk: OldDisk;
  line: number;
  endLine: number;
}

export interface GuestFile {
  file: string;
  ledger: Ledger;
  /** Absent where the file doesn't say it. */
  name?: string;
  nameLine: number;
  disks: ImportedDisk[];
  /** `disk` needs to be evaluated, so there may be more disks than these. */
  disksUnread: boolean;
  /** `cpus` of the guest, as written. */
  cpus?: string;
  /** What the new configuration asks, each with its key. */
  questions: { key: string; question: string }[];
  /** The new configuration, without `disk`. */
  config: ConfigEntry[];
  /** Said of the guest as a whole. */
  remarks: string[];
}

/** One assignment of the new configuration, with what is written above it. */
interface ConfigEntry {
  key: string;
  /** In xl's syntax; empty for a question. */
  value: string;
  question?: string;
}

export const PV_GUEST =
  'Debian\'s Xen can\'t protect PV guests (it is built without shadow paging), only PVH and HVM. A Linux guest whose kernel has CONFIG_PVH (Debian\'s since 10) boots the same disks with "pvh" and the same kernel, ramdisk or pygrub; any other system needs "hvm" and a boot loader on its disk. Try it with xl create before you protect it';

/** Reads one file. Never fails: what can't be read is noted in the ledger. */
export function readGuestFile(text: string, file: string): GuestFile {
  return new Reader(text, file).read();
}

type Assignment = PyStatement & { kind: 'assignment' };

class Reader {
  readonly #text: string;
  readonly #lines: readonly string[];
  readonly #result: GuestFile;
  /** The assignments that count: the last of each key, with what was added to it. */
  readonly #values = new Map<string, Assignment>();
  /** Keys whose value would have to be computed, where they stand. */
  readonly #uncomputed = new Map<string, number>();

  constructor(text: string, file: string) {
    this.#text = text;
    this.#lines = text.split('\n');
    this.#result = {
      file,
      ledger: new Ledger(text),
      nameLine: 1,
      disks: [],
      disksUnread: false,
      questions: [],
      config: [],
      remarks: [],
    };
  }

  read(): GuestFile {
    for (const statement of parsePython(this.#text)) this.#statement(statement);
    this.#name();
    this.#type();
    for (const assignment of this.#values.values()) this.#key(assignment);
    for (const key of this.#uncomputed.keys()) {
      if (!this.#values.has(key)) this.#uncomputedKey(key);
    }
    const { config } = this.#result;
    if (!config.some(({ key }) => key === 'memory')) {
      this.#ask('memory', 'how many MiB of memory has the guest? The old file does not say it');
    }
    return this.#result;
  }

  #note(
    where: { line: number; endLine: number },
    fate: 'taken' | 'not-needed' | 'cannot' | 'question',
    text: string,
  ): void {
    this.#result.ledger.note(where.line, where.endLine, fate, text);
  }

  #ask(key: string, question: string): void {
    this.#result.questions.push({ key, question });
    this.#result.config.push({ key, value: '', question });
  }

  #statement(statement: PyStatement): void {
    switch (statement.kind) {
      case 'text':
        this.#note(statement, 'not-needed', 'assigns nothing');
        return;
      case 'problem':
        this.#problem(statement);
        return;
      case 'assignment': {
        const before = this.#values.get(statement.key);
        if (!statement.adds) {
          if (before !== undefined)
            this.#note(before, 'not-needed', `assigned again on line ${statement.line}`);
          this.#values.set(statement.key, statement);
          return;
        }
        const sum = before === undefined ? undefined : addValues(before.value, statement.value);
        if (before === undefined || sum === undefined) {
          this.#note(statement, 'cannot', `"+=" needs a text or a list of the same key before it`);
        } else {
          this.#result.ledger.noteMinor(
            statement.line,
            statement.endLine,
            'taken',
            `added to line ${before.line}`,
          );
          this.#values.set(statement.key, { ...before, value: sum });
        }
      }
    }
  }

  #problem(statement: PyStatement & { kind: 'problem' }): void {
    const first = this.#lines[statement.line - 1] ?? '';
    const key = statement.inBlock ? undefined : /^\s*([A-Za-z_]\w*)\s*\+?=(?!=)/.exec(first)?.[1];
    if (key === undefined) {
      this.#note(statement, 'cannot', statement.problem);
      return;
    }
    const rule = keyRule(key);
    if (rule.rule === 'not-needed') this.#note(statement, 'not-needed', rule.note);
    else if (rule.rule === 'keep' || rule.rule === 'read') {
      this.#uncomputed.set(key, statement.line);
      this.#note(statement, 'question', statement.problem);
    } else this.#note(statement, 'cannot', statement.problem);
  }

  #uncomputedKey(key: string): void {
    const line = this.#uncomputed.get(key) ?? 1;
    if (key === 'disk') this.#result.disksUnread = true;
    else if (!['name', 'type', 'builder', 'pvh'].includes(key)) {
      this.#ask(key, `what does line ${line} of the old file come to? It would have to be run`);
    }
  }

  #name(): void {
    const given = this.#values.get('name');
    if (given === undefined || given.value.kind === 'list' || given.value.kind === 'none') {
      if (given !== undefined) this.#note(given, 'question', 'what is the guest called?');
      this.#ask('name', 'what is the guest called? The old file does not say it as a plain text');
      return;
    }
    this.#result.name = printable(given.value.text);
    this.#result.nameLine = given.line;
    this.#add(given, 'name');
  }

  #type(): void {
    const words = ['type', 'builder', 'pvh'].flatMap((key) => {
      const given = this.#values.get(key);
      return given === undefined ? [] : [{ key, given, text: plainText(given.value) }];
    });
    const computed = ['type', 'builder'].some((key) => this.#uncomputed.has(key) && !this.#values.has(key));
    const hvm = words.some(({ key, text }) => key !== 'pvh' && text === 'hvm');
    const pvh = words.some(
      ({ key, text }) => (key === 'type' && text === 'pvh') || (key === 'pvh' && text === '1'),
    );
    if (hvm || pvh) {
      const type = hvm ? 'hvm' : 'pvh';
      for (const { given } of words) this.#note(given, 'taken', `type = "${type}"`);
      this.#result.config.push({ key: 'type', value: `"${type}"` });
      return;
    }
    for (const { given } of words) this.#note(given, 'question', 'a PV guest: pvh or hvm?');
    this.#ask(
      'type',
      computed ? `pvh or hvm? ${PV_GUEST}` : `it was a PV guest: "pvh" or "hvm"? ${PV_GUEST}`,
    );
    if (!computed)
      this.#result.remarks.push(
        "it was a PV guest, which can't be protected: its new configuration asks for a type",
      );
  }

  #key(assignment: Assignment): void {
    const { key, value } = assignment;
    const rule = keyRule(key);
    if (value.kind === 'none') {
      this.#note(assignment, 'not-needed', 'None is nothing');
      return;
    }
    switch (rule.rule) {
      case 'not-needed':
      case 'cannot':
        this.#note(assignment, rule.rule, rule.note);
        return;
      case 'unknown':
        this.#note(
          assignment,
          'cannot',
          `neither xm nor xl has a key ${show(key)}; if other lines only used it as a variable, nothing is lost`,
        );
        return;
      case 'keep':
        this.#keep(assignment);
        return;
      case 'read':
        this.#read(assignment);
    }
  }

  #keep(assignment: Assignment): void {
    const { key, value } = assignment;
    if (key === 'kernel' && /(?:^|\/)hvmloader$/.test(plainText(value) ?? '')) {
      this.#note(assignment, 'not-needed', 'xl finds hvmloader itself');
      return;
    }
    if (key === 'cpus')
      this.#result.cpus = printable(
        value.kind === 'list' ? value.items.map(plainText).join(',') : (plainText(value) ?? ''),
      );
    if (key === 'bootloader' && value.kind === 'text' && /(?:^|\/)pygrub$/.test(value.text)) {
      this.#add(assignment, key, '"pygrub"');
      return;
    }
    this.#add(assignment, key);
  }

  #read(assignment: Assignment): void {
    const { key, value } = assignment;
    switch (key) {
      case 'disk':
        this.#disks(assignment);
        return;
      case 'vif':
        this.#vifs(assignment);
        return;
      case 'cpu':
        if (this.#values.has('cpus')) this.#note(assignment, 'not-needed', '"cpus" says it');
        else {
          this.#result.cpus = plainText(value) ?? '';
          this.#add(assignment, 'cpus', quoted(plainText(value) ?? ''));
        }
        return;
      case 'cpu_cap':
        this.#add(assignment, 'cap');
        return;
      case 'bootargs': {
        const items = (plainText(value) ?? '').split(/\s+/).filter((word) => word !== '');
        this.#add(
          assignment,
          'bootloader_args',
          xlValue({
            ...value,
            kind: 'list',
            items: items.map((text) => ({ kind: 'text', text, line: value.line, endLine: value.endLine })),
          }),
        );
      }
    }
  }

  #add(assignment: Assignment, key: string, value = xlValue(assignment.value)): void {
    if (value === undefined) {
      this.#note(assignment, 'cannot', 'has a control character that no xl configuration can have');
      return;
    }
    this.#result.config.push({ key, value });
    this.#note(assignment, 'taken', `${key} of the new guest configuration`);
  }

  #disks(assignment: Assignment): void {
    const { value } = assignment;
    const { ledger } = this.#result;
    ledger.noteMinor(assignment.line, assignment.endLine, 'taken', 'the list of disks');
    for (const item of value.kind === 'list' ? value.items : [value]) {
      if (item.kind !== 'text') {
        this.#note(item, 'cannot', 'a disk is a text such as "phy:vg0/web,xvda,w"');
        continue;
      }
      const disk = parseOldDisk(item.text);
      if ('problem' in disk) this.#note(item, 'cannot', printable(disk.problem));
      else this.#result.disks.push({ disk: disk.value, line: item.line, endLine: item.endLine });
    }
  }

  #vifs(assignment: Assignment): void {
    const { value } = assignment;
    this.#result.ledger.noteMinor(
      assignment.line,
      assignment.endLine,
      'taken',
      'the list of network interfaces',
    );
    const items: string[] = [];
    for (const item of value.kind === 'list' ? value.items : [value]) {
      const text = item.kind === 'text' ? item.text : undefined;
      const parts = text?.split(',').map((part) => part.trim()) ?? [];
      const rendered = text === undefined ? undefined : quoted(text.trim());
      if (rendered === undefined || parts.some((part) => part !== '' && !/^[a-z_]+\s*=/.test(part))) {
        this.#note(
          item,
          'cannot',
          'a network interface is a text of key=value, such as "mac=00:16:3e:00:00:01,bridge=xenbr0"',
        );
        continue;
      }
      items.push(rendered);
      const random = parts.some((part) => part.startsWith('mac='))
        ? ''
        : ' (it has no mac, so xl makes one up at each start)';
      this.#note(item, 'taken', `vif of the new guest configuration${random}`);
    }
    this.#result.config.push({ key: 'vif', value: items.length === 0 ? '[]' : `[ ${items.join(', ')} ]` });
  }
}

function plainText(value: PyValue): string | undefined {
  return value.kind === 'text' || value.kind === 'number' ? value.text : undefined;
}

/** The value in xl's syntax; undefined where xl has no way to write it. */
function xlValue(value: PyValue): string | undefined {
  switch (value.kind) {
    case 'none':
      return '""';
    case 'number':
      // What isn't plain digits xl takes in quotes only.
      return /^\d+$/.test(value.text) ? value.text : `"${value.text}"`;
    case 'text':
      return quoted(value.text);
    case 'list': {
      const items = value.items.map(xlValue);
      return items.includes(undefined) ? undefined : items.length === 0 ? '[]' : `[ ${items.join(', ')} ]`;
    }
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  '\n': '\\n',
  '\t': '\\t',
  '\r': '\\r',
  '"': '\\"',
  '\\': '\\\\',
};

function quoted(text: string): string | undefined {
  const escaped = text.replace(/[\n\t\r"\\]/g, (character) => ESCAPES[character] ?? character);
  return /[\u0000-\u001f\u007f]/.test(escaped) ? undefined : `"${escaped}"`;
}

/**
 * The text of the new guest configuration.
 *
 * @param cdroms drives to keep, in xl's syntax
 */
export function guestConfigText(guest: GuestFile, cdroms: readonly string[]): string {
  const lines = [
    `# The Xen guest ${guest.name ?? 'of a name that has to be given'}. Written by "remus-drbd import" from ${printable(guest.file)}.`,
    '# Its replicated disks are in pair.yaml; "remus-drbd setup" adds them on the hosts.',
  ];
  // The order of the old file, but for what matters most.
  const rank = (key: string): number => (key === 'name' ? 0 : key === 'type' ? 1 : 2);
  const entries = [...guest.config].sort((a, b) => rank(a.key) - rank(b.key));
  for (const { key, value, question } of entries) {
    if (question !== undefined) lines.push('', `# QUESTION: ${printable(question)}`, `${key} =`, '');
    else lines.push(`${key} = ${value}`);
  }
  if (cdroms.length > 0) lines.push(`disk = [ ${cdroms.map((text) => quoted(text) ?? '""').join(', ')} ]`);
  return `${lines.join('\n')}\n`;
}
