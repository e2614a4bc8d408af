/** Views of hosts for tests of the plans: a Debian Xen host with nothing of ours on it. */
import type { HostFacts } from '../../../src/core/facts.js';
import { domainLayouts } from '../../../src/core/layout.js';
import { parseConfig } from '../../../src/core/config.js';
import { Paths } from '../../../src/core/names.js';
import { textFile } from '../../../src/core/setup/files.js';
import type { Desired } from '../../../src/core/setup/plan.js';
import type { Round, Step } from '../../../src/core/setup/step.js';
import type { HostView, Views } from '../../../src/core/setup/view.js';

export const GIB = 2 ** 30;

/** One pair, one domain `web`; `disks` and `more` are put in as they are. */
export function desiredFrom(disks = '- { vdev: xvda, volumeGroup: vg0, size: 1GiB }'): Desired {
  const text = `
pairs:
  rack1:
    hosts:
      alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }
      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }
    domains:
      web:
        config: web.cfg
        primary: alpha
        port: 7790
        disks:
          ${disks}
`;
  const config = parseConfig(text, 'pair.yaml', '/');
  const [pair] = config.pairs;
  if (pair === undefined) throw new Error('no pair');
  const files = [
    textFile('/etc/drbd.d/global_common.conf', 0o644, 'global {}\n'),
    textFile('/etc/drbd.d/remus-web.res', 0o644, 'resource web {}\n', 'web'),
    textFile(Paths.unit, 0o644, '[Unit]\n'),
    textFile('/etc/xen/scripts/block-drbd', 0o755, '#!/bin/sh\n'),
  ];
  return { pair, layouts: domainLayouts(config), files: { alpha: files, beta: files } };
}

export function freshView(host: string): HostView {
  const known = <T>(value: T): { known: true; value: T } => ({ known: true, value });
  const facts: HostFacts = {
    host,
    nodeName: host,
    kernelRelease: '6.1.0-40-amd64',
    architecture: 'x86_64',
    uid: 0,
    clockMs: 1_700_000_000_000,
    memory: { totalBytes: GIB, availableBytes: GIB / 2 },
    packages: known({}),
    node: known('18.20.4'),
    xen: known({
      version: '4.17.6',
      capabilities: ['hvm', 'hap'],
      totalMemoryBytes: 2 * GIB,
      freeMemoryBytes: GIB,
      cpus: 1,
      cpuFeatures: '',
    }),
    guests: known([]),
    loadedModules: ['dm_mod'],
    availableModules: known({}),
    drbdModule: undefined,
    drbdUtils: known('9.22.0'),
    volumeGroups: known([{ name: 'vg0', sizeBytes: 8 * GIB, freeBytes: 8 * GIB, extentBytes: 4 * 2 ** 20 }]),
    logicalVolumes: known([]),
    devices: {},
    metaData: {},
    dm: known([]),
    blockDevices: known([]),
    lvmFilters: known({ filter: ['a|.*|'], globalFilter: ['r|^/dev/drbd|', 'r|^/dev/mapper/remus-|'] }),
    drbdRunning: known([]),
    drbdConfigured: known([]),
    units: known({}),
    diversions: known([]),
    packagedFiles: known({}),
    files: {},
    listeners: known([]),
    addresses: known([]),
    guestFiles: {},
    autostart: {},
    timeSynchronised: known(true),
    certificate: { known: false, cause: 'failed', reason: 'No such file' },
    sshPublicKey: { known: false, cause: 'failed', reason: 'No such file' },
  };
  return {
    facts,
    files: {},
    adjust: {},
    installed: {},
    ownGlobalFile: false,
    reloadNeeded: false,
    folders: {},
    tls: { directoryMode: undefined, certificate: undefined },
    ssh: { directoryMode: undefined, publicKey: undefined, rootDirectory: true, authorizedKeys: undefined },
    terms: {},
  };
}

export function freshViews(): Views {
  return { alpha: freshView('alpha'), beta: freshView('beta') };
}

/**
 * Lets a plan run on the views by the effects that its steps foretell, at most `stepsMax` steps in the order
 * of the lanes.
 *
 * @returns the steps that were taken, and whether the plan came to its end
 */
export function simulate(
  views: Views,
  plan: (views: Views) => Round,
  stepsMax = Infinity,
): { steps: Step[]; ended: boolean } {
  const steps: Step[] = [];
  for (let round = 0; round < 30; round++) {
    const { lanes, waits } = plan(views);
    if (lanes.length === 0 && waits.length === 0) return { steps, ended: true };
    for (const step of lanes.flat()) {
      if (steps.length >= stepsMax) return { steps, ended: false };
      const view = views[step.host];
      if (view === undefined) throw new Error(`a step for ${step.host}`);
      step.effect(view, views);
      steps.push(step);
    }
    if (lanes.length === 0) for (const wait of waits) wait.effect(views);
  }
  throw new Error('the plan does not come to an end');
}

export function titles(steps: readonly Step[], host?: string): string[] {
  return steps.filter((step) => host === undefined || step.host === host).map((step) => step.title);
}

/** The commands of steps, as text. */
export function commands(steps: readonly Step[]): string[] {
  return steps.map((step) =>
    step.action.kind === 'run' ? step.action.argv.join(' ') : `write ${step.action.path}`,
  );
}

/** Makes of views after setup what they are while `web` runs protected on alpha, with its journal on beta. */
export function protect(views: Views): void {
  const [alpha, beta] = [views['alpha']!, views['beta']!];
  for (const [view, unit] of [
    [alpha, 'remus-sender@web.service'],
    [beta, 'remus-receiver@web.service'],
  ] as const) {
    const { units } = view.facts;
    if (units.known) units.value[unit] = { loadState: 'loaded', activeState: 'active', fileState: 'static' };
  }
  const { guests, drbdRunning } = alpha.facts;
  if (guests.known) guests.value.push({ name: 'web', id: 1, memoryBytes: 0, vcpus: 1, state: '-b----' });
  for (const view of [alpha, beta]) {
    const running = view === alpha ? drbdRunning : view.facts.drbdRunning;
    if (!running.known) continue;
    for (const resource of running.value) {
      if (view === alpha) resource.role = 'Primary';
      else for (const peer of resource.connections) peer.peerRole = 'Primary';
    }
  }
  const { dm } = beta.facts;
  if (dm.known) {
    for (const [index, device] of dm.value.entries()) {
      for (const segment of device.segments) segment.target = { device: `43:${index}`, offsetSector: 0 };
    }
  }
  for (const view of [alpha, beta]) {
    const files = ['term.json', ...(view === beta ? ['gate', 'journal-active'] : [])];
    view.folders[Paths.state] = files.map((name) => `${Paths.state}/web/${name}`);
    view.folders[Paths.run] = [`${Paths.run}/web/order.json`];
    view.terms['web'] = {
      term: 3,
      session: 'abcdef01',
      role: view === alpha ? 'primary' : 'backup',
      phase: 'protected',
      boot: '11111111-2222-3333-4444-555555555555',
    };
  }
}
