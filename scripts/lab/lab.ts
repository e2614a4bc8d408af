/**
 * Command line of the lab: `npm run lab -- VERB`. See `usage` below and hosts.ts.
 */
import { spawn } from 'node:child_process';
import { lab, type HostName } from './hosts.js';
import { install } from './image.js';
import { hostNames, sshConfigPath } from './plan.js';

const usage = `usage: lab VERB
  install              Debian packages that the lab needs on this machine
  image                build the hosts' image and boot it once (done by up when needed)
  up                   both hosts running, from where they are or new
  fresh                two new hosts; what was on the old ones is gone
  down                 both hosts off; their disks stay
  status               what runs, and how to reach it
  ssh HOST [COMMAND]   a shell on a host, or one command
  cut HOST             power cut
  boot HOST            power on and wait until it has booted
  reboot HOST          clean reboot, waited for
  unlink | link        pull or plug the cable between the hosts
  run COMMAND...       up, then COMMAND with REMUS_LAB_* in its environment
HOST is ${hostNames.join(' or ')}.`;

class UsageError extends Error {}

function hostName(word: string | undefined): HostName {
  const name = hostNames.find((candidate) => candidate === word);
  if (name === undefined) throw new UsageError(`no host ${word ?? 'given'}`);
  return name;
}

/** Runs a program on our terminal. @returns its exit code */
function foreground(argv: readonly string[], env: Record<string, string> = {}): Promise<number> {
  const [command, ...rest] = argv;
  if (command === undefined) throw new UsageError('no command given');
  return new Promise((resolve, reject) => {
    const child = spawn(command, rest, { stdio: 'inherit', env: { ...process.env, ...env } });
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

const say = (line: string) => console.log(line);

async function main([verb, ...words]: string[]): Promise<number> {
  switch (verb) {
    case 'install':
      await install(say);
      return 0;
    case 'image':
      say(await lab.image(say));
      return 0;
    case 'up':
      await lab.up(say);
      return 0;
    case 'fresh':
      await lab.fresh(say);
      return 0;
    case 'down':
      await lab.down(say);
      return 0;
    case 'status': {
      const hosts = lab.status();
      for (const { name, power, pid, link, ssh } of hosts) {
        say(power === 'on' ? `${name}: on, link ${link}, ${ssh}, QEMU ${pid}` : `${name}: ${power}`);
      }
      say(`ssh: ssh -F ${sshConfigPath} HOST`);
      return hosts.every(({ power }) => power === 'on') ? 0 : 1;
    }
    case 'ssh': {
      const name = hostName(words[0]);
      return foreground(['ssh', '-F', sshConfigPath, name, ...words.slice(1)]);
    }
    case 'cut':
      await lab.cut(hostName(words[0]));
      return 0;
    case 'boot':
      await lab.boot(hostName(words[0]), say);
      return 0;
    case 'reboot':
      await lab.reboot(hostName(words[0]));
      return 0;
    case 'link':
    case 'unlink':
      await lab.link(verb === 'link');
      return 0;
    case 'run':
      await lab.up(say);
      return foreground(words, lab.environment());
    default:
      throw new UsageError(verb === undefined ? 'no verb given' : `no verb ${verb}`);
  }
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  const isUsage = error instanceof UsageError;
  console.error(
    `lab: ${error instanceof Error ? error.message : String(error)}${isUsage ? `\n${usage}` : ''}`,
  );
  process.exitCode = isUsage ? 2 : 1;
}
