/**
 * What DRBD says of itself: `drbdsetup events2 --now --statistics`, `drbdmeta ... get-gi`, /proc/drbd and
 * `drbdadm --version`. Sources: drbdsetup(8) of 8.4 and 9, and the printing code of drbd-utils
 * (user/v84/drbdsetup.c, user/v9/drbdsetup_events2.c, user/shared/drbdmeta.c).
 *
 *     exists resource name:web role:Secondary suspended:no write-ordering:flush
 *     exists connection name:web peer-node-id:0 conn-name:peer connection:Connected role:Primary congested:no
 *     exists device name:web volume:0 minor:1000 disk:UpToDate read:0 written:0
 *     exists peer-device name:web peer-node-id:0 conn-name:peer volume:0 replication:Established ...
 *     exists -
 *
 * Amounts are in KiB. The last line says that the state is complete.
 */
import {
  ConnectionStates,
  DiskStates,
  type MetaDataState,
  ReplicationStates,
  Roles,
  type RunningConnection,
  type RunningResource,
} from '../facts.js';
import { MINOR_MAX } from '../names.js';
import { type Line, linesOf, onlyLine, ParseError } from './text.js';

const KIB = 1024;
const AMOUNT_MAX_KIB = Number.MAX_SAFE_INTEGER / KIB;
/** 8.4 and 9 have volumes 0 to 65535. */
const VOLUME_MAX = 65535;

/**
 * The complete current state, by resource.
 *
 * @throws ParseError also when the output breaks off
 */
export function parseEvents2(text: string): RunningResource[] {
  const tool = 'drbdsetup events2';
  const resources = new Map<string, RunningResource>();
  const lines = linesOf(tool, text);
  let complete = false;
  for (const line of lines) {
    if (complete) line.fail('the state was complete before it');
    const [action, kind, ...pairs] = line.text.trim().split(' ');
    if (action !== 'exists') line.fail('an event "exists" is expected');
    if (kind === '-' && pairs.length === 0) {
      complete = true;
      continue;
    }
    const fields = fieldsOf(line, pairs);
    const name = field(line, fields, 'name');
    switch (kind) {
      case 'resource':
        if (resources.has(name)) line.fail('a second resource of the same name');
        resources.set(name, {
          name,
          role: line.oneOf(fields.get('role'), Roles, 'role'),
          suspended: field(line, fields, 'suspended'),
          volumes: {},
          connections: [],
        });
        break;
      case 'device':
        readDevice(line, fields, resourceOf(line, resources, name));
        break;
      case 'connection':
        connectionOf(line, fields, resourceOf(line, resources, name), 'make');
        break;
      case 'peer-device':
        readPeerDevice(line, fields, connectionOf(line, fields, resourceOf(line, resources, name), 'find'));
        break;
      case 'path':
        // DRBD 9 only; what matters of it is in the connection.
        resourceOf(line, resources, name);
        break;
      default:
        line.fail(`unknown kind of object ${JSON.stringify(kind ?? '')}`);
    }
  }
  if (!complete) {
    const last = lines[lines.length - 1];
    throw new ParseError(
      tool,
      'the output breaks off before "exists -"',
      last?.text ?? '',
      last?.number ?? 1,
    );
  }
  return [...resources.values()];
}

type Fields = ReadonlyMap<string, string>;

function fieldsOf(line: Line, pairs: readonly string[]): Fields {
  const fields = new Map<string, string>();
  for (const pair of pairs) {
    const colon = pair.indexOf(':');
    if (colon < 1) line.fail(`key:value is expected, not ${JSON.stringify(pair)}`);
    fields.set(pair.slice(0, colon), pair.slice(colon + 1));
  }
  return fields;
}

function field(line: Line, fields: Fields, key: string): string {
  const value = fields.get(key);
  return value === undefined || value === '' ? line.fail(`no ${key}`) : value;
}

function resourceOf(
  line: Line,
  resources: ReadonlyMap<string, RunningResource>,
  name: string,
): RunningResource {
  return resources.get(name) ?? line.fail(`no resource ${JSON.stringify(name)} before it`);
}

function readDevice(line: Line, fields: Fields, resource: RunningResource): void {
  const volume = line.integer(fields.get('volume'), 'the volume', VOLUME_MAX);
  const size = fields.get('size');
  const backing = fields.get('backing_dev');
  resource.volumes[volume] = {
    volume,
    minor: line.integer(fields.get('minor'), 'the minor', MINOR_MAX),
    disk: line.oneOf(fields.get('disk'), DiskStates, 'disk state'),
    ...(size === undefined ? {} : { sizeBytes: line.integer(size, 'the size', AMOUNT_MAX_KIB) * KIB }),
    ...(backing === undefined || backing === 'none' ? {} : { backingDevice: backing }),
  };
}

/** 8.4 has one connection and gives it no name of its own; 9 tells them apart by the peer's node id. */
function connectionOf(
  line: Line,
  fields: Fields,
  resource: RunningResource,
  what: 'make' | 'find',
): RunningConnection {
  const peer = fields.get('conn-name') ?? 'peer';
  const found = resource.connections.find((connection) => connection.peer === peer);
  if (what === 'find') return found ?? line.fail(`no connection ${JSON.stringify(peer)} before it`);
  if (found) line.fail('a second connection of the same name');
  const connection: RunningConnection = {
    peer,
    connection: line.oneOf(fields.get('connection'), ConnectionStates, 'connection state'),
    peerRole: line.oneOf(fields.get('role'), Roles, 'role'),
    volumes: {},
  };
  resource.connections.push(connection);
  return connection;
}

function readPeerDevice(line: Line, fields: Fields, connection: RunningConnection): void {
  const volume = line.integer(fields.get('volume'), 'the volume', VOLUME_MAX);
  // 8.4 leaves out-of-sync away where it is 0; that the statistics are there at all shows in `received`.
  if (fields.get('received') === undefined) line.fail('no statistics');
  connection.volumes[volume] = {
    volume,
    replication: line.oneOf(fields.get('replication'), ReplicationStates, 'replication state'),
    peerDisk: line.oneOf(fields.get('peer-disk'), DiskStates, 'disk state'),
    resyncSuspended: field(line, fields, 'resync-suspended'),
    outOfSyncBytes: line.integer(fields.get('out-of-sync') ?? '0', 'out-of-sync', AMOUNT_MAX_KIB) * KIB,
  };
}

/** `create-md` writes this as the current generation: no data was ever behind it (UUID_JUST_CREATED). */
const JUST_CREATED = '0000000000000004';

/**
 * Reads what `drbdmeta - FORMAT DEVICE flex-external get-gi` printed where it found meta-data: four
 * generations and the flags (7 for v08, more for v09), joined by colons. It prints nothing and exits with 1
 * where there is none.
 *
 * @throws ParseError
 */
export function parseDrbdmeta(text: string): MetaDataState & { state: 'valid' } {
  const line = onlyLine('drbdmeta', text);
  const words = line.text.trim().split(':');
  const uuids = words.slice(0, 4);
  const flags = words.slice(4);
  if (uuids.length !== 4 || uuids.some((uuid) => !/^[0-9a-fA-F]{16}$/.test(uuid)))
    line.fail('four generations are expected');
  if (flags.length < 7 || flags.length > 16) line.fail('7 to 16 flags are expected');
  return {
    state: 'valid',
    format: flags.length === 7 ? 'v08' : 'v09',
    uuids: uuids.map((uuid) => uuid.toLowerCase()),
    flags: flags.map((flag) => line.integer(flag, 'a flag', 1)),
    fresh: uuids[0] === JUST_CREATED,
  };
}

/**
 * The version in the first line of /proc/drbd.
 *
 * @throws ParseError
 */
export function parseProcDrbd(text: string): string {
  const line = linesOf('/proc/drbd', text)[0];
  if (!line) throw new ParseError('/proc/drbd', 'nothing printed', '', 1);
  return (
    /^version: ([0-9]+\.[0-9]+\.[0-9]+\S*) \(api:/.exec(line.text)?.[1] ??
    line.fail('the version is expected')
  );
}

/**
 * The version of drbd-utils in `drbdadm --version`, which prints shell assignments.
 *
 * @throws ParseError
 */
export function parseDrbdUtilsVersion(text: string): string {
  const lines = linesOf('drbdadm --version', text);
  for (const line of lines) {
    const version = /^DRBDADM_VERSION=(.*)$/.exec(line.text)?.[1];
    if (version === undefined) continue;
    return /^[0-9]+\.[0-9]+\.[0-9]+\S*$/.test(version) ? version : line.fail('a version is expected');
  }
  throw new ParseError('drbdadm --version', 'no DRBDADM_VERSION', lines[0]?.text ?? '', 1);
}
