/** A program for device.test.ts to bundle: opens the device it is given, sends a barrier, prints how that failed. */
import { isMainThread } from 'node:worker_threads';

import { openDevice } from '../../../src/engine/protocol-d/device.js';

async function main(path: string): Promise<void> {
  try {
    const device = await openDevice(path);
    try {
      await device.sendBarrier(60_000);
      process.stdout.write('sent\n');
    } finally {
      device.close();
    }
  } catch (error) {
    process.stdout.write(`${error instanceof Error ? error.message : String(error)}\n`);
  }
}

if (isMainThread) void main(process.argv[2] ?? '');
else void import('../../../src/engine/protocol-d/device-worker.js');
