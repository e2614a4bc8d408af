/**
 * A receiver in a process of its own, to be killed or stopped: peer.ts FOLDER (read | stuck).
 * Prints `port N`; sends a heartbeat on control for each that it gets. `stuck` never takes an item of bulk.
 */
import { join } from 'node:path';
import { listenLink } from '../../src/link/server.js';

async function main(): Promise<void> {
  const [folder = '.', mode] = process.argv.slice(2);
  const path = (name: string): string => join(folder, name);
  const listener = await listenLink({
    listen: {
      address: '127.0.0.1',
      port: 0,
      tls: { certPath: path('beta.crt'), keyPath: path('beta.key'), peerCertPath: path('alpha.crt') },
    },
    program: '0.1.0',
    host: 'beta',
    log: { info: () => undefined, warn: () => undefined },
    authorise: () => ({ take: true, reason: 'a test' }),
    onCleanup: () => undefined,
    onSession: ({ control, bulk }) => {
      control.start(
        { message: (m) => m.type === 'heartbeat' && control.send(m), lost: () => process.exit(0) },
        0,
      );
      bulk.start({
        item: () => (mode === 'stuck' ? new Promise(() => undefined) : undefined),
        lost: () => undefined,
      });
    },
  });
  process.stdout.write(`port ${listener.port}\n`);
}

void main();
