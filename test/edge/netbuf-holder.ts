/** Holds a guest's output until it is killed. Says `held` when it does. */
import { NetworkBuffer } from '../../src/edge/netbuf.js';

async function hold(): Promise<void> {
  const buffer = await NetworkBuffer.install({ domain: 'web' }, [{ vif: 'vif3.0', ifb: 'remus3.0' }]);
  await buffer.mark(1);
  process.stdout.write('held\n');
  setInterval(() => undefined, 60_000);
}

void hold();
