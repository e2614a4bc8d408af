/**
 * The network output of a guest under protection, as the sender uses it: `edge/netbuf.ts` on the interfaces that the
 * guest has now.
 */
import { readdir } from 'node:fs/promises';
import { OperatorError } from '../core/errors.js';
import { chooseVifs, parseVifBackends } from '../core/netbuf/vifs.js';
import { parseLinks } from '../core/netbuf/parse.js';
import { parseAlias } from '../core/netbuf/names.js';
import { parseXlList } from '../core/parse/xen.js';
import { NetworkBuffer } from '../edge/netbuf.js';
import type { SenderEdges } from './sender.js';
import { exec, must } from './exec.js';

const COMMAND_MS = 30_000;
const LOOK_MS = 1_000;
/** How often the output of a host that goes on alone is tried to be opened before that is given up loudly. */
const ATTEMPTS_MAX = 5;

/**
 * Holds the guest's output from the first mark on. Until then it flows.
 * @throws OperatorError where one of its interfaces can't be held
 */
export async function holdNetwork(domain: string): Promise<NonNullable<SenderEdges['network']>> {
  const guest = parseXlList(await must(['xl', 'list'], COMMAND_MS)).find(({ name }) => name === domain);
  if (guest === undefined) throw new OperatorError(`${domain}: it does not run on this host`);
  const { stdout, code, stderr } = await exec(
    ['xenstore-ls', '-f', `/local/domain/0/backend/vif/${guest.id}`],
    { timeoutMs: COMMAND_MS },
  );
  // Without a network there is no such path.
  if (code !== 0 && !/ENOENT|couldn't/i.test(stderr)) {
    throw new OperatorError(`${domain}: xenstore-ls failed: ${stderr.trim()}`);
  }
  const backends = parseVifBackends(guest.id, code === 0 ? stdout : '');
  const interfaces = new Set(await readdir('/sys/class/net'));
  const choice = chooseVifs(domain, guest.id, await guestKind(domain), backends, interfaces);
  if ('refused' in choice) throw new OperatorError(choice.refused);
  const buffer = await NetworkBuffer.install({ domain }, choice.holds);
  let dropped = 0;
  let failed: ((reason: string) => void) | null = null;
  const look = setInterval(() => {
    buffer.stats().then(
      ({ queues }) => {
        dropped = [...queues.values()].reduce((sum, queue) => sum + queue.droppedPackets, 0);
      },
      (error: unknown) => failed?.((error as Error).message),
    );
  }, LOOK_MS);
  return {
    mark: async (epoch) => void (await buffer.mark(epoch)),
    release: async (epoch) => void (await buffer.release(epoch)),
    open: async () => {
      clearInterval(look);
      failed = null;
      for (let attempt = 1; ; attempt++) {
        try {
          await buffer.remove();
          return;
        } catch (error) {
          if (attempt === ATTEMPTS_MAX) throw error;
        }
      }
    },
    drop: async () => {
      clearInterval(look);
      failed = null;
      await dropOutput(domain);
    },
    dropped: () => dropped,
    onFailed: (callback) => {
      failed = callback;
    },
  };
}

/**
 * Deletes the queues of a guest that is gone, with what is in them: its output may never leave. Also from another
 * process than the one that made them.
 */
export async function dropOutput(domain: string): Promise<void> {
  const links = parseLinks(await must(['ip', '-j', 'link', 'show'], COMMAND_MS));
  for (const { name, alias } of links) {
    if (parseAlias(alias)?.domain !== domain) continue;
    await must(['ip', 'link', 'delete', 'dev', name], COMMAND_MS);
  }
}

async function guestKind(domain: string): Promise<'pvh' | 'hvm'> {
  const listed: unknown = JSON.parse(await must(['xl', 'list', '-l', domain], COMMAND_MS));
  const [entry] = Array.isArray(listed) ? (listed as unknown[]) : [listed];
  const type = (entry as { config?: { c_info?: { type?: unknown } } } | undefined)?.config?.c_info?.type;
  if (type === 'pvh' || type === 'hvm') return type;
  throw new OperatorError(`${domain}: it is a guest of type ${JSON.stringify(type)}; pvh or hvm is required`);
}
