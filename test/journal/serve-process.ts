/** A journal's server as a process that can be killed: serve-process.ts CONFIG. Prints one line when it serves. */
import { serveJournal } from '../../src/commands/journal-serve.js';

async function main(): Promise<void> {
  const configPath = process.argv[2] ?? '';
  const { stopped } = await serveJournal({
    configPath,
    log: { info: () => undefined, warn: () => undefined },
  });
  process.stdout.write('serving\n');
  await stopped;
}

void main();
