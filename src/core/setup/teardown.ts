/**
 * The plan of `teardown`, the mirror image of setup's: unit (which takes DRBD and the device-mapper devices
 * down), files, and the distribution's files put back; LVs only of domains that are named for it.
 *
 * What is kept for a domain is its data, with the DRBD meta-data and the barrier volume that belong to it:
 * a later setup takes up where this one left off, without a new sync. The journal is always removed; it
 * holds nothing while the domain is not protected.
 *
 * What also stays, even where the data is deleted, is /var/lib/remus-drbd/DOMAIN/term.json, the number of the last
 * term. A claim of a term is kept by the arbiter for ever. If a domain that is set up again began at term 1, whoever
 * went on alone in the old term 1 would be told that it has won, or lost, the new one, without having asked; and the
 * two hosts could be told so while both are alive.
 */
import { drillVolumes } from '../drill/snapshots.js';
import { ExitCode, OperatorError } from '../errors.js';
import { TLS_CERTIFICATE, XEN_SCRIPTS, type Diversion } from '../facts.js';
import { drillGuest, drillLv, drillUnit, Paths, Tags, unitName } from '../names.js';
import type { DomainLayout } from '../model.js';
import { DOM0_PIN_PATH, pinnedDomains, planUnpin } from '../pin.js';
import type { Desired } from './plan.js';
import { SSH_KEY, SSH_KNOWN_HOSTS, SSH_PUBLIC_KEY, withKeyLines } from './ssh.js';
import { authorizedKeysStep, commandStep, MEDIUM_MS, type Round, type Step } from './step.js';
import {
  known,
  peerCertificatePath,
  protectionOn,
  running,
  termPath,
  TLS_KEY,
  type HostView,
  type Views,
} from './view.js';

export interface TeardownOptions {
  /** The domains to take away. */
  domains: ReadonlySet<string>;
  /** Domains whose data is deleted with them. */
  deleteData: ReadonlySet<string>;
}

/**
 * The next round for one pair.
 *
 * @param desired what setup would make, with the files of all domains of the pair
 * @throws OperatorError (refused) when a domain is protected, or its last term is not decided, or a guest still
 *   uses its resource
 */
export function planTeardown(desired: Desired, views: Views, options: TeardownOptions): Round {
  const layouts = desired.layouts.filter((layout) => options.domains.has(layout.domain.name));
  for (const layout of layouts) {
    // Protection first: under it the guest runs as well, and must not be shut down to be rid of it.
    for (const { name } of layout.hosts) refuseProtected(layout, viewOf(views, name));
    for (const { name } of layout.hosts) refuseInUse(layout, viewOf(views, name));
  }
  const lanes = desired.pair.hosts.map(({ name }) => {
    const view = structuredClone(viewOf(views, name));
    return pinSteps(view, options.domains)
      .concat(layouts.flatMap((layout) => domainSteps(layout, view, desired, options)))
      .concat(hostSteps(view, desired, layouts.length === desired.layouts.length));
  });
  return { lanes: lanes.filter((lane) => lane.length > 0), waits: [] };
}

function viewOf(views: Views, host: string): HostView {
  const view = views[host];
  if (view === undefined) throw new Error(`no view of ${host}`);
  return view;
}

function refuseProtected(layout: DomainLayout, view: HostView): void {
  const domain = layout.domain.name;
  const { host } = view.facts;
  const refuse = (why: string, next: string): never => {
    throw new OperatorError(
      `${domain} on ${host}: refusing to tear down: ${why}; nothing was changed. ${next}`,
      ExitCode.refused,
    );
  };
  const protection = protectionOn(view, domain);
  if (protection?.startsWith(drillUnit(domain)) === true) {
    refuse(
      `a drill runs there (${protection})`,
      `Wait for its end, or end it: systemctl stop ${drillUnit(domain)}`,
    );
  }
  if (protection !== undefined) {
    const orElse = protection.endsWith('journal-active is there')
      ? ` If it says that there is no protection, "systemctl restart ${unitName(domain)}" on ${host} brings what the journal holds to the disks.`
      : '';
    refuse(
      `it is protected there (${protection})`,
      `End the protection first: remus-drbd unprotect ${domain}.${orElse}`,
    );
  }
  const term = view.terms[domain];
  if (term === 'unreadable') {
    refuse(
      `${termPath(domain)} can't be read, so whether a term is open is not known`,
      `Look at it; "remus-drbd status" says what else is known.`,
    );
  } else if (term?.phase === 'protected') {
    refuse(
      `term ${term.term} has not ended there: who went on is not decided, or ${host} does not know it yet`,
      `Run "remus-drbd recover ${domain}" first.`,
    );
  }
}

function refuseInUse(layout: DomainLayout, view: HostView): void {
  const domain = layout.domain.name;
  const resource = running(view, domain);
  const guests = view.facts.guests;
  const guestRuns = guests.known && guests.value.some((guest) => guest.name === domain);
  if (resource?.role !== 'Primary' && !guestRuns) return;
  throw new OperatorError(
    `${domain} on ${view.facts.host}: refusing to tear down: ` +
      `${guestRuns ? 'the guest runs there' : 'DRBD is Primary there, so something uses the disk'}; nothing was changed. ` +
      `Shut the guest down first (xl shutdown ${domain}), or demote the resource (drbdadm secondary ${domain}).`,
    ExitCode.refused,
  );
}

function domainSteps(
  layout: DomainLayout,
  view: HostView,
  desired: Desired,
  options: TeardownOptions,
): Step[] {
  const { host } = view.facts;
  const domain = layout.domain.name;
  const steps: Step[] = drillSteps(layout, view);
  const unit = unitName(domain);
  const state = known(view.facts.units, host, 'the state of units')[unit];
  if (state !== undefined && (state.activeState === 'active' || state.fileState === 'enabled')) {
    steps.push(
      commandStep(
        host,
        domain,
        `stop and disable ${unit}`,
        `it is ${state.fileState} and ${state.activeState}`,
        ['systemctl', 'disable', '--now', unit],
        (after) => {
          known(after.facts.units, host, 'the state of units')[unit] = {
            loadState: 'loaded',
            activeState: 'inactive',
            fileState: 'disabled',
          };
          takeDown(after, layout);
        },
        MEDIUM_MS,
      ),
    );
  } else if (running(view, domain) !== undefined || mapped(view, layout)) {
    // The unit is gone or failed, but what it made is there.
    steps.push(
      commandStep(
        host,
        domain,
        `take the devices of ${domain} down`,
        'DRBD or its devices are still up',
        [Paths.devicesScript, 'down', domain],
        (after) => takeDown(after, layout),
        MEDIUM_MS,
      ),
    );
  }
  const files = (desired.files[host] ?? []).filter((file) => file.domain === domain);
  steps.push(
    ...removeFiles(
      view,
      domain,
      files.map((file) => file.path),
    ),
  );
  steps.push(...stateSteps(view, domain));
  steps.push(...volumeSteps(layout, view, options));
  return steps;
}

/** What a drill has left whose host lost its power, or whose clean-up failed. None runs: see `refuseProtected`. */
function drillSteps(layout: DomainLayout, view: HostView): Step[] {
  const { host } = view.facts;
  const domain = layout.domain.name;
  const steps: Step[] = [];
  const remove = (what: string, argv: string[], effect: (after: HostView) => void): void => {
    const reason = 'a drill has left it, and none runs';
    steps.push(commandStep(host, domain, `remove ${what}`, reason, argv, effect, MEDIUM_MS));
  };
  const guest = drillGuest(domain);
  const { guests } = view.facts;
  if (guests.known && guests.value.some(({ name }) => name === guest)) {
    remove(`guest ${guest}`, ['xl', 'destroy', guest], (after) => {
      const all = known(after.facts.guests, host, 'the list of guests');
      all.splice(0, all.length, ...all.filter(({ name }) => name !== guest));
    });
  }
  const names = layout.volumes.map(({ volume }) => drillLv(domain, volume));
  for (const { name } of known(view.facts.dm, host, 'the device-mapper table')) {
    if (!names.includes(name)) continue;
    remove(`device ${name}`, ['dmsetup', 'remove', '--retry', name], (after) => {
      const devices = known(after.facts.dm, host, 'the device-mapper table');
      devices.splice(0, devices.length, ...devices.filter((one) => one.name !== name));
    });
  }
  const present = known(view.facts.logicalVolumes, host, 'the list of LVs');
  for (const { volumeGroup, name } of drillVolumes(domain, present)) {
    remove(`snapshot ${volumeGroup}/${name}`, ['lvremove', '--yes', `${volumeGroup}/${name}`], (after) => {
      const volumes = known(after.facts.logicalVolumes, host, 'the list of LVs');
      const index = volumes.findIndex((one) => one.volumeGroup === volumeGroup && one.name === name);
      if (index >= 0) volumes.splice(index, 1);
    });
  }
  return steps;
}

/** The dom0 gets its CPUs back with the last domain that was pinned; the guests of those that go don't run. */
function pinSteps(view: HostView, domains: ReadonlySet<string>): Step[] {
  const { dom0Pin } = view;
  if (dom0Pin === undefined) return [];
  const { before, vcpus } = dom0Pin;
  const others = pinnedDomains(view.folders[Paths.run] ?? []).filter((name) => !domains.has(name));
  return planUnpin('', { vcpus, dom0: before, domain: undefined, others }).map((step) => {
    const { host } = view.facts;
    if (step.kind === 'run') {
      return commandStep(
        host,
        undefined,
        `give vCPU ${step.argv[3]} of the dom0 its CPUs back`,
        step.reason,
        step.argv,
        () => undefined,
      );
    }
    const { path } = step;
    return commandStep(
      host,
      undefined,
      `forget the CPUs that the dom0 had`,
      'it has them again',
      ['rm', '-f', '--', path],
      (after) => {
        delete after.dom0Pin;
        after.folders[Paths.run] = (after.folders[Paths.run] ?? []).filter((each) => each !== path);
      },
    );
  });
}

/** What the programs of a domain have left, except for the number of its last term. */
function stateSteps(view: HostView, domain: string): Step[] {
  const { host } = view.facts;
  const kept = termPath(domain);
  const paths = [Paths.state, Paths.run].flatMap((folder) => {
    const inside = view.folders[folder] ?? [];
    return inside.filter((path) => isLeftOf(path, domain) && path !== kept);
  });
  if (paths.length === 0) return [];
  return [
    commandStep(
      host,
      domain,
      `remove what the protection of ${domain} has left`,
      `there: ${paths.join(', ')}`,
      ['rm', '-f', '--', ...paths],
      (after) => {
        for (const [folder, inside] of Object.entries(after.folders)) {
          after.folders[folder] = inside.filter((path) => !paths.includes(path));
        }
      },
    ),
  ];
}

function isLeftOf(path: string, domain: string): boolean {
  return [Paths.state, Paths.run].some((folder) => path.startsWith(`${folder}/${domain}/`));
}

function mapped(view: HostView, layout: DomainLayout): boolean {
  const names = layout.volumes.map((volume) => volume.mapper);
  return known(view.facts.dm, view.facts.host, 'the device-mapper table').some((one) =>
    names.includes(one.name),
  );
}

function takeDown(view: HostView, layout: DomainLayout): void {
  const { host } = view.facts;
  const names = layout.volumes.map((volume) => volume.mapper);
  const devices = known(view.facts.dm, host, 'the device-mapper table');
  devices.splice(0, devices.length, ...devices.filter((one) => !names.includes(one.name)));
  const resources = known(view.facts.drbdRunning, host, 'the running DRBD resources');
  resources.splice(0, resources.length, ...resources.filter((one) => one.name !== layout.domain.name));
}

function removeFiles(view: HostView, domain: string | undefined, paths: readonly string[]): Step[] {
  const present = paths.filter((path) => view.files[path] !== undefined);
  if (present.length === 0) return [];
  const what = domain === undefined ? 'the files that all domains share' : `the files of ${domain}`;
  return [
    commandStep(
      view.facts.host,
      domain,
      `remove ${what}`,
      `there: ${present.join(', ')}`,
      ['rm', '-f', '--', ...present],
      (after) => {
        for (const path of present) delete after.files[path];
      },
    ),
  ];
}

function volumeSteps(layout: DomainLayout, view: HostView, options: TeardownOptions): Step[] {
  const { host } = view.facts;
  const domain = layout.domain.name;
  const present = known(view.facts.logicalVolumes, host, 'the list of LVs');
  const { journal } = layout;
  const remove: [string, string][] = journal === undefined ? [] : [[journal.volumeGroup, journal.lv]];
  if (options.deleteData.has(domain)) {
    for (const volume of layout.volumes) {
      remove.push([volume.volumeGroup, volume.metaLv]);
      // A volume that the user brought is the user's, whatever is deleted.
      if (volume.makeData) remove.push([volume.volumeGroup, volume.dataLv]);
    }
  }
  return remove.flatMap(([volumeGroup, name]) => {
    const found = present.find((volume) => volume.volumeGroup === volumeGroup && volume.name === name);
    if (found === undefined || !found.tags.includes(Tags.made)) return [];
    return [
      commandStep(
        host,
        domain,
        `remove LV ${volumeGroup}/${name}`,
        name === journal?.lv
          ? 'its journal is not needed any more'
          : `the data of ${domain} is to be deleted`,
        ['lvremove', '--yes', `${volumeGroup}/${name}`],
        (after) => {
          const volumes = known(after.facts.logicalVolumes, host, 'the list of LVs');
          const index = volumes.findIndex((one) => one.volumeGroup === volumeGroup && one.name === name);
          if (index >= 0) volumes.splice(index, 1);
        },
        MEDIUM_MS,
      ),
    ];
  });
}

const divertedPaths: readonly string[] = [...XEN_SCRIPTS, Paths.drbdGlobal];

/** The diversion that setup made of a path. */
function diversionOf(view: HostView, path: string): Diversion | undefined {
  return known(view.facts.diversions, view.facts.host, 'the list of diversions').find(
    (one) => one.path === path && one.package === undefined && one.divertedTo === `${path}.distrib`,
  );
}

/** What all domains of a host share goes with the last of them. */
function hostSteps(view: HostView, desired: Desired, lastDomain: boolean): Step[] {
  if (!lastDomain) return [];
  const { host } = view.facts;
  const shared = (desired.files[host] ?? [])
    .filter((file) => file.domain === undefined)
    .map((file) => file.path);
  const own = [
    TLS_KEY,
    TLS_CERTIFICATE,
    SSH_KEY,
    SSH_PUBLIC_KEY,
    SSH_KNOWN_HOSTS,
    ...desired.pair.hosts.filter((peer) => peer.name !== host).map((peer) => peerCertificatePath(peer.name)),
  ];
  // Without its diversion such a path has the distribution's own file, or its owner's.
  const distributed = divertedPaths.filter((path) => diversionOf(view, path) === undefined);
  const paths = [...new Set([...shared, ...own])].filter((path) => !distributed.includes(path));
  const steps = removeFiles(view, undefined, paths);
  const authorizedKeys = withKeyLines(view.ssh.authorizedKeys, []);
  if (authorizedKeys !== undefined) {
    steps.push(authorizedKeysStep(view, authorizedKeys, 'the key of the peer is in it'));
  }
  for (const path of divertedPaths) {
    const diversion = diversionOf(view, path);
    if (diversion === undefined) continue;
    steps.push(
      commandStep(
        host,
        undefined,
        `put the distribution's ${path} back`,
        'it was kept aside',
        ['dpkg-divert', '--local', '--rename', '--remove', path],
        (after) => {
          const diversions = known(after.facts.diversions, host, 'the list of diversions');
          diversions.splice(0, diversions.length, ...diversions.filter((one) => one.path !== path));
        },
      ),
    );
  }
  // A folder in which somebody else has put a file stays.
  const folders = Object.entries(view.folders)
    .filter(([, inside]) => inside.every((path) => paths.includes(path) || isOfDomain(path, desired, host)))
    .map(([folder]) => folder);
  if (folders.length > 0) {
    steps.push(
      commandStep(
        host,
        undefined,
        'remove the folders that are empty now',
        `there: ${folders.join(', ')}`,
        ['find', ...folders, '-depth', '-type', 'd', '-empty', '-delete'],
        (after) => {
          for (const folder of folders) delete after.folders[folder];
          after.tls.directoryMode = undefined;
          after.ssh.directoryMode = undefined;
        },
      ),
    );
  }
  if (steps.length > 0) {
    steps.push(
      commandStep(
        host,
        undefined,
        'let systemd forget the units',
        'their files are gone',
        ['systemctl', 'daemon-reload'],
        () => undefined,
      ),
    );
  }
  return steps;
}

/** All domains of the host go, and before this their files and what their protection has left. */
function isOfDomain(path: string, desired: Desired, host: string): boolean {
  if (path === DOM0_PIN_PATH) return true;
  const isLeft = desired.layouts.some(
    ({ domain: { name } }) => path !== termPath(name) && isLeftOf(path, name),
  );
  return (
    isLeft || (desired.files[host] ?? []).some((file) => file.domain !== undefined && file.path === path)
  );
}
