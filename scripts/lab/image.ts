/**
 * Builds the lab's disks, kernels and keys from Debian's packages, once per recipe.
 *
 * In the cache, `image-KEY/`, complete or absent (built aside and renamed):
 *
 *   xen, vmlinuz, initrd.img   what QEMU's multiboot loader starts
 *   alpha.img, beta.img        the hosts' file systems (raw, sparse)
 *   id_ed25519                 the key that opens both hosts as root, and each host to the other
 *   known_hosts                the hosts' keys, for their loopback ports and for their names on the link
 */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { cacheDirectory, guestDirectory, hostNames, hostPlans, limits, rootDiskSizeGib } from './plan.js';
import type { HostName } from './plan.js';
import { run } from './processes.js';
import * as recipe from './recipe.js';

export function imageDirectory(): string {
  return join(cacheDirectory, `image-${recipe.recipeKey()}`);
}

export type Say = (line: string) => void;

async function step(say: Say, what: string, argv: readonly string[], input?: string): Promise<void> {
  const result = await run(argv, {
    timeoutMs: limits.buildStepMs,
    env: { ...process.env, LC_ALL: 'C.UTF-8', DEBIAN_FRONTEND: 'noninteractive' },
    ...(input === undefined ? {} : { input }),
  });
  say(`${what} (${(result.durationMs / 1000).toFixed(1)} s)`);
}

/** Installs the Debian packages that the lab needs on this machine; nothing when they are there. */
export async function install(say: Say): Promise<void> {
  const query = ['dpkg-query', '-W', '-f', '${Package} ${db:Status-Status}\n', ...recipe.buildPackages];
  const { stdout } = await run(query, { timeoutMs: limits.commandMs, check: false });
  const present = new Set(stdout.split('\n'));
  const missing = recipe.buildPackages.filter((name) => !present.has(`${name} installed`));
  if (missing.length === 0) return say('packages: all present');
  await step(say, 'package lists', ['apt-get', 'update', '-q']);
  await step(say, `packages: ${missing.join(' ')}`, [
    ...['apt-get', 'install', '-y', '-q', '--no-install-recommends'],
    ...missing,
  ]);
}

function lay(root: string, files: Readonly<Record<string, string>>, mode = 0o644): void {
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content, { mode });
    chmodSync(join(root, path), mode);
  }
}

async function makeKey(path: string, comment: string): Promise<string> {
  await run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', comment, '-f', path], {
    timeoutMs: limits.commandMs,
  });
  return readFileSync(`${path}.pub`, 'utf8').trim();
}

/** The guest's initramfs: busybox, two modules and the init script. */
async function makeGuest(root: string, work: string, modules: string, kernel: string): Promise<void> {
  const tree = join(work, 'guest');
  for (const name of ['bin', 'modules', 'proc', 'sys', 'dev', 'sbin'])
    mkdirSync(join(tree, name), { recursive: true });
  cpSync(join(root, 'bin/busybox'), join(tree, 'bin/busybox'));
  recipe.guestModules.forEach((path, index) => {
    const name = path.slice(path.lastIndexOf('/') + 1);
    cpSync(join(modules, 'kernel', path), join(tree, 'modules', `${index}-${name}`));
  });
  cpSync(recipe.guestInitPath, join(tree, 'init'));
  chmodSync(join(tree, 'init'), 0o755);
  lay(tree, { 'sbin/poweroff': '#!/bin/busybox sh\nexec /bin/busybox poweroff -f\n' }, 0o755);
  const target = join(root, guestDirectory);
  mkdirSync(target, { recursive: true });
  cpSync(kernel, join(target, 'vmlinuz'));
  const pack = `cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | gzip -1 >"$2"`;
  await run(['sh', '-ec', pack, 'pack', tree, join(target, 'initrd.img')], { timeoutMs: limits.commandMs });
}

/** Makes the image unless it is there. @returns its directory */
export async function buildImage(say: Say): Promise<string> {
  const target = imageDirectory();
  if (existsSync(target)) return target;
  if (process.getuid?.() !== 0) throw new Error('lab image: root is needed to unpack Debian packages');
  mkdirSync(cacheDirectory, { recursive: true });
  // Only one build runs at a time (the lab's lock), so what lies here was left by one that was killed.
  const work = join(cacheDirectory, 'build');
  rmSync(work, { recursive: true, force: true });
  const root = join(work, 'root');
  const image = join(work, 'image');
  mkdirSync(image, { recursive: true });

  const early = join(work, 'early');
  lay(early, recipe.earlyFiles);
  await step(say, `Debian ${recipe.release} with Xen, DRBD and Node`, [
    ...['mmdebstrap', '--quiet', '--mode=root', '--variant=minbase', '--dpkgopt=force-unsafe-io'],
    ...recipe.excludedPaths.map((path) => `--dpkgopt=path-exclude=${path}`),
    `--essential-hook=cp -a '${early}/.' "$1/"`,
    `--include=${recipe.hostPackages.join(',')}`,
    ...[recipe.release, root],
  ]);

  const versions = readdirSync(join(root, 'lib/modules'));
  const version = versions[0];
  if (version === undefined || versions.length !== 1) {
    throw new Error(`lab image: one kernel expected in lib/modules, found: ${versions.join(' ')}`);
  }
  const kernel = join(root, `boot/vmlinuz-${version}`);
  cpSync(kernel, join(image, 'vmlinuz'));
  cpSync(join(root, `boot/initrd.img-${version}`), join(image, 'initrd.img'));
  writeFileSync(join(image, 'xen'), gunzipSync(readFileSync(join(root, 'boot/xen-4.17-amd64.gz'))));
  rmSync(join(root, 'boot'), { recursive: true });
  mkdirSync(join(root, 'boot'));
  rmSync(join(root, 'var/cache/apt'), { recursive: true });
  mkdirSync(join(root, 'var/cache/apt/archives/partial'), { recursive: true });
  await makeGuest(root, work, join(root, 'lib/modules', version), join(image, 'vmlinuz'));

  lay(root, recipe.files);
  const mask = ['systemctl', `--root=${root}`, '--quiet', 'mask', ...recipe.maskedUnits];
  await run(mask, { timeoutMs: limits.commandMs });

  const key = await makeKey(join(image, 'id_ed25519'), 'remus-drbd lab');
  const hostKeys = new Map<HostName, string>();
  for (const name of hostNames) hostKeys.set(name, await makeKey(join(work, `key-${name}`), name));
  const known = hostNames.flatMap((name) => {
    const [type, value] = (hostKeys.get(name) ?? '').split(' ');
    const { sshPort, linkAddress } = hostPlans[name];
    return [`[127.0.0.1]:${sshPort}`, `${name},${linkAddress}`].map((where) => `${where} ${type} ${value}`);
  });
  writeFileSync(join(image, 'known_hosts'), `${known.join('\n')}\n`);

  const ssh = join(root, 'root/.ssh');
  mkdirSync(ssh, { recursive: true, mode: 0o700 });
  lay(ssh, { authorized_keys: `${key}\n`, known_hosts: `${known.join('\n')}\n` }, 0o600);
  lay(ssh, { id_ed25519: readFileSync(join(image, 'id_ed25519'), 'utf8') }, 0o600);
  for (const file of readdirSync(join(root, 'etc/ssh')).filter((name) => name.startsWith('ssh_host_'))) {
    rmSync(join(root, 'etc/ssh', file));
  }
  for (const name of hostNames) {
    lay(root, recipe.hostFiles(name));
    lay(root, { 'etc/ssh/ssh_host_ed25519_key': readFileSync(join(work, `key-${name}`), 'utf8') }, 0o600);
    lay(root, { 'etc/ssh/ssh_host_ed25519_key.pub': readFileSync(join(work, `key-${name}.pub`), 'utf8') });
    const disk = join(image, `${name}.img`);
    // The same recipe gives the same identity.
    const uuid = createHash('md5')
      .update(name)
      .digest('hex')
      .replace(/^(.{8})(.{4}).(.{3}).(.{3})(.{12})$/, '$1-$2-4$3-8$4-$5');
    await step(say, `${name}: file system`, [
      ...['mke2fs', '-q', '-F', '-t', 'ext4', '-U', uuid, '-L', name, '-m', '0'],
      ...['-E', 'lazy_itable_init=1,lazy_journal_init=1', '-d', root, disk, `${rootDiskSizeGib}G`],
    ]);
  }
  renameSync(image, target);
  rmSync(work, { recursive: true, force: true });
  return target;
}
