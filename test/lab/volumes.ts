/** What lies below DRBD, on both hosts of the lab. */
import * as assert from 'uvu/assert';
import { lab } from '../../scripts/lab/hosts.js';
import { hostNames } from '../../scripts/lab/plan.js';

/** The same content of these mapper devices on both hosts: never an empty one by mistake. Nothing may write to them. */
export async function assertEqualVolumes(...names: string[]): Promise<void> {
  for (const name of names) {
    const script = `d=/dev/mapper/${name}; blockdev --flushbufs $d; blockdev --getsize64 $d; dd if=$d bs=1M 2>/dev/null | sha256sum`;
    const [one, other] = await Promise.all(
      hostNames.map(async (host) => (await lab.host(host).sh(script)).stdout.trim()),
    );
    assert.match(one ?? '', /^[1-9][0-9]+\n[0-9a-f]{64} /);
    assert.is(one, other, name);
  }
}
