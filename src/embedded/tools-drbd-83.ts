/**
 * Embedded drbd-utils 9.22 where the kernel has DRBD 8.3 with protocol D: drbdadm hands over to drbdadm-83, which takes
 * the options for drbdsetup and drbdmeta before the command, behind `--`, ignores those behind it, and knows no
 * volumes; drbdsetup has no events2; and /proc/drbd says how it is.
 */
import type { EmbeddedResource } from './drbd-config.js';
import type { EmbeddedMachine } from './machine.js';
import { failed, NotModelled, printed } from './results.js';
import type { EmbeddedResult } from './sshd.js';

const GLOBAL = '/etc/drbd.d/global_common.conf';
const VERSION = [
  'DRBDADM_BUILDTAG=GIT-hash:\\ embedded\\ build',
  'DRBDADM_API_VERSION=88',
  'DRBD_KERNEL_VERSION_CODE=0x08030b',
  'DRBDADM_VERSION_CODE=0x091600',
  'DRBDADM_VERSION=9.22.0',
  '',
].join('\n');

/**
 * @param asInEightFour the same for 8.4, to which the call is translated
 * @param configured reads the resources in the configuration
 */
export function drbdadm83(
  machine: EmbeddedMachine,
  args: readonly string[],
  asInEightFour: (machine: EmbeddedMachine, args: readonly string[]) => EmbeddedResult,
  configured: (machine: EmbeddedMachine) => EmbeddedResource[],
): EmbeddedResult {
  if (args[0] === '--version') return printed(VERSION);
  if (machine.files.text(GLOBAL) === machine.packagedFiles[GLOBAL]) {
    return failed(
      10,
      "drbd.d/global_common.conf:12: Parse error: 'dialog-refresh' expected, but got another word\n",
    );
  }
  const resources = configured(machine);
  if (resources.length === 0) return failed(1, 'no resources defined!\n');
  const isDryRun = args[0] === '--dry-run';
  const words = args.slice(isDryRun ? 1 : 0);
  const options: string[] = [];
  if (words[0] === '--') {
    words.shift();
    while (words[0]?.startsWith('--') === true) options.push(words.shift() ?? '');
  }
  const [command = '', ...behind] = words;
  if (command === 'dump-xml') return printed(dumpXml(resources));
  const [name = ''] = behind.filter((word) => !word.startsWith('--'));
  if (!resources.some((resource) => resource.name === name)) {
    return failed(1, `'${name}' not defined in your config.\n`);
  }
  switch (`${isDryRun ? '--dry-run ' : ''}${[...options, command].join(' ')}`) {
    case '--dry-run adjust':
      return asInEightFour(machine, ['--dry-run', 'adjust', name]);
    case '--force create-md':
      return asInEightFour(machine, ['create-md', '--force', `${name}/0`]);
    case '--clear-bitmap new-current-uuid':
      return asInEightFour(machine, ['new-current-uuid', '--clear-bitmap', `${name}/0`]);
    case '--overwrite-data-of-peer primary':
      return asInEightFour(machine, ['primary', '--force', name]);
    case 'adjust':
    case 'primary':
    case 'secondary':
    case 'down':
      return asInEightFour(machine, [command, name]);
    default:
      throw new NotModelled(`drbdadm-83 ${args.join(' ')}`);
  }
}

export function drbdsetup83(): EmbeddedResult {
  return {
    exitCode: 20,
    stdout: '\nUSAGE: drbdsetup device command arguments options\n\ninvalid command\n',
    stderr: '',
  };
}

function dumpXml(resources: EmbeddedResource[]): string {
  const lines = resources.flatMap(({ name, hosts, volumes }) => [
    `    <resource name="${name}">`,
    ...hosts.flatMap((host) => [
      `        <host name="${host.name}">`,
      ...volumes.flatMap(({ minor, disk, metaDisk }) => [
        `            <device minor="${minor}"></device>`,
        `            <disk>${disk}</disk>`,
        `            <address family="${host.family}" port="${host.port}">${host.address}</address>`,
        `            <flexible-meta-disk>${metaDisk}</flexible-meta-disk>`,
      ]),
      '        </host>',
    ]),
    '    </resource>',
  ]);
  return [
    '<config file="/etc/drbd.conf">',
    '    <common protocol="D">',
    '    </common>',
    ...lines,
    '</config>',
    '',
  ].join('\n');
}

/** `/proc/drbd` of the module with protocol D; see core/protocol-d/proc-drbd.ts. */
export function procDrbd83(machine: EmbeddedMachine): string {
  machine.drbd.look();
  const devices = [...machine.kernel.resources.values()].flatMap((resource) => {
    const peer = machine.drbd.peerOf(machine.kernel, resource.name);
    return [...resource.volumes.values()].map(({ volume, minor, disk, replication, meta }) => {
      const isThere = replication !== 'Off' && replication !== 'Established';
      const connection = resource.connection === 'Connecting' ? 'WFConnection' : resource.connection;
      const cs = isThere ? replication : connection;
      const peerDisk = peer?.volumes.get(volume)?.disk ?? 'DUnknown';
      const oos = (meta.metaData?.outOfSyncBytes ?? 0) / 1024;
      const text =
        `${String(minor).padStart(2)}: cs:${cs} ro:${resource.role}/${peer?.role ?? 'Unknown'} ds:${disk}/${peerDisk} D r-----\n` +
        `    ns:0 nr:0 dw:0 dr:0 al:0 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f def:0 chkpt:1 oos:${oos}\n`;
      return { minor, text };
    });
  });
  devices.sort((a, b) => a.minor - b.minor);
  return `version: 8.3.11 (api:88/proto:86-96)\nGIT-hash: embedded build by embedded\n\n${devices.map(({ text }) => text).join('')}`;
}
