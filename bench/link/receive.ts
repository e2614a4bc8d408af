/**
 * The receiving process of the benchmark: receive.ts FOLDER (tls | local)
 * Takes one link, writes what it receives to /dev/null, and acknowledges each checkpoint. Prints `port N` when it
 * listens and `cpu SECONDS` when the link has ended.
 */
import { openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { listenLink } from '../../src/link/server.js';

async function main(): Promise<void> {
  const [folder = '.', kind] = process.argv.slice(2);
  const sink = openSync('/dev/null', 'w');
  const path = (name: string): string => join(folder, name);
  const listener = await listenLink({
    listen:
      kind === 'tls'
        ? {
            address: '127.0.0.1',
            port: 0,
            tls: { certPath: path('beta.crt'), keyPath: path('beta.key'), peerCertPath: path('alpha.crt') },
          }
        : { path: path('link.sock') },
    program: '0',
    host: 'beta',
    log: { info: () => undefined, warn: console.error },
    authorise: () => ({ take: true, reason: 'benchmark' }),
    onCleanup: () => undefined,
    onSession: (link) => {
      const { domain, term, session } = link.hello;
      const begun = process.cpuUsage();
      link.control.start({ message: () => undefined, lost: () => undefined }, 0);
      link.bulk.start({
        item: (item) => {
          if (item.type === 'data') writeSync(sink, item.bytes);
          if (item.type === 'checkpoint') {
            link.control.send({ type: 'committed', domain, term, session, epoch: item.epoch });
          }
          if (item.type !== 'end') return;
          const { user, system } = process.cpuUsage(begun);
          console.log(`cpu ${(user + system) / 1e6}`);
          void link.close(true).then(() => listener.close());
        },
        lost: (loss) => {
          throw new Error(loss.reason);
        },
      });
    },
  });
  console.log(`port ${listener.port}`);
}

void main();
