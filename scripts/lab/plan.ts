/**
 * The plan of the lab: every name, address, port and size of the two hosts, in one place.
 *
 * Two hosts, `alpha` and `beta`, each a QEMU process on this machine:
 *
 *   eth0  10.0.2.15     user network, only for control; 127.0.0.1:SSH_PORT leads to its port 22
 *   eth1  in `xenbr0`   the link between the hosts (Ethernet frames in UDP datagrams over loopback);
 *                       `xenbr0` has the host's replication address, guests' interfaces join it
 *   vda   the host's own file system
 *   vdb   the only physical volume of LVM group `vg0`
 *
 * Datagrams, because either end of the link may vanish and return without the other noticing more than a
 * dead peer; a connected socket between two QEMUs does not survive the restart of one.
 */
import { homedir } from 'node:os';
import { join } from 'node:path';

export const hostNames = ['alpha', 'beta'] as const;
export type HostName = (typeof hostNames)[number];

export interface HostPlan {
  readonly name: HostName;
  readonly peer: HostName;
  /** Port on 127.0.0.1 that leads to the host's ssh. */
  readonly sshPort: number;
  /** Port on 127.0.0.1 where this end of the link takes datagrams. */
  readonly linkPort: number;
  /** Address on the link; DRBD and checkpoints use it. */
  readonly linkAddress: string;
  readonly controlMac: string;
  readonly linkMac: string;
}

export const hostPlans: Readonly<Record<HostName, HostPlan>> = {
  alpha: {
    name: 'alpha',
    peer: 'beta',
    sshPort: 22101,
    linkPort: 22111,
    linkAddress: '10.0.0.1',
    controlMac: '52:54:00:00:01:01',
    linkMac: '52:54:00:00:02:01',
  },
  beta: {
    name: 'beta',
    peer: 'alpha',
    sshPort: 22102,
    linkPort: 22112,
    linkAddress: '10.0.0.2',
    controlMac: '52:54:00:00:01:02',
    linkMac: '52:54:00:00:02:02',
  },
};

export const bridgeName = 'xenbr0';
export const volumeGroupName = 'vg0';
/** One is the fastest under emulation; with two `pin` can be tried. */
export const hostCpus = process.env['REMUS_LAB_CPUS'] === '2' ? 2 : 1;
export const hostMemoryMib = 2048;
export const dom0MemoryMib = 1024;
export const rootDiskSizeGib = 6;
export const volumeGroupDiskSizeGib = 16;
/** Where kernel and initramfs of the lab's guest lie on both hosts. */
export const guestDirectory = '/var/lib/remus-lab/guest';

/**
 * The CPU under Xen. `max` boots only without SMAP and then corrupts data: QEMU 7.2 loses extended register
 * state under Xen. This model was checked for integrity; SVM and nested paging serve PVH and HVM guests.
 */
export const cpuModel = 'qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+rdrand,+aes,+pclmulqdq';

export const cacheDirectory = join(
  process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'),
  'remus-drbd-lab',
);
/** Disks, logs and process ids of the running lab. One lab per user: its ports are fixed. */
export const runDirectory = join(cacheDirectory, 'run');
export const sshConfigPath = join(runDirectory, 'ssh_config');

/** Generous limits: they end a hang, they are never a pause. A slow machine must not turn a run red. */
export const limits = {
  /** From power on to a running system; 60 to 75 s were seen. */
  bootMs: 600_000,
  /** One command on a host. */
  commandMs: 300_000,
  /** Building the image from packages; about two minutes were seen. */
  buildStepMs: 1_800_000,
  /** A run of tests by someone else. */
  reservationMs: 7_200_000,
  /** QEMU answering on its monitor, or ending after SIGKILL. */
  processMs: 60_000,
} as const;
