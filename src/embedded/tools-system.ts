/** Embedded systemd, dpkg, kmod, openssl, iproute2, ping and Xen's xl, as far as hosts are asked. */
import { createHash } from 'node:crypto';
import { dirname } from 'node:path';
import { Paths } from '../core/names.js';
import type { EmbeddedMachine, Tool } from './machine.js';
import { failed, NO_SUCH_FILE, NotModelled, printed } from './results.js';
import type { EmbeddedResult } from './sshd.js';
import { remusDevices } from './tools-drbd.js';

export interface Unit {
  enabled: boolean;
  active: 'active' | 'inactive' | 'failed';
  /** The text that systemd has read, while it keeps the unit loaded. */
  loaded?: string;
}

export const systemTools: [string, Tool][] = [
  ['uname', (machine) => printed(`${machine.name} 6.1.0-41-amd64 x86_64\n`)],
  ['id', () => printed('0\n')],
  ['date', date],
  ['node', node],
  ['modinfo', modinfo],
  ['modprobe', modprobe],
  ['dpkg-query', dpkgQuery],
  ['dpkg-divert', dpkgDivert],
  ['systemctl', systemctl],
  ['timedatectl', () => printed('NTPSynchronized=yes\n')],
  ['openssl', openssl],
  ['ssh-keygen', sshKeygen],
  ['ip', ip],
  ['ss', ss],
  ['ping', ping],
  ['xl', xl],
];

function date(machine: EmbeddedMachine): EmbeddedResult {
  const ms = machine.nowMs();
  return printed(`${Math.floor(ms / 1000)}.${String(ms % 1000).padStart(3, '0')}000000\n`);
}

/** The version, and the sender of the throughput measurement: a gigabit link. */
function node(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (args[0] === '--version') return printed('v18.19.0\n');
  if (args[0] !== '-e') throw new NotModelled('node with a file');
  if (!machine.drbd.linkUp) return failed(2, 'no connection within 5 s');
  return printed('67108864 570.000\n');
}

// --- Kernel modules

const MODULES: Record<string, string | undefined> = {
  drbd: '8.4.11',
  nbd: undefined,
  sch_plug: undefined,
  ifb: undefined,
  act_mirred: undefined,
  cls_matchall: undefined,
  sch_ingress: undefined,
};

function modinfo(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [option, ...names] = args;
  if (option !== '-0') throw new NotModelled('modinfo without -0');
  let [stdout, stderr] = ['', ''];
  for (const name of names) {
    if (name === 'dm_mod')
      stdout += `name:           ${name}\0filename:       (builtin)\0license:        GPL\0`;
    else if (!Object.hasOwn(MODULES, name)) stderr += `modinfo: ERROR: Module ${name} not found.\n`;
    else {
      const number = name === 'drbd' && machine.drbdModule === '8.3' ? '8.3.11' : MODULES[name];
      const version = number === undefined ? '' : `version:        ${number}\0`;
      stdout += `filename:       /lib/modules/6.1.0-41-amd64/kernel/${name}.ko\0license:        GPL\0${version}name:           ${name}\0`;
    }
  }
  return { exitCode: stderr === '' ? 0 : 1, stdout, stderr };
}

function modprobe(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  let stderr = '';
  for (const name of args.filter((arg) => arg !== '--all' && arg !== '-a')) {
    if (Object.hasOwn(MODULES, name) || name === 'dm_mod') machine.modules.add(name);
    else stderr += `modprobe: FATAL: Module ${name} not found in directory /lib/modules/6.1.0-41-amd64\n`;
  }
  return { exitCode: stderr === '' ? 0 : 1, stdout: '', stderr };
}

/** systemd-modules-load at boot. */
export function loadModules(machine: EmbeddedMachine): void {
  for (const path of machine.files.below('/etc/modules-load.d')) {
    const names = (machine.files.text(path) ?? '').split('\n').filter((line) => /^[a-z]/.test(line));
    modprobe(machine, names);
  }
}

// --- Debian's packages

const PACKAGES: Record<string, string> = {
  'xen-utils-4.17': '4.17.5+23-ga4e5191dc0-1',
  'xenstore-utils': '4.17.5+23-ga4e5191dc0-1',
  'drbd-utils': '9.22.0-1',
  lvm2: '2.03.16-2',
  dmsetup: '2:1.02.185-2',
  nodejs: '18.19.0+dfsg-6~deb12u2',
  iproute2: '6.1.0-3',
  'iputils-ping': '3:20221126-1+deb12u1',
  openssl: '3.0.17-1~deb12u2',
  kmod: '30+20221128-1',
  'util-linux': '2.38.1-5+deb12u3',
  systemd: '252.38-1~deb12u1',
};

function dpkgQuery(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [, format = '', ...patterns] = args;
  if (format.startsWith('-f=${Conffiles}')) {
    const md5 = (text: string): string => createHash('md5').update(text).digest('hex');
    return printed(
      Object.entries(machine.packagedFiles)
        .map(([path, text]) => ` ${path} ${md5(text)}\n`)
        .join(''),
    );
  }
  if (!format.startsWith('-f=${Package}')) throw new NotModelled(`dpkg-query ${format}`);
  let [stdout, stderr] = ['', ''];
  for (const pattern of patterns) {
    const names = Object.keys(PACKAGES).filter((name) =>
      pattern.endsWith('*') ? name.startsWith(pattern.slice(0, -1)) : name === pattern,
    );
    if (names.length === 0) stderr += `dpkg-query: no packages found matching ${pattern}\n`;
    stdout += names.map((name) => `${name}\tinstalled\t${PACKAGES[name]}\n`).join('');
  }
  return { exitCode: stderr === '' ? 0 : 1, stdout, stderr };
}

function dpkgDivert(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const { diversions, files } = machine;
  if (args[0] === '--list') {
    const matches = (path: string): boolean =>
      args.slice(1).some((glob) => (glob.endsWith('*') ? path.startsWith(glob.slice(0, -1)) : path === glob));
    const lines = diversions
      .filter(({ path }) => matches(path))
      .map(({ path, to }) => `local diversion of ${path} to ${to}\n`);
    return printed(lines.join(''));
  }
  const path = args.at(-1) ?? '';
  if (!args.includes('--local') || !args.includes('--rename'))
    throw new NotModelled('no local renaming diversion');
  const at = diversions.findIndex((one) => one.path === path);
  const found = diversions[at];
  if (args.includes('--add')) {
    const to = args[args.indexOf('--divert') + 1] ?? `${path}.distrib`;
    if (found !== undefined) return printed(`Leaving 'local diversion of ${path} to ${found.to}'\n`);
    diversions.push({ path, to });
    files.rename(path, to);
    return printed(`Adding 'local diversion of ${path} to ${to}'\n`);
  }
  if (!args.includes('--remove')) throw new NotModelled(`dpkg-divert ${args.join(' ')}`);
  if (found === undefined) return printed(`No diversion 'local diversion of ${path}', none removed.\n`);
  if (files.read(path) !== undefined && files.read(found.to) !== undefined) {
    return failed(
      2,
      `dpkg-divert: error: rename involves overwriting '${path}' with\n  different file '${found.to}', not allowed`,
    );
  }
  diversions.splice(at, 1);
  files.rename(found.to, path);
  return printed(`Removing 'local diversion of ${path} to ${found.to}'\n`);
}

// --- systemd

const TEMPLATE = /^(remus-(?:drbd|sender|receiver|switchover|switchover-target|drill)@)(.+)\.service$/;

/** Text of a unit's file, which for an instance is its template's. */
function unitText(machine: EmbeddedMachine, name: string): string | undefined {
  const [, template] = TEMPLATE.exec(name) ?? [];
  return template === undefined
    ? undefined
    : machine.files.text(`${dirname(Paths.unit)}/${template}.service`);
}

function systemctl(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [command, ...rest] = args;
  switch (command) {
    case 'daemon-reload':
      for (const [name, unit] of machine.units) {
        const text = unitText(machine, name);
        if (text === undefined) delete unit.loaded;
        else if (unit.loaded !== undefined) unit.loaded = text;
      }
      return printed('');
    case 'show':
      return show(machine, rest);
    case 'enable':
    case 'disable': {
      const [option, name = ''] = rest;
      if (option !== '--now' || rest.length !== 2) throw new NotModelled(`systemctl ${args.join(' ')}`);
      return command === 'enable' ? enable(machine, name) : disable(machine, name);
    }
    default:
      throw new NotModelled(`systemctl ${args.join(' ')}`);
  }
}

function show(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [option = '', ...names] = args;
  const properties = /^--property=(.*)$/.exec(option)?.[1]?.split(',') ?? [];
  const blocks = names.map((name) => {
    const unit = machine.units.get(name);
    const text = unitText(machine, name);
    const isOurs = TEMPLATE.test(name);
    const values: Record<string, string> = {
      Id: name,
      LoadState: isOurs && text === undefined && unit?.loaded === undefined ? 'not-found' : 'loaded',
      ActiveState: unit?.active ?? (isOurs || name.startsWith('drbd') ? 'inactive' : 'active'),
      UnitFileState:
        text === undefined && isOurs
          ? ''
          : isOurs
            ? unit?.enabled === true
              ? 'enabled'
              : 'disabled'
            : name.startsWith('drbd')
              ? 'disabled'
              : 'enabled',
      // Only what systemd keeps loaded can be older than its file.
      NeedDaemonReload: unit?.loaded !== undefined && unit.loaded !== text ? 'yes' : 'no',
    };
    return properties.map((property) => `${property}=${values[property] ?? ''}\n`).join('');
  });
  return printed(blocks.join('\n'));
}

function enable(machine: EmbeddedMachine, name: string): EmbeddedResult {
  const text = unitText(machine, name);
  if (text === undefined) return failed(1, `Failed to enable unit: Unit file ${name} does not exist.`);
  const unit: Unit = machine.units.get(name) ?? { enabled: false, active: 'inactive' };
  machine.units.set(name, unit);
  unit.enabled = true;
  return start(machine, name, unit, text);
}

function start(machine: EmbeddedMachine, name: string, unit: Unit, text: string): EmbeddedResult {
  if (unit.active === 'active') return printed('');
  unit.loaded ??= text;
  const result = remusDevices(machine, ['up', TEMPLATE.exec(name)?.[2] ?? '']);
  unit.active = result.exitCode === 0 ? 'active' : 'failed';
  if (result.exitCode === 0) return printed('');
  return failed(
    1,
    `Job for ${name} failed because the control process exited with error code.\n` +
      `See "systemctl status ${name}" and "journalctl -xeu ${name}" for details.\n`,
  );
}

function disable(machine: EmbeddedMachine, name: string): EmbeddedResult {
  const unit = machine.units.get(name);
  if (unitText(machine, name) === undefined) {
    return failed(1, `Failed to disable unit: Unit file ${name} does not exist.`);
  }
  if (unit === undefined) return printed('');
  unit.enabled = false;
  if (unit.active !== 'active') return printed('');
  const result = remusDevices(machine, ['down', TEMPLATE.exec(name)?.[2] ?? '']);
  // A oneshot unit whose ExecStop fails has failed, and systemctl doesn't tell.
  unit.active = result.exitCode === 0 ? 'inactive' : 'failed';
  delete unit.loaded;
  return printed('');
}

/** Units that are started at boot. */
export function startEnabledUnits(machine: EmbeddedMachine): void {
  for (const [name, unit] of machine.units) {
    const text = unitText(machine, name);
    if (unit.enabled && text !== undefined) start(machine, name, unit, text);
  }
}

// --- Certificates: made up, and saying so

const KEY = /^-----BEGIN EMBEDDED PRIVATE KEY-----\n(.*)\n/;
const CERTIFICATE = /^-----BEGIN EMBEDDED CERTIFICATE-----\n(.*)\n(.*)\n/;

function openssl(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const value = (option: string): string => args[args.indexOf(option) + 1] ?? '';
  const publicKey = (key: string): string => `-----BEGIN EMBEDDED PUBLIC KEY-----\n${key}\n`;
  switch (args[0]) {
    case 'req': {
      const key = machine.unique('key');
      const subject = value('-subj').replace(/^\/CN=/, 'CN = ');
      const write = (path: string, text: string, mode: number): void =>
        machine.files.write(path, Buffer.from(text), mode);
      write(value('-keyout'), `-----BEGIN EMBEDDED PRIVATE KEY-----\n${key}\n`, 0o600);
      write(value('-out'), `-----BEGIN EMBEDDED CERTIFICATE-----\n${key}\n${subject}\n`, 0o644);
      return { exitCode: 0, stdout: '', stderr: '-----\n' };
    }
    case 'x509': {
      const path = value('-in');
      const text = machine.files.text(path);
      const match = CERTIFICATE.exec(text ?? '');
      if (text === undefined) {
        return failed(1, `Could not open file or uri for loading certificate from ${path}\n${NO_SUCH_FILE}`);
      }
      if (match === null) return failed(1, `Could not read certificate from ${path}`);
      if (args.includes('-pubkey')) return printed(publicKey(match[1] ?? ''));
      const digest = createHash('sha256').update(text).digest('hex').toUpperCase();
      return printed(
        `subject=${match[2]}\nnotAfter=Oct 31 05:58:36 2126 GMT\n` +
          `sha256 Fingerprint=${digest.match(/../g)?.join(':')}\n`,
      );
    }
    case 'pkey': {
      const match = KEY.exec(machine.files.text(value('-in')) ?? '');
      return match === null
        ? failed(1, `Could not read key from ${value('-in')}`)
        : printed(publicKey(match[1] ?? ''));
    }
    default:
      throw new NotModelled(`openssl ${args[0]}`);
  }
}

/** Makes a key, or prints the public one of a key. Its base64 is of a text that says what it is. */
function sshKeygen(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const path = args[args.indexOf('-f') + 1] ?? '';
  const { files } = machine;
  if (args.includes('-y')) {
    const key = files.read(path);
    if (key === undefined) return failed(255, `${path}: ${NO_SUCH_FILE}`);
    const [, body] = /^-----BEGIN EMBEDDED SSH KEY-----\n(.*)\n/.exec(key.content.toString('latin1')) ?? [];
    if (body === undefined || key.mode !== 0o600)
      return failed(255, `Load key "${path}": error in libcrypto`);
    return printed(`ssh-ed25519 ${body} remus-drbd:${machine.name}\n`);
  }
  if (!args.includes('-t') || args[args.indexOf('-N') + 1] !== '')
    throw new NotModelled(`ssh-keygen ${args[0]}`);
  if (files.read(path) !== undefined) return failed(1, `${path} already exists.\nOverwrite (y/n)? `);
  const body = Buffer.from(`embedded ${machine.unique('ssh key')}`).toString('base64');
  files.write(path, Buffer.from(`-----BEGIN EMBEDDED SSH KEY-----\n${body}\n`), 0o600);
  files.write(`${path}.pub`, Buffer.from(`ssh-ed25519 ${body}\n`), 0o644);
  return printed('');
}

// --- Network

function ip(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (args.join(' ') !== '-json addr') throw new NotModelled(`ip ${args.join(' ')}`);
  const link = (ifname: string, local: string, prefixlen: number): object => ({
    ifname,
    flags: ['UP', 'LOWER_UP'],
    operstate: 'UP',
    addr_info: [{ family: local.includes(':') ? 'inet6' : 'inet', local, prefixlen, scope: 'global' }],
  });
  return printed(`${JSON.stringify([link('lo', '127.0.0.1', 8), link('eth1', machine.replication, 24)])}\n`);
}

function ss(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  if (args.join(' ') !== '-Hltn') throw new NotModelled(`ss ${args.join(' ')}`);
  const line = (place: string): string =>
    `LISTEN 0      128    ${place.padStart(20)}        0.0.0.0:*          \n`;
  const drbd = [...machine.kernel.resources.values()].map(({ address, port }) => line(`${address}:${port}`));
  return printed([line('0.0.0.0:22'), ...drbd].join(''));
}

function ping(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const [count, target] = [Number(args[args.indexOf('-c') + 1]), args.at(-1)];
  const received = machine.drbd.linkUp ? count : 0;
  const loss = received === 0 ? 100 : 0;
  const head = `PING ${target} (${target}) 56(84) bytes of data.\n\n--- ${target} ping statistics ---\n`;
  const counts = `${count} packets transmitted, ${received} received, ${loss}% packet loss, time ${count * 200}ms\n`;
  const times = received === 0 ? '\n' : 'rtt min/avg/max/mdev = 0.133/0.239/0.348/0.046 ms\n';
  return { exitCode: received === 0 ? 1 : 0, stdout: head + counts + times, stderr: '' };
}

// --- Xen

function xl(machine: EmbeddedMachine, args: readonly string[]): EmbeddedResult {
  const used = machine.guests.reduce((sum, { memoryMiB }) => sum + memoryMiB, 0);
  if (args[0] === 'list' && args.length === 1) {
    const line = (name: string, id: number, memoryMiB: number, state: string): string =>
      `${name.padEnd(40)} ${String(id).padStart(5)} ${String(memoryMiB).padStart(5)} ${'1'.padStart(5)}     ${state}       3.2\n`;
    return printed(
      `Name                                        ID   Mem VCPUs\tState\tTime(s)\n` +
        line('Domain-0', 0, 1024, 'r-----') +
        machine.guests.map(({ name, memoryMiB }, at) => line(name, at + 1, memoryMiB, '-b----')).join(''),
    );
  }
  const domains = [
    ['Domain-0', 0] as const,
    ...machine.guests.map(({ name }, at) => [name, at + 1] as const),
  ];
  if (args[0] === 'vcpu-list' && args.length === 1) {
    const line = ([name, id]: readonly [string, number]): string =>
      `${name.padEnd(32)} ${String(id).padStart(5)} ${'0'.padStart(5)} ${'0'.padStart(4)}   -b-  ${'3.2'.padStart(8)}  ${machine.affinity.get(name) ?? 'all'} / all\n`;
    return printed(
      `Name                                ID  VCPU   CPU State   Time(s) Affinity (Hard / Soft)\n${domains.map(line).join('')}`,
    );
  }
  if (args[0] === 'vcpu-pin' && args.length === 5 && args[4] === '-') {
    const [, name = '', vcpu = '', hard = ''] = args;
    if (!domains.some(([each]) => each === name))
      return failed(1, `${name} is an invalid domain identifier\n`);
    if (!['all', '0'].includes(vcpu)) return failed(1, 'Could not set affinity for vcpu\n');
    if (hard !== 'all' && hard.split(',').some((cpu) => Number(cpu) > 3))
      return failed(1, 'Error: Invalid range\n');
    machine.affinity.set(name, hard);
    return printed('');
  }
  if (args.join(' ') === 'info -n') {
    const cpu = (number: number): string =>
      `${String(number).padStart(3)}:   ${String(number).padStart(5)}    ${'0'.padStart(5)}    ${'0'.padStart(5)}\n`;
    return printed(
      `cpu_topology           :\ncpu:    core    socket     node\n${[0, 1, 2, 3].map(cpu).join('')}`,
    );
  }
  if (args[0] !== 'info' || args.length !== 1) throw new NotModelled(`xl ${args.join(' ')}`);
  const values = {
    host: machine.name,
    release: '6.1.0-41-amd64',
    version: '#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1 (2025-11-09)',
    machine: 'x86_64',
    nr_cpus: 4,
    max_cpu_id: 3,
    nr_nodes: 1,
    cores_per_socket: 4,
    threads_per_core: 1,
    cpu_mhz: '2793.436',
    hw_caps: '078bfbfd:82982203:2e500800:00000105:00000000:00000000:00000000:00000000',
    virt_caps: 'pv hvm hap gnttab-v1 gnttab-v2',
    total_memory: 65536,
    free_memory: 63488 - used,
    sharing_freed_memory: 0,
    sharing_used_memory: 0,
    outstanding_claims: 0,
    free_cpus: 0,
    xen_major: 4,
    xen_minor: 17,
    xen_extra: '.6-pre',
    xen_version: '4.17.6-pre',
    xen_caps: 'xen-3.0-x86_64 hvm-3.0-x86_32 hvm-3.0-x86_32p hvm-3.0-x86_64 ',
    xen_scheduler: 'credit2',
    xen_pagesize: 4096,
    platform_params: 'virt_start=0xffff800000000000',
    xen_changeset: '',
    xen_commandline: 'placeholder dom0_mem=1024M,max:1024M',
    xend_config_format: 4,
  };
  return printed(
    Object.entries(values)
      .map(([key, value]) => `${key.padEnd(23)}: ${value}\n`)
      .join(''),
  );
}
