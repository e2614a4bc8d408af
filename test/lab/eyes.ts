/** Puts the product with eyes (ledger-bundle.ts) in the place of both units' programs on the lab's hosts. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LabHost } from '../../scripts/lab/hosts.js';
import { bundleWithEyes } from './ledger-bundle.js';
import type { StandIns } from './ledger-bundle.js';

/** Of all programs that a test lays on a host, beside the product's native parts. */
export const PROGRAMS = '/root/remus-lab';
const PROGRAM = `${PROGRAMS}/remus-drbd.cjs`;

export interface EyesOptions {
  /** How long they stay there. */
  until: 'reboot' | 'fresh';
  /** Made anew on each host: where they tell what they see. */
  directory: string;
}

/** After setup, and before protection. */
export async function openEyes(
  hosts: readonly LabHost[],
  standIns: StandIns,
  { until, directory }: EyesOptions,
): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'remus-lab-eyes-'));
  try {
    const path = join(folder, 'remus-drbd.cjs');
    await bundleWithEyes(path, standIns);
    const program = readFileSync(path);
    const sender = `/usr/sbin/xl remus -F -n -d -i \${INTERVAL_MS} -s "/usr/bin/node ${PROGRAM} sender %i --" %i \${BACKUP}`;
    const receiver = `/usr/bin/node ${PROGRAM} receiver %i`;
    const unit = (line: string): string => `[Service]\nExecStart=\nExecStart=${line}\n`;
    const units = until === 'reboot' ? '/run/systemd/system' : '/etc/systemd/system';
    await Promise.all(
      hosts.map(async (host) => {
        await host.write(PROGRAM, program);
        await host.write(`${units}/remus-sender@web.service.d/lab.conf`, unit(sender));
        await host.write(`${units}/remus-receiver@web.service.d/lab.conf`, unit(receiver));
        await host.sh(
          `ln -sfn /usr/lib/remus-drbd/node_modules ${PROGRAMS}/node_modules; rm -rf ${directory}; mkdir -p ${directory}; systemctl daemon-reload; sync`,
        );
      }),
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
