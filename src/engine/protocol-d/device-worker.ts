/**
 * The thread that asks the DRBD device: it opens the device, and makes one ioctl for each message, one after the
 * other. It runs where this module is loaded as a worker that device.ts has started, and nowhere else.
 */

import { openSync } from 'node:fs';
import { isMainThread, parentPort, workerData } from 'node:worker_threads';

import koffi from 'koffi';

import type { DeviceJob, DeviceMessage, IoctlRequest } from './device.js';

if (!isMainThread && isDeviceJob(workerData)) serve(workerData);

function isDeviceJob(data: unknown): data is DeviceJob {
  return (
    typeof data === 'object' &&
    data !== null &&
    'remusDrbdWorker' in data &&
    data.remusDrbdWorker === 'protocol-d-device'
  );
}

function serve({ path }: DeviceJob): void {
  const port = parentPort;
  if (port === null) throw new Error('a worker has a port to its parent');
  const say = (message: DeviceMessage): void => port.postMessage(message);
  let fd: number;
  try {
    // Reading only, as libxl opens it: the device has to take no writes for this.
    fd = openSync(path, 'r');
  } catch (error) {
    say({ kind: 'open-failed', message: error instanceof Error ? error.message : String(error) });
    port.close();
    return;
  }
  const ioctl = koffi
    .load('libc.so.6')
    .func('int ioctl(int fd, unsigned long request, unsigned long argument)') as (
    fd: number,
    request: number,
    argument: number,
  ) => number;
  port.on('message', ({ id, request }: IoctlRequest) => {
    const result = ioctl(fd, request, 0);
    say({ kind: 'result', id, result, errno: result === -1 ? koffi.errno() : 0 });
  });
  say({ kind: 'open' });
}
