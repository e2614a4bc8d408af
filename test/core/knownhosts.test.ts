/* eslint-disable no-console -- a skipped test says so */
import { createHmac, generateKeyPairSync, randomBytes } from 'node:crypto';
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import {
  fingerprint,
  judgeKey,
  keyTypeOf,
  parseKnownHosts,
  recordedKeyTypes,
} from '../../src/core/knownhosts.js';

const test = suite('known hosts');

const [a, b, c] = [ed25519(), ed25519(), ed25519()];
const rsa = blob('ssh-rsa', Buffer.from([1, 0, 1]));

const verdicts: { name: string; text: string; host?: string; port?: number; is: string }[] = [
  { name: 'plain name', text: line('alpha', a), is: 'known :1' },
  { name: 'one of several names', text: line('beta,alpha,192.0.2.1', a), is: 'known :1' },
  { name: 'names are compared in lower case', text: line('Alpha', a), host: 'ALPHA', is: 'known :1' },
  { name: 'another name', text: line('beta', a), is: 'unknown' },
  { name: 'a name is no prefix', text: line('alpha.example', a), is: 'unknown' },
  { name: 'a dot is a dot', text: line('alpha.b', a), host: 'alphaxb', is: 'unknown' },
  { name: 'no lines at all', text: '', is: 'unknown' },
  { name: 'another key of the type', text: line('alpha', b), is: 'changed :1' },
  { name: 'any line with the key will do', text: line('alpha', b) + line('alpha', a), is: 'known :2' },
  { name: 'a key of another type', text: line('alpha', rsa, 'ssh-rsa'), is: 'unknown others :1' },
  { name: 'star', text: line('*.example', a), host: 'alpha.example', is: 'known :1' },
  { name: 'two stars', text: line('a*a.*le', a), host: 'alpha.example', is: 'known :1' },
  { name: 'star needs the rest', text: line('*.example', a), host: 'example', is: 'unknown' },
  { name: 'question mark', text: line('alph?', a), is: 'known :1' },
  { name: 'question mark is one character', text: line('alpha?', a), is: 'unknown' },
  { name: 'negation after', text: line('*.example,!bad.example', a), host: 'bad.example', is: 'unknown' },
  { name: 'negation before', text: line('!bad.example,*.example', a), host: 'bad.example', is: 'unknown' },
  { name: 'negation of others', text: line('*.example,!bad.example', a), host: 'ok.example', is: 'known :1' },
  { name: 'negation alone matches nothing', text: line('!beta', a), is: 'unknown' },
  { name: 'port', text: line('[alpha]:2222', a), port: 2222, is: 'known :1' },
  { name: 'another port', text: line('[alpha]:2223', a), port: 2222, is: 'unknown' },
  { name: 'plain name serves another port', text: line('alpha', a), port: 2222, is: 'known :1' },
  { name: 'and is no word against it', text: line('alpha', b), port: 2222, is: 'unknown' },
  {
    name: 'but not beside a line for the port',
    text: line('alpha', a) + line('[alpha]:2222', b),
    port: 2222,
    is: 'changed :2',
  },
  { name: 'IPv6', text: line('2001:db8::1', a), host: '2001:db8::1', is: 'known :1' },
  { name: 'IPv6 and port', text: line('[2001:db8::1]:24', a), host: '2001:db8::1', port: 24, is: 'known :1' },
  { name: 'hashed', text: line(hashed('alpha'), a), is: 'known :1' },
  { name: 'hashed, other name', text: line(hashed('beta'), a), is: 'unknown' },
  { name: 'hashed with port', text: line(hashed('[alpha]:2222'), a), port: 2222, is: 'known :1' },
  { name: 'hashed, changed', text: line(hashed('alpha'), b), is: 'changed :1' },
  { name: 'revoked', text: `@revoked ${line('*', a)}${line('alpha', a)}`, is: 'revoked :1' },
  { name: 'revoked after', text: `${line('alpha', a)}@revoked ${line('alpha', a)}`, is: 'revoked :2' },
  { name: 'another key revoked', text: `@revoked ${line('*', b)}${line('alpha', a)}`, is: 'known :2' },
  {
    name: 'revoked for another host',
    text: `@revoked ${line('beta', a)}${line('alpha', a)}`,
    is: 'known :2',
  },
  { name: 'a revoked key makes none known', text: `@revoked ${line('alpha', b)}`, is: 'unknown' },
  {
    name: 'revoked under the plain name',
    text: `@revoked ${line('alpha', a)}`,
    port: 2222,
    is: 'revoked :1',
  },
  { name: 'an authority is no host key', text: `@cert-authority ${line('*', a)}`, is: 'unknown' },
  { name: 'comments and blanks', text: `# ${line('alpha', b)}\n  \n\t${line('alpha', a)}`, is: 'known :4' },
  { name: 'carriage returns', text: line('alpha', a).replace('\n', '\r\n'), is: 'known :1' },
  { name: 'a comment after the key', text: line('alpha', a).replace('\n', ' root@alpha\n'), is: 'known :1' },
];

for (const { name, text, host = 'alpha', port = 22, is } of verdicts) {
  test(name, () => {
    const { lines } = parseKnownHosts(text, '');
    const verdict = judgeKey(lines, host, port, a);
    const at =
      verdict.verdict === 'known' || verdict.verdict === 'revoked'
        ? [verdict.at]
        : verdict.verdict === 'changed'
          ? verdict.recorded
          : verdict.others;
    const others = verdict.verdict === 'unknown' && at.length > 0 ? ' others' : '';
    assert.is(`${verdict.verdict}${others}${at.map((found) => ` :${found.line}`).join('')}`, is);
  });
}

test('says which lines it does not use, and why', () => {
  const text = `@cert-authority ${line('*', a)}@other ${line('*', a)}alpha ssh-ed25519\nalpha ssh-ed25519 AAAA\n${line('alpha', a, 'ssh-rsa')}`;
  const { lines, ignored } = parseKnownHosts(text, 'file');
  assert.equal(lines, []);
  assert.equal(
    ignored.map((entry) => `${entry.file}:${entry.line}: ${entry.reason}`),
    [
      'file:1: host certificates are not supported, only plain host keys',
      'file:2: the marker @other is not known',
      'file:3: it has fewer than three fields',
      'file:4: it holds no ssh-ed25519 key',
      'file:5: it holds no ssh-rsa key',
    ],
  );
});

test('names the types to ask for', () => {
  const { lines } = parseKnownHosts(
    line('alpha', a) + line('alpha', b) + line('alpha', rsa, 'ssh-rsa') + `@revoked ${line('alpha', c)}`,
    '',
  );
  assert.equal(recordedKeyTypes(lines, 'alpha', 22), ['ssh-ed25519', 'ssh-rsa']);
  assert.equal(recordedKeyTypes(lines, 'alpha', 2222), ['ssh-ed25519', 'ssh-rsa']);
  assert.equal(recordedKeyTypes(lines, 'beta', 22), []);
});

test('any text is parsed, and never makes a key known that is not in it', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'@ |[]:*!,\n#=AQ1alphssed25519-') }), (text) => {
      const { lines } = parseKnownHosts(text, '');
      assert.is(judgeKey(lines, 'alpha', 22, a).verdict, 'unknown');
    }),
  );
});

test('any bytes have a key type or none', () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => void keyTypeOf(bytes)));
  assert.is(keyTypeOf(a), 'ssh-ed25519');
  assert.is(keyTypeOf(Buffer.from([0xff, 0xff, 0xff, 0xff, 1])), undefined);
});

test('agrees with ssh-keygen on hashes and fingerprints', () => {
  if (!existsSync('/usr/bin/ssh-keygen')) {
    if (process.env['CI'] === 'true') throw new Error('needs ssh-keygen (apt install openssh-client)');
    console.log('skipped: needs ssh-keygen (apt install openssh-client)');
    return;
  }
  const directory = mkdtempSync(join(tmpdir(), 'remus-drbd-test-'));
  try {
    const file = join(directory, 'known_hosts');
    writeFileSync(file, line('alpha', a) + line('[alpha]:2222', b));
    execFileSync('ssh-keygen', ['-q', '-H', '-f', file], { stdio: 'ignore' });
    const { lines, ignored } = parseKnownHosts(execFileSync('cat', [file]).toString(), file);
    assert.equal(ignored, []);
    assert.ok(lines.every((entry) => entry.patterns.startsWith('|1|')));
    assert.is(judgeKey(lines, 'alpha', 22, a).verdict, 'known');
    assert.is(judgeKey(lines, 'alpha', 2222, b).verdict, 'known');
    assert.is(judgeKey(lines, 'alpha', 2222, a).verdict, 'changed');
    const listed = execFileSync('ssh-keygen', ['-lf', file]).toString();
    assert.ok(listed.includes(fingerprint(a)), listed);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

function line(hosts: string, key: Buffer, type = 'ssh-ed25519'): string {
  return `${hosts} ${type} ${key.toString('base64')}\n`;
}

function hashed(name: string): string {
  const salt = randomBytes(20);
  return `|1|${salt.toString('base64')}|${createHmac('sha1', salt).update(name).digest('base64')}`;
}

function ed25519(): Buffer {
  const { publicKey } = generateKeyPairSync('ed25519');
  return blob('ssh-ed25519', publicKey.export({ format: 'der', type: 'spki' }).subarray(-32));
}

function blob(...fields: (string | Buffer)[]): Buffer {
  return Buffer.concat(
    fields.flatMap((field) => {
      const length = Buffer.alloc(4);
      length.writeUInt32BE(field.length);
      return [length, Buffer.from(field)];
    }),
  );
}

test.run();
