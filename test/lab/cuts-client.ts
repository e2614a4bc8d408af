/** ledger-client.ts as a program for a lab host: `node cuts-client.cjs NAME HOST LOG`. */
import { appendFileSync } from 'node:fs';
import { keepAsking } from './ledger-client.js';

const [name = '', host = '', log = ''] = process.argv.slice(2);
keepAsking({ name, host, tell: (line) => appendFileSync(log, `${JSON.stringify(line)}\n`) });
