/**
 * The plan of `setup`: from what was observed of a pair's two hosts to the next round of steps.
 *
 * Order, because each needs the one before:
 *   host:    directories, diversions, files, systemd's reload, modules, certificate, the peer's certificate, keys
 *            for SSH and the peer's key
 *   domain:  LVs, zeroes on new ones, device-mapper devices, meta-data, the unit (which brings DRBD up)
 *   both:    connected, then the decision who has the data, then the first sync
 *
 * Data is safe by these rules. Meta-data is only created where there is none, and only on a volume that is
 * known to be zero, is the source, holds nothing, or was named to be overwritten. The first sync is skipped
 * only where both sides are known to be zero, and that knowledge (the tag `zeroed`) is taken away before
 * anything can rely on it twice. Nothing here ever promotes by force a resource that either side has data
 * in according to DRBD.
 *
 * Nothing of a domain is changed while it is protected: two hosts that read two configurations in one term could
 * ask two arbiters.
 */
import { ExitCode, OperatorError, OperatorErrors } from '../errors.js';
import { changeProblems } from './change.js';
import { contentProblem } from './content.js';
import type { DiskState, LogicalVolume, RunningResource } from '../facts.js';
import { requiredModules, TLS_CERTIFICATE, XEN_SCRIPTS } from '../facts.js';
import type { DomainLayout, HostConfig, Pair, VolumeLayout } from '../model.js';
import {
  BITMAP_WORD_BYTES,
  dataBytes,
  lvPath,
  mapperBytes,
  mapperPath,
  metaBytes,
  Paths,
  SPARE_BYTES,
  Tags,
  unitName,
} from '../names.js';
import { formatSize } from '../units.js';
import { createMetaData, promoteByForce, skipFirstSync } from './drbdadm.js';
import { textFile, type DesiredFile } from './files.js';
import {
  linkKeyLine,
  linkSocketPath,
  needsSshKey,
  ROOT_SSH,
  SSH_DIRECTORY,
  SSH_KEY,
  SSH_PUBLIC_KEY,
  withKeyLines,
} from './ssh.js';
import {
  authorizedKeysStep,
  commandStep,
  LONG_MS,
  MEDIUM_MS,
  type Round,
  type Step,
  type Wait,
} from './step.js';
import {
  known,
  peerCertificatePath,
  protectionOn,
  running,
  TLS_KEY,
  type HostView,
  type Views,
} from './view.js';

/** What one pair has to look like. */
export interface Desired {
  pair: Pair;
  layouts: DomainLayout[];
  /** By host name. */
  files: Record<string, DesiredFile[]>;
}

export interface PlanOptions {
  /** Volumes that may lose what is on them, as `HOST:VG/LV`. */
  overwrite: ReadonlySet<string>;
}

/** The next round for one pair. Empty lanes and no waits: everything is as it has to be. */
export function planSetup(desired: Desired, views: Views, options: PlanOptions): Round {
  const lanes = desired.pair.hosts.map((host) => hostLane(desired, views, host, options));
  if (lanes.some((lane) => lane.length > 0))
    return { lanes: lanes.filter((lane) => lane.length > 0), waits: [] };
  const waits: Wait[] = [];
  const joint: Step[][] = [];
  for (const layout of desired.layouts) {
    const { steps, wait } = jointLane(layout, views);
    if (steps.length > 0) joint.push(steps);
    if (wait !== undefined) waits.push(wait);
  }
  refuseProtected(desired, views, joint.flat());
  return { lanes: joint, waits };
}

/** Collects the steps of a lane while each changes the view that the following ones are planned from. */
class Lane {
  readonly steps: Step[] = [];
  readonly views: Views;

  constructor(views: Views) {
    this.views = structuredClone(views);
  }

  view(host: string): HostView {
    return viewOf(this.views, host);
  }

  add(step: Step): void {
    this.steps.push(step);
    step.effect(this.view(step.host), this.views);
  }
}

function viewOf(views: Views, host: string): HostView {
  const view = views[host];
  if (view === undefined) throw new Error(`no view of ${host}`);
  return view;
}

function hostLane(desired: Desired, views: Views, host: HostConfig, options: PlanOptions): Step[] {
  refuseChanges(desired, viewOf(views, host.name));
  const lane = new Lane(views);
  planDirectories(lane, host.name, desired);
  planDiversions(lane, host.name, desired);
  planFiles(lane, host.name, desired);
  planModules(lane, host.name, desired.layouts);
  planCertificates(lane, host.name, desired);
  planSsh(lane, host.name, desired);
  for (const layout of desired.layouts) {
    // What is on a volume that is activated in this round shows only in the next one.
    if (!planVolumes(lane, host.name, layout)) continue;
    planMetaData(lane, host.name, layout, options);
    planUnit(lane, host.name, layout);
  }
  refuseProtected(desired, views, lane.steps);
  return lane.steps;
}

/** Whatever of a domain's steps is harmless under a running protection isn't worth finding out under one. */
function refuseProtected(desired: Desired, views: Views, steps: readonly Step[]): void {
  const problems = desired.layouts.flatMap(({ domain: { name }, hosts }) => {
    const [step, ...more] = steps.filter(({ domain }) => domain === name);
    if (step === undefined) return [];
    const reasons = hosts.flatMap((host) => {
      const reason = protectionOn(viewOf(views, host.name), name);
      return reason === undefined ? [] : [`${reason} on ${host.name}`];
    });
    if (reasons.length === 0) return [];
    const others = more.length === 0 ? '' : ` and ${more.length} more`;
    return [
      new OperatorError(
        `${name} on ${step.host}: can't be changed while it is protected (${reasons.join(', ')}); needed would be: ` +
          `${step.title}${others}; nothing was changed. Run "remus-drbd unprotect ${name}" first, then setup, ` +
          `then protect.`,
        ExitCode.refused,
      ),
    ];
  });
  if (problems.length > 0) throw new OperatorErrors(problems);
}

/** Nothing of a domain is touched while a part of its change can't be made. */
function refuseChanges(desired: Desired, view: HostView): void {
  const problems = desired.layouts.flatMap((layout) => {
    const installed = view.installed[layout.domain.name];
    if (installed === undefined) return [];
    return changeProblems(installed, layout).map(
      (problem) =>
        new OperatorError(
          `${layout.domain.name} on ${view.facts.host}: can't be changed while it is set up: ${problem}`,
          ExitCode.refused,
        ),
    );
  });
  if (problems.length > 0) throw new OperatorErrors(problems);
}

function planDirectories(lane: Lane, host: string, desired: Desired): void {
  const { tls, ssh } = lane.view(host);
  addDirectory(lane, host, Paths.tls, tls.directoryMode, (view) => {
    view.tls.directoryMode = 0o700;
  });
  if (!needsSshKey(desired.pair)) return;
  addDirectory(lane, host, SSH_DIRECTORY, ssh.directoryMode, (view) => {
    view.ssh.directoryMode = 0o700;
  });
}

/** A folder of ours that only root may look into. */
function addDirectory(
  lane: Lane,
  host: string,
  path: string,
  mode: number | undefined,
  made: (view: HostView) => void,
): void {
  if (mode === 0o700) return;
  lane.add(
    commandStep(
      host,
      undefined,
      `make ${path}`,
      mode === undefined ? 'it is not there' : `its mode is ${mode.toString(8)}, 700 is required`,
      ['install', '-d', '-m', '0700', path],
      (view) => {
        made(view);
        view.folders[Paths.etc] ??= [];
      },
    ),
  );
}

/** The distribution's files that ours take the place of; dpkg keeps them aside over upgrades. */
function divertedPaths(files: readonly DesiredFile[]): string[] {
  const paths: string[] = [...XEN_SCRIPTS, Paths.drbdGlobal];
  return paths.filter((path) => files.some((file) => file.path === path));
}

function planDiversions(lane: Lane, host: string, desired: Desired): void {
  const view = lane.view(host);
  const diversions = known(view.facts.diversions, host, 'the list of diversions');
  for (const path of divertedPaths(filesFor(desired, view))) {
    if (diversions.some((diversion) => diversion.path === path)) continue;
    const aside = `${path}.distrib`;
    lane.add(
      commandStep(
        host,
        undefined,
        `keep the distribution's ${path} aside`,
        'it is not diverted',
        ['dpkg-divert', '--local', '--rename', '--divert', aside, '--add', path],
        (after) => {
          known(after.facts.diversions, host, 'the list of diversions').push({ path, divertedTo: aside });
          delete after.files[path];
        },
      ),
    );
  }
}

/** The files for a host, without DRBD's global file where its owner has written one of his own. */
function filesFor(desired: Desired, view: HostView): DesiredFile[] {
  const files = desired.files[view.facts.host] ?? [];
  return view.ownGlobalFile ? files.filter((file) => file.path !== Paths.drbdGlobal) : files;
}

function planFiles(lane: Lane, host: string, desired: Desired): void {
  for (const file of filesFor(desired, lane.view(host))) addFile(lane, host, file);
  if (!lane.view(host).reloadNeeded) return;
  lane.add(
    commandStep(
      host,
      undefined,
      'let systemd read its units again',
      'a unit file is newer than what systemd has read',
      ['systemctl', 'daemon-reload'],
      (view) => {
        view.reloadNeeded = false;
      },
    ),
  );
}

function addFile(lane: Lane, host: string, file: DesiredFile): void {
  const present = lane.view(host).files[file.path];
  if (present?.sha256 === file.sha256 && present.mode === file.mode) return;
  const reason =
    present === undefined
      ? 'it is not there'
      : present.sha256 === file.sha256
        ? `its mode is ${present.mode.toString(8)}, ${file.mode.toString(8)} is required`
        : 'its content differs';
  lane.add({
    host,
    ...(file.domain === undefined ? {} : { domain: file.domain }),
    title: `write ${file.path}`,
    reason,
    action: { kind: 'write', path: file.path, mode: file.mode, content: file.content },
    deadlineMs: MEDIUM_MS,
    effect: (view) => {
      view.files[file.path] = { sha256: file.sha256, mode: file.mode };
      if (file.path.startsWith('/etc/systemd/system/')) view.reloadNeeded = true;
    },
  });
}

function planModules(lane: Lane, host: string, layouts: readonly DomainLayout[]): void {
  const { loadedModules, availableModules } = lane.view(host).facts;
  const available = known(availableModules, host, 'the list of kernel modules');
  const missing = requiredModules(layouts[0]?.domain.engine ?? 'journal').filter(
    (name) => !loadedModules.includes(name) && available[name]?.builtIn !== true,
  );
  if (missing.length === 0) return;
  lane.add(
    commandStep(
      host,
      undefined,
      'load kernel modules',
      `not loaded: ${missing.join(', ')}`,
      ['modprobe', '--all', ...missing],
      (view) => {
        view.facts.loadedModules.push(...missing);
      },
    ),
  );
}

/** Stands for a certificate that this run will make, in a dry run. */
function certificateToCome(host: string): string {
  return `(the certificate of ${host}, made in this run)\n`;
}

function planCertificates(lane: Lane, host: string, desired: Desired): void {
  if (lane.view(host).tls.certificate === undefined) {
    lane.add(
      commandStep(
        host,
        undefined,
        'make the private key and certificate',
        'there is none, or the two do not fit together',
        [
          ...[
            'openssl',
            'req',
            '-x509',
            '-newkey',
            'ec',
            '-pkeyopt',
            'ec_paramgen_curve:prime256v1',
            '-nodes',
          ],
          // Certificates are pinned, never chained, so that their end would only be an outage.
          ...['-days', '36500', '-subj', `/CN=${host}`, '-addext', `subjectAltName=DNS:${host}`],
          ...['-keyout', TLS_KEY, '-out', TLS_CERTIFICATE],
        ],
        (view) => {
          view.tls.certificate = certificateToCome(host);
        },
      ),
    );
  }
  for (const peer of desired.pair.hosts) {
    if (peer.name === host) continue;
    const certificate = lane.view(peer.name).tls.certificate;
    // Made in this round: the next one sees it.
    if (certificate === undefined) continue;
    addFile(lane, host, peerCertificateFile(peer.name, certificate));
  }
}

function peerCertificateFile(peer: string, certificate: string): DesiredFile {
  return textFile(peerCertificatePath(peer), 0o600, certificate);
}

/** The title of the step that makes a host's key for SSH. */
export const KEY_TITLE = 'make the key for SSH';

/** Stands for a public key that this run will make, in a dry run. */
function publicKeyToCome(host: string): string {
  return `(the public key of ${host}, made in this run)`;
}

function planSsh(lane: Lane, host: string, desired: Desired): void {
  const { pair } = desired;
  if (needsSshKey(pair)) planSshKey(lane, host);
  const peers = pair.link === 'ssh' ? pair.hosts.filter(({ name }) => name !== host) : [];
  const lines = peers.flatMap((peer) => {
    const { publicKey } = lane.view(peer.name).ssh;
    // Made in this round: the next one sees it.
    const sockets = desired.layouts.map(({ domain }) => linkSocketPath(domain.name));
    return publicKey === undefined ? [] : [linkKeyLine(peer, publicKey, sockets)];
  });
  // Until the peer has its key, a line for an older one is of no harm, and goes with it.
  if (lines.length < peers.length) return;
  const { authorizedKeys, rootDirectory } = lane.view(host).ssh;
  const text = withKeyLines(authorizedKeys, lines);
  if (text === undefined) return;
  if (!rootDirectory) {
    lane.add(
      commandStep(
        host,
        undefined,
        `make ${ROOT_SSH}`,
        'it is not there',
        ['install', '-d', '-m', '0700', ROOT_SSH],
        (view) => {
          view.ssh.rootDirectory = true;
        },
      ),
    );
  }
  const why =
    lines.length > 0 ? 'the key of the peer is not in it' : 'a key is in it that the link does not use';
  lane.add(authorizedKeysStep(lane.view(host), text, why));
}

function planSshKey(lane: Lane, host: string): void {
  const { ssh, files } = lane.view(host);
  const present = files[SSH_KEY];
  if (present !== undefined && present.mode !== 0o600) {
    // ssh-keygen and ssh read no key that others can read, so this comes before any other thought of it.
    lane.add(
      commandStep(
        host,
        undefined,
        `make ${SSH_KEY} readable for root only`,
        `its mode is ${present.mode.toString(8)}, 600 is required`,
        ['chmod', '0600', SSH_KEY],
        (view) => {
          view.files[SSH_KEY] = { ...present, mode: 0o600 };
        },
      ),
    );
    return;
  }
  if (ssh.publicKey !== undefined) return;
  const { sshPublicKey } = lane.view(host).facts;
  if (!sshPublicKey.known && sshPublicKey.cause === 'not-installed') {
    throw new OperatorError(
      `${host}: ${sshPublicKey.reason}, and the arbiter or the link needs a key for SSH; nothing was changed. ` +
        `Install it: apt install openssh-client`,
      ExitCode.refused,
    );
  }
  if (present !== undefined) {
    lane.add(
      commandStep(
        host,
        undefined,
        `remove ${SSH_KEY}`,
        'it is no key that can be read',
        ['rm', '-f', '--', SSH_KEY, SSH_PUBLIC_KEY],
        (view) => {
          delete view.files[SSH_KEY];
        },
      ),
    );
  }
  lane.add(
    commandStep(
      host,
      undefined,
      KEY_TITLE,
      'there is none',
      ['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', `remus-drbd:${host}`, '-f', SSH_KEY],
      (view) => {
        view.ssh.publicKey = publicKeyToCome(host);
        view.files[SSH_KEY] = { sha256: '', mode: 0o600 };
      },
    ),
  );
}

/** False when a volume had to be activated first. */
function planVolumes(lane: Lane, host: string, layout: DomainLayout): boolean {
  const { domain } = layout;
  const inactive = activateVolumes(lane, host, layout);
  if (inactive > 0) return false;
  for (const volume of layout.volumes) {
    if (volume.makeData) {
      const size = volume.sizeBytes ?? 0;
      const spare = volume.role === 'disk' ? SPARE_BYTES : 0;
      addVolume(lane, host, domain.name, volume.volumeGroup, volume.dataLv, size, true, spare);
    } else {
      planSpare(lane, host, domain.name, volume);
    }
    const data = findVolume(lane.view(host), volume.volumeGroup, volume.dataLv);
    addVolume(
      lane,
      host,
      domain.name,
      volume.volumeGroup,
      volume.metaLv,
      metaBytes(volume.sizeBytes ?? (data === undefined ? 0 : dataBytes(data.sizeBytes, data.tags))),
      false,
    );
  }
  const { journal } = layout;
  if (journal !== undefined) {
    addVolume(lane, host, domain.name, journal.volumeGroup, journal.lv, journal.sizeBytes, false);
  }
  for (const volume of layout.volumes) planZeroes(lane, host, domain.name, volume);
  planMappers(lane, host, layout);
  return true;
}

/** Activates what is there and is not active; returns how many that were. */
function activateVolumes(lane: Lane, host: string, layout: DomainLayout): number {
  const { journal } = layout;
  const names = layout.volumes.flatMap(({ volumeGroup, dataLv, metaLv }) => [
    { volumeGroup, name: dataLv },
    { volumeGroup, name: metaLv },
  ]);
  if (journal !== undefined) names.push({ volumeGroup: journal.volumeGroup, name: journal.lv });
  const inactive = names.filter(
    ({ volumeGroup, name }) => findVolume(lane.view(host), volumeGroup, name)?.active === false,
  );
  for (const { volumeGroup, name } of inactive) activate(lane, host, layout.domain.name, volumeGroup, name);
  return inactive.length;
}

function addVolume(
  lane: Lane,
  host: string,
  domain: string,
  volumeGroup: string,
  name: string,
  sizeBytes: number,
  holdsData: boolean,
  spareBytes = 0,
): void {
  const lvBytes = sizeBytes + spareBytes;
  const found = findVolume(lane.view(host), volumeGroup, name);
  if (found !== undefined) {
    refuseForeign(host, domain, found, lvBytes, sizeBytes);
    return;
  }
  const tags: string[] = holdsData ? [Tags.made, Tags.fresh] : [Tags.made];
  lane.add(
    commandStep(
      host,
      domain,
      `make LV ${volumeGroup}/${name} (${formatSize(sizeBytes)})`,
      'it is not there',
      [
        ...['lvcreate', '--yes', '--wipesignatures', 'y', '--zero', 'y'],
        ...tags.flatMap((tag) => ['--addtag', tag]),
        // LVM rounds up to whole extents.
        ...['--name', name, '--size', `${lvBytes}b`, volumeGroup],
      ],
      (view) => {
        known(view.facts.logicalVolumes, host, 'the list of LVs').push({
          volumeGroup,
          name,
          sizeBytes: wholeExtents(view, volumeGroup, lvBytes),
          tags,
          active: true,
          open: false,
          segmentType: 'linear',
        });
        view.facts.metaData[lvPath(volumeGroup, name)] = { state: 'none' };
      },
      MEDIUM_MS,
    ),
  );
}

/**
 * Gives a volume of the user's one extent more than its data, for `mapperBytes` to leave some of it out. How large
 * it was is noted first, so that a run that dies in between does not grow it twice.
 */
function planSpare(lane: Lane, host: string, domain: string, volume: VolumeLayout): void {
  const { volumeGroup, dataLv } = volume;
  const found = findVolume(lane.view(host), volumeGroup, dataLv);
  const meta = lane.view(host).facts.metaData[lvPath(volumeGroup, volume.metaLv)];
  const taken = meta?.state === 'valid' || meta?.state === 'busy' || running(lane.view(host), domain);
  if (found === undefined || taken) return;
  const bytes = dataBytes(found.sizeBytes, found.tags);
  const note = `${Tags.data}${bytes}`;
  if (!found.tags.includes(note)) {
    lane.add(changeTags(host, domain, volume, [], [note], 'how large it is counts after it was extended'));
  }
  if (mapperBytes(found.sizeBytes) >= bytes) return;
  lane.add(
    commandStep(
      host,
      domain,
      `extend LV ${volumeGroup}/${dataLv} by an extent`,
      `it is a multiple of ${formatSize(BITMAP_WORD_BYTES)}, of which DRBD 8.4 forgets the end`,
      ['lvextend', '--size', `${bytes + SPARE_BYTES}b`, `${volumeGroup}/${dataLv}`],
      (view) => {
        const after = findVolume(view, volumeGroup, dataLv);
        if (after) after.sizeBytes = wholeExtents(view, volumeGroup, bytes + SPARE_BYTES);
      },
      MEDIUM_MS,
    ),
  );
}

function refuseForeign(
  host: string,
  domain: string,
  found: LogicalVolume,
  neededBytes: number,
  askedBytes: number,
): void {
  const name = `${found.volumeGroup}/${found.name}`;
  if (!found.tags.includes(Tags.made)) {
    throw new OperatorError(
      `${domain} on ${host}: LV ${name} is there already and was not made by remus-drbd (it has no tag ` +
        `"${Tags.made}"); nothing was changed on it. Rename or remove it, or, if it is the guest's disk, name it in ` +
        `the configuration with "logicalVolume".`,
      ExitCode.refused,
    );
  }
  if (found.sizeBytes < neededBytes) {
    throw new OperatorError(
      `${domain} on ${host}: LV ${name} has ${formatSize(found.sizeBytes)}, the configuration asks for ` +
        `${formatSize(askedBytes)}; nothing was changed on it. Setup does not resize volumes that are in place: ` +
        `set the size in the configuration back, or see "Growing a disk" in docs/operations.md.`,
      ExitCode.refused,
    );
  }
}

function activate(lane: Lane, host: string, domain: string, volumeGroup: string, name: string): void {
  lane.add(
    commandStep(
      host,
      domain,
      `activate LV ${volumeGroup}/${name}`,
      'it is not active',
      ['lvchange', '--activate', 'y', `${volumeGroup}/${name}`],
      (view) => {
        const volume = findVolume(view, volumeGroup, name);
        if (volume) volume.active = true;
        // In a dry run it is taken for what it is named to be.
        view.facts.metaData[lvPath(volumeGroup, name)] = {
          state: 'valid',
          format: 'v08',
          uuids: [],
          flags: [],
          fresh: false,
        };
      },
      MEDIUM_MS,
    ),
  );
}

/** Zeroes on both sides are equal on both sides: what lets the first sync be left out. */
function planZeroes(lane: Lane, host: string, domain: string, volume: VolumeLayout): void {
  const found = findVolume(lane.view(host), volume.volumeGroup, volume.dataLv);
  if (!found?.tags.includes(Tags.fresh)) return;
  const path = lvPath(volume.volumeGroup, volume.dataLv);
  if (found.open) {
    throw new OperatorError(
      `${domain} on ${host}: ${path} has the tag "${Tags.fresh}" (its content is not known yet) but something has ` +
        `it open; it was not filled with zeroes. Find out what uses it (lsblk ${path}); if that is wanted, take the ` +
        `tag away: lvchange --deltag ${Tags.fresh} ${volume.volumeGroup}/${volume.dataLv}`,
      ExitCode.refused,
    );
  }
  const argv = ['blkdiscard', '--force', '--zeroout', '--verbose', '--step', String(2 ** 30), path];
  const step = commandStep(
    host,
    domain,
    `fill ${path} with zeroes`,
    'it is new and its content is not known',
    argv,
    () => undefined,
    LONG_MS,
  );
  lane.add({ ...step, action: { kind: 'run', argv, progress: true } });
  lane.add(changeTags(host, domain, volume, [Tags.fresh], [Tags.zeroed], 'it was filled with zeroes'));
}

function changeTags(
  host: string,
  domain: string,
  volume: Pick<VolumeLayout, 'volumeGroup' | 'dataLv'>,
  remove: string[],
  add: string[],
  reason: string,
): Step {
  const name = `${volume.volumeGroup}/${volume.dataLv}`;
  const words = [...remove.map((tag) => `-${tag}`), ...add.map((tag) => `+${tag}`)].join(' ');
  return commandStep(
    host,
    domain,
    `tag LV ${name} ${words}`,
    reason,
    [
      'lvchange',
      ...remove.flatMap((tag) => ['--deltag', tag]),
      ...add.flatMap((tag) => ['--addtag', tag]),
      name,
    ],
    (view) => {
      const found = findVolume(view, volume.volumeGroup, volume.dataLv);
      if (found) found.tags = [...found.tags.filter((tag) => !remove.includes(tag)), ...add];
    },
  );
}

function planMappers(lane: Lane, host: string, layout: DomainLayout): void {
  const present = known(lane.view(host).facts.dm, host, 'the device-mapper table');
  const missing = layout.volumes.filter(
    (volume) => !present.some((device) => device.name === volume.mapper && device.segments.length > 0),
  );
  if (missing.length === 0) return;
  lane.add(
    commandStep(
      host,
      layout.domain.name,
      `map the devices of ${layout.domain.name}`,
      `not there: ${missing.map((volume) => mapperPath(volume.mapper)).join(', ')}`,
      [Paths.devicesScript, 'map', layout.domain.name],
      (view) => {
        const devices = known(view.facts.dm, host, 'the device-mapper table');
        for (const volume of missing) {
          devices.push({
            name: volume.mapper,
            device: '',
            openCount: 0,
            suspended: false,
            segments: [{ startSector: 0, sectors: mapperBytes(volume.sizeBytes ?? 0) / 512, kind: 'linear' }],
          });
        }
      },
      MEDIUM_MS,
    ),
  );
}

function planMetaData(lane: Lane, host: string, layout: DomainLayout, options: PlanOptions): void {
  const domain = layout.domain.name;
  for (const volume of layout.volumes) {
    if (running(lane.view(host), domain)?.volumes[volume.volume] !== undefined) continue;
    const path = lvPath(volume.volumeGroup, volume.metaLv);
    const meta = lane.view(host).facts.metaData[path] ?? { state: 'absent' };
    if (meta.state === 'valid' || meta.state === 'busy') continue;
    if (meta.state !== 'none') {
      throw new OperatorError(
        `${domain} on ${host}: whether ${path} has DRBD meta-data could not be read` +
          `${meta.state === 'unreadable' ? ` (${meta.reason})` : ''}; none was made, because that would forget which ` +
          `side has the data. Try it by hand: drbdmeta - v08 ${path} flex-external get-gi`,
        ExitCode.refused,
      );
    }
    const problem = contentProblem(layout, host, volume, lane.view(host), options.overwrite);
    if (problem !== undefined) throw new OperatorError(problem, ExitCode.refused);
    lane.add(
      commandStep(
        host,
        domain,
        `make the DRBD meta-data of ${domain}/${volume.volume} on ${path}`,
        'there is none',
        createMetaData(layout.domain, volume.volume),
        (view) => {
          view.facts.metaData[path] = { state: 'valid', format: 'v08', uuids: [], flags: [], fresh: true };
        },
        MEDIUM_MS,
      ),
    );
  }
}

function planUnit(lane: Lane, host: string, layout: DomainLayout): void {
  const domain = layout.domain.name;
  const unit = unitName(domain);
  const state = known(lane.view(host).facts.units, host, 'the state of units')[unit];
  const attached = (view: HostView): void => {
    const resources = known(view.facts.drbdRunning, host, 'the running resources');
    const foreseen = foreseenResource(layout, view);
    const present = resources.find((resource) => resource.name === domain);
    if (present === undefined) resources.push(foreseen);
    else addVolumes(present, foreseen);
    view.adjust[domain] = [];
  };
  if (state?.activeState !== 'active' || state.fileState !== 'enabled') {
    lane.add(
      commandStep(
        host,
        domain,
        `enable and start ${unit}`,
        `it is ${state === undefined || state.fileState === '' ? 'unknown' : state.fileState} and ${state?.activeState ?? 'unknown'}`,
        ['systemctl', 'enable', '--now', unit],
        (view) => {
          known(view.facts.units, host, 'the state of units')[unit] = {
            loadState: 'loaded',
            activeState: 'active',
            fileState: 'enabled',
          };
          attached(view);
        },
        MEDIUM_MS,
      ),
    );
    return;
  }
  // What drbdadm of 8.3 would change of a resource that is up was never seen, so it is not gone by.
  const { engine } = layout.domain;
  const commands = engine === 'protocol-d' ? [] : lane.view(host).adjust[domain];
  // A resource file written in this round may ask for more; the next round sees it.
  if (running(lane.view(host), domain) !== undefined && commands?.length === 0) return;
  lane.add(
    commandStep(
      host,
      domain,
      `adjust the DRBD resource ${domain}`,
      commands === undefined || commands.length === 0
        ? 'it is not up'
        : `DRBD differs from its configuration: ${commands.join('; ')}`,
      ['drbdadm', 'adjust', domain],
      (view) => {
        view.adjust[domain] = [];
        attached(view);
      },
      MEDIUM_MS,
    ),
  );
}

/** In a dry run: a resource that is up gets the volumes that it did not have, connected as it is. */
function addVolumes(present: RunningResource, foreseen: RunningResource): void {
  present.volumes = { ...foreseen.volumes, ...present.volumes };
  const [connection] = present.connections;
  const [more] = foreseen.connections;
  if (connection === undefined || more === undefined) return;
  const added = Object.values(more.volumes).map((volume) => ({
    ...volume,
    peerDisk: 'Inconsistent' as const,
    replication: 'Established' as const,
  }));
  connection.volumes = {
    ...Object.fromEntries(added.map((volume) => [volume.volume, volume])),
    ...connection.volumes,
  };
}

/** In a dry run: what a resource looks like right after it came up, by what its meta-data says. */
function foreseenResource(layout: DomainLayout, view: HostView): RunningResource {
  const disk = (volume: VolumeLayout): DiskState => {
    const meta = view.facts.metaData[lvPath(volume.volumeGroup, volume.metaLv)];
    return meta?.state === 'valid' && !meta.fresh ? 'UpToDate' : 'Inconsistent';
  };
  return {
    name: layout.domain.name,
    role: 'Secondary',
    suspended: 'no',
    volumes: Object.fromEntries(
      layout.volumes.map((one) => [one.volume, { volume: one.volume, minor: one.minor, disk: disk(one) }]),
    ),
    connections: [
      {
        peer: 'peer',
        connection: 'Connecting',
        peerRole: 'Unknown',
        volumes: Object.fromEntries(
          layout.volumes.map(({ volume }) => [
            volume,
            {
              volume,
              replication: 'Off' as const,
              peerDisk: 'DUnknown' as const,
              resyncSuspended: 'no',
              outOfSyncBytes: 0,
            },
          ]),
        ),
      },
    ],
  };
}

/** What needs both hosts: who has the data, and the first sync. */
function jointLane(layout: DomainLayout, views: Views): { steps: Step[]; wait?: Wait } {
  const domain = layout.domain.name;
  const source = layout.domain.primary;
  const lane = new Lane(views);
  const resource = running(lane.view(source), domain);
  if (resource === undefined) throw new Error(`${domain} is not up on ${source}`);
  const connection = resource.connections[0];
  if (connection?.connection === 'StandAlone') {
    throw new OperatorError(
      `${domain} on ${source}: DRBD is StandAlone, Connected is required; nothing was changed. ` +
        `DRBD has dropped the connection by itself, most often because both sides have data of their own ` +
        `("journalctl -k -g drbd" on ${source} has the reason). Decide which side's data is discarded, then ` +
        `connect by hand: see "Split data" in docs/operations.md.`,
      ExitCode.refused,
    );
  }
  if (connection?.connection !== 'Connected') {
    return { steps: [], wait: connectWait(layout, source, connection?.connection ?? 'no connection') };
  }

  let forced = false;
  for (const volume of layout.volumes) {
    const disk = resource.volumes[volume.volume]?.disk;
    const peerDisk = connection.volumes[volume.volume]?.peerDisk;
    // Not up yet on one side: nothing can be said of it.
    if (disk === undefined || peerDisk === undefined) continue;
    const zeroed = layout.hosts.filter(({ name }) => tagged(lane.view(name), volume, Tags.zeroed));
    if (disk === 'Inconsistent' && peerDisk === 'Inconsistent') {
      // The knowledge goes first: if this run dies in between, the next one copies everything.
      for (const { name } of zeroed) {
        lane.add(changeTags(name, domain, volume, [Tags.zeroed], [], 'it is about to hold data'));
      }
      if (zeroed.length === layout.hosts.length) lane.add(skipSync(layout, volume, source));
      else forced = true;
    } else {
      for (const { name } of zeroed) {
        lane.add(changeTags(name, domain, volume, [Tags.zeroed], [], 'it may hold data by now'));
      }
    }
  }
  if (forced) {
    for (const step of firstSync(layout, source)) lane.add(step);
  } else {
    for (const { name } of layout.hosts) planDemotion(lane, layout, name);
  }
  if (lane.steps.length > 0) return { steps: lane.steps };

  const behind = layout.volumes.filter(
    ({ volume }) =>
      resource.volumes[volume]?.disk !== 'UpToDate' || connection.volumes[volume]?.peerDisk !== 'UpToDate',
  );
  if (behind.length === 0) return { steps: [] };
  return { steps: [], wait: syncWait(layout, source, resource, behind) };
}

function skipSync(layout: DomainLayout, volume: VolumeLayout, source: string): Step {
  const domain = layout.domain.name;
  return commandStep(
    source,
    domain,
    `take ${domain}/${volume.volume} as equal on both sides, without a first sync`,
    'both LVs are new and were filled with zeroes',
    skipFirstSync(layout.domain, volume.volume),
    (_view, views) => settle(layout, views, [volume.volume]),
  );
}

/** The LV that carries the note of a promotion. */
function noteOf(layout: DomainLayout): Pick<VolumeLayout, 'volumeGroup' | 'dataLv'> {
  const [volume] = layout.volumes;
  if (volume === undefined) throw new Error(`${layout.domain.name} has no volume`);
  return { volumeGroup: volume.volumeGroup, dataLv: volume.metaLv };
}

/** Takes a promotion of setup's back that an earlier run did not get to. A guest that runs is the better reason. */
function planDemotion(lane: Lane, layout: DomainLayout, host: string): void {
  const note = noteOf(layout);
  const domain = layout.domain.name;
  if (!findVolume(lane.view(host), note.volumeGroup, note.dataLv)?.tags.includes(Tags.promoted)) return;
  const { guests } = lane.view(host).facts;
  const guestRuns = known(guests, host, 'the list of guests').some((guest) => guest.name === domain);
  if (running(lane.view(host), domain)?.role === 'Primary' && !guestRuns) lane.add(demotion(host, domain));
  lane.add(changeTags(host, domain, note, [Tags.promoted], [], 'the promotion for the first sync is over'));
}

function demotion(host: string, domain: string): Step {
  return commandStep(
    host,
    domain,
    `make ${domain} secondary again`,
    'setup promoted it; the guest’s block script does that when the guest starts',
    ['drbdadm', 'secondary', domain],
    (view) => {
      const resource = running(view, domain);
      if (resource) resource.role = 'Secondary';
    },
  );
}

/**
 * Promotion by force is what tells DRBD that this side has the data. Nothing reads or writes meanwhile. The
 * note goes first, so that a run that dies in between does not leave the resource promoted for good.
 */
function firstSync(layout: DomainLayout, source: string): Step[] {
  const domain = layout.domain.name;
  const note = noteOf(layout);
  return [
    changeTags(
      source,
      domain,
      note,
      [],
      [Tags.promoted],
      'the resource is about to be promoted for the first sync',
    ),
    commandStep(
      source,
      domain,
      `take ${source} as the source of ${domain} and start the first sync`,
      `neither side has data according to DRBD, and ${source} is the primary in the configuration`,
      promoteByForce(layout.domain),
      (_view, views) => {
        const resource = running(viewOf(views, source), domain);
        if (resource) resource.role = 'Primary';
        for (const { volume } of layout.volumes) {
          const mine = resource?.volumes[volume];
          const peer = resource?.connections[0]?.volumes[volume];
          if (mine?.disk === 'Inconsistent') mine.disk = 'UpToDate';
          if (peer?.peerDisk === 'Inconsistent') peer.replication = 'SyncSource';
        }
      },
      MEDIUM_MS,
    ),
    demotion(source, domain),
    changeTags(source, domain, note, [Tags.promoted], [], 'the promotion for the first sync is over'),
  ];
}

/** In a dry run: both sides of these volumes become UpToDate. */
function settle(layout: DomainLayout, views: Views, volumes: readonly number[]): void {
  for (const { name } of layout.hosts) {
    const resource = running(viewOf(views, name), layout.domain.name);
    for (const { volume, volumeGroup, metaLv } of layout.volumes) {
      if (!volumes.includes(volume)) continue;
      const meta = viewOf(views, name).facts.metaData[lvPath(volumeGroup, metaLv)];
      if (meta?.state === 'valid') meta.fresh = false;
      const mine = resource?.volumes[volume];
      const peer = resource?.connections[0]?.volumes[volume];
      if (mine) mine.disk = 'UpToDate';
      if (peer) {
        peer.peerDisk = 'UpToDate';
        peer.replication = 'Established';
      }
    }
  }
}

function waitedFor({
  domain: { name, engine },
  volumes,
}: DomainLayout): Pick<Wait, 'domain' | 'moduleMinor'> {
  const minor = engine === 'protocol-d' ? volumes[0]?.minor : undefined;
  return { domain: name, ...(minor === undefined ? {} : { moduleMinor: minor }) };
}

function connectWait(layout: DomainLayout, host: string, state: string): Wait {
  return {
    kind: 'connect',
    host,
    ...waitedFor(layout),
    reason: `${layout.domain.name} on ${host} is ${state}, Connected is required`,
    effect: (views) => {
      const resources = layout.hosts.map(({ name }) => running(viewOf(views, name), layout.domain.name));
      resources.forEach((resource, index) => {
        const other = resources[1 - index];
        const connection = resource?.connections[0];
        if (connection === undefined) return;
        connection.connection = 'Connected';
        for (const peer of Object.values(connection.volumes)) {
          peer.peerDisk = other?.volumes[peer.volume]?.disk ?? 'DUnknown';
          peer.replication = 'Established';
        }
      });
    },
  };
}

function syncWait(
  layout: DomainLayout,
  host: string,
  resource: RunningResource,
  behind: readonly VolumeLayout[],
): Wait {
  const peers = resource.connections[0]?.volumes ?? {};
  const words = behind.map(({ volume }) => {
    const peer = peers[volume];
    return `volume ${volume} is ${resource.volumes[volume]?.disk ?? 'unknown'}/${peer?.peerDisk ?? 'unknown'}, ${peer?.replication ?? 'unknown'}`;
  });
  return {
    kind: 'sync',
    host,
    ...waitedFor(layout),
    reason: `${layout.domain.name} on ${host}: ${words.join('; ')}; UpToDate/UpToDate is required`,
    effect: (views) =>
      settle(
        layout,
        views,
        behind.map(({ volume }) => volume),
      ),
  };
}

/** What LVM makes of a size. */
function wholeExtents(view: HostView, volumeGroup: string, bytes: number): number {
  const groups = view.facts.volumeGroups;
  const extent = groups.known
    ? groups.value.find(({ name }) => name === volumeGroup)?.extentBytes
    : undefined;
  return extent === undefined ? bytes : Math.ceil(bytes / extent) * extent;
}

function findVolume(view: HostView, volumeGroup: string, name: string): LogicalVolume | undefined {
  return known(view.facts.logicalVolumes, view.facts.host, 'the list of LVs').find(
    (volume) => volume.volumeGroup === volumeGroup && volume.name === name,
  );
}

function tagged(view: HostView, volume: VolumeLayout, tag: string): boolean {
  return findVolume(view, volume.volumeGroup, volume.dataLv)?.tags.includes(tag) ?? false;
}
