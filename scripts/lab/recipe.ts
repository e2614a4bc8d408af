/**
 * What a lab host is made of. The image's cache key is the hash of this module's data (with the plan), so a
 * change here makes a new image and nothing else does.
 *
 * Debian 12, its kernel, Xen 4.17 and drbd-utils as shipped. Only drivers that no virtual machine has, and
 * documentation, are left out.
 */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import * as plan from './plan.js';

/** Raised when the way an image is built changes without a change of the data below. */
const buildVersion = 1;

export const release = 'bookworm';

/** On the machine that builds and runs the lab. */
export const buildPackages = [
  'qemu-system-x86',
  'qemu-utils',
  'mmdebstrap',
  'e2fsprogs',
  'openssh-client',
  'cpio',
  'zstd',
] as const;

export const hostPackages = [
  'linux-image-amd64',
  'xen-hypervisor-4.17-amd64',
  'xen-utils-4.17',
  'xenstore-utils',
  'drbd-utils',
  'lvm2',
  'nbd-client',
  'nodejs',
  'openssl',
  'openssh-server',
  'systemd-sysv',
  'dbus',
  'udev',
  'kmod',
  'initramfs-tools',
  'ifupdown',
  'iproute2',
  'iputils-ping',
  'bridge-utils',
  'net-tools',
  'netcat-openbsd',
  'tcpdump',
  'procps',
  'psmisc',
  'strace',
  'fdisk',
  'util-linux-extra',
  'busybox-static',
  'less',
] as const;

const unusedDrivers = [
  'drivers/gpu',
  'drivers/media',
  'drivers/net/wireless',
  'drivers/net/ethernet',
  'drivers/infiniband',
  'drivers/iio',
  'drivers/scsi',
  'drivers/usb',
  'drivers/hid',
  'drivers/staging',
  'sound',
];

export const excludedPaths = [
  '/usr/share/doc/*',
  '/usr/share/man/*',
  '/usr/share/locale/*',
  '/usr/share/info/*',
  ...unusedDrivers.map((path) => `/lib/modules/*/kernel/${path}/*`),
];

/** Laid before the packages, so that the initramfs is made once, with only what these hosts need. */
export const earlyFiles: Readonly<Record<string, string>> = {
  'etc/initramfs-tools/conf.d/lab': 'MODULES=list\nCOMPRESS=gzip\n',
  'usr/share/initramfs-tools/modules.d/lab': 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n',
};

/** Laid over the packages' files. */
export const files: Readonly<Record<string, string>> = {
  'etc/fstab': '/dev/vda / ext4 defaults,errors=remount-ro 0 0\n',
  'etc/hosts': [
    '127.0.0.1 localhost',
    ...plan.hostNames.map((name) => `${plan.hostPlans[name].linkAddress} ${name}`),
    '',
  ].join('\n'),
  'etc/ssh/sshd_config.d/lab.conf':
    'UseDNS no\nPermitRootLogin prohibit-password\nMaxSessions 100\nMaxStartups 100\n',
  // What a guest prints on its console is kept in /var/log/xen/console.
  'etc/default/xen': 'XENSTORED_ARGS=\nXENCONSOLED_ARGS=--log=guest\n',
  'var/log/xen/console/.keep': '',
};

/** Of one host. */
export function hostFiles(name: plan.HostName): Record<string, string> {
  return {
    'etc/hostname': `${name}\n`,
    'etc/machine-id': `${createHash('md5').update(`remus-drbd lab ${name}`).digest('hex')}\n`,
    'etc/network/interfaces': `auto lo eth0 ${plan.bridgeName}
iface lo inet loopback
iface eth0 inet static
  address 10.0.2.15/24
  gateway 10.0.2.2
iface ${plan.bridgeName} inet static
  address ${plan.hostPlans[name].linkAddress}/24
  bridge_ports eth1
  bridge_stp off
  bridge_fd 0
  bridge_waitport 0
`,
  };
}

/** Nothing that runs by itself later, and nothing that a boot has to wait for without need. */
export const maskedUnits = [
  'apt-daily.timer',
  'apt-daily-upgrade.timer',
  'dpkg-db-backup.timer',
  'e2scrub_all.timer',
  'e2scrub_reap.service',
  'fstrim.timer',
  'systemd-pstore.service',
  'getty@tty1.service',
];

export const guestInitPath = fileURLToPath(new URL('./guest/init', import.meta.url));
/** Modules of the guest, in the order of loading, below /lib/modules/VERSION/kernel. */
export const guestModules = ['drivers/block/xen-blkfront.ko', 'drivers/net/xen-netfront.ko'];

/** Arguments of QEMU that are part of a saved machine's identity. */
export function machineArguments(host: plan.HostPlan): string[] {
  return [
    ...['-machine', 'q35', '-accel', 'tcg,thread=multi,tb-size=1024', '-cpu', plan.cpuModel],
    ...['-smp', String(plan.hostCpus), '-m', String(plan.hostMemoryMib), '-nodefaults', '-no-user-config'],
    ...['-display', 'none', '-vga', 'none', '-device', 'virtio-rng-pci'],
    ...['-device', 'virtio-blk-pci,drive=root', '-device', 'virtio-blk-pci,drive=vg0'],
    ...['-device', `virtio-net-pci,id=eth0,netdev=control,mac=${host.controlMac}`],
    ...['-device', `virtio-net-pci,id=eth1,netdev=link,mac=${host.linkMac}`],
  ];
}

export const xenArguments = `dom0_mem=${plan.dom0MemoryMib}M,max:${plan.dom0MemoryMib}M com1=115200,8n1 console=com1`;
export const kernelArguments = 'root=/dev/vda rw console=hvc0 net.ifnames=0 mitigations=off quiet';

/** The cache key of image and saved machines. */
export function recipeKey(): string {
  const recipe = {
    ...{ buildVersion, release, hostPackages, excludedPaths, earlyFiles, files, maskedUnits },
    hosts: plan.hostNames.map((name) => [hostFiles(name), machineArguments(plan.hostPlans[name])]),
    guest: [plan.guestDirectory, guestModules, readFileSync(guestInitPath, 'utf8')],
    ...{ xenArguments, kernelArguments },
    disks: [plan.rootDiskSizeGib, plan.volumeGroupDiskSizeGib, plan.volumeGroupName],
  };
  return createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 16);
}
