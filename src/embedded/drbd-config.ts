/**
 * DRBD's configuration files, as far as the embedded drbdadm needs them (drbd.conf(5)): sections in braces,
 * statements ended by semicolons, `#` comments, quoted words. It is a stand-in for a parser that this project
 * doesn't have to have: the rendered files are given to the real drbdadm elsewhere.
 */

export interface Statement {
  words: string[];
  /** Of a section: what is in its braces. */
  body?: Statement[];
}

export interface EmbeddedResource {
  name: string;
  file: string;
  /** Where the section begins, from 1. */
  line: number;
  /** All of its words, for comparison. */
  text: string;
  hosts: {
    name: string;
    family: string;
    address: string;
    port: number;
  }[];
  volumes: { volume: number; minor: number; disk: string; metaDisk: string }[];
}

interface Token {
  text: string;
  quoted: boolean;
  line: number;
}

/** @throws Error in drbdadm's manner, with file and line */
export function parseResources(file: string, text: string): EmbeddedResource[] {
  const tokens = tokenise(file, text);
  const resources: EmbeddedResource[] = [];
  let at = 0;
  const take = (): Token => {
    const token = tokens[at];
    if (token === undefined) throw new Error(`${file}: Parse error: unexpected end of file`);
    at += 1;
    return token;
  };
  const statement = (): Statement => {
    const words: string[] = [];
    for (;;) {
      const token = take();
      if (!token.quoted && token.text === ';') return { words };
      if (!token.quoted && token.text === '{') {
        const body: Statement[] = [];
        while (tokens[at]?.text !== '}') body.push(statement());
        take();
        return { words, body };
      }
      if (!token.quoted && token.text === '}') {
        throw new Error(`${file}:${token.line}: Parse error: '; ' expected,\n\tbut got '}'`);
      }
      words.push(token.text);
    }
  };
  while (at < tokens.length) {
    const start = at;
    const line = tokens[at]?.line ?? 1;
    const section = statement();
    if (section.words[0] !== 'resource') continue;
    const words = tokens.slice(start, at).map((token) => token.text);
    resources.push(readResource(section, file, line, words.join(' ')));
  }
  return resources;
}

function tokenise(file: string, text: string): Token[] {
  const tokens: Token[] = [];
  for (const [index, line] of text.split('\n').entries()) {
    const pattern = /\s*(?:(#.*)|"([^"]*)"|([{};])|([^\s{};"#]+))/y;
    while (pattern.lastIndex < line.trimEnd().length) {
      const match = pattern.exec(line);
      if (match === null) throw new Error(`${file}:${index + 1}: Parse error: a strange character`);
      const [, comment, quoted, mark, word] = match;
      if (comment !== undefined) break;
      tokens.push({ text: quoted ?? mark ?? word ?? '', quoted: quoted !== undefined, line: index + 1 });
    }
  }
  return tokens;
}

function readResource(section: Statement, file: string, line: number, text: string): EmbeddedResource {
  const body = section.body ?? [];
  const find = (statements: Statement[], word: string): Statement[] =>
    statements.filter(({ words }) => words[0] === word);
  const value = (statements: Statement[], word: string, index = 1): string =>
    find(statements, word)[0]?.words[index] ?? '';
  const volume = (
    number: number,
    inside: Statement[],
    metaDisk: string,
  ): EmbeddedResource['volumes'][number] => ({
    volume: number,
    minor: Number(value(inside, 'device', 2)),
    disk: value(inside, 'disk'),
    metaDisk: value(inside, metaDisk),
  });
  const hosts = find(body, 'on');
  const first = hosts[0]?.body;
  return {
    name: section.words[1] ?? '',
    file,
    line,
    text,
    hosts: hosts.map((on) => {
      const [, family = '', place = ''] = find(on.body ?? [], 'address')[0]?.words ?? [];
      const [address = '', port = ''] = place.split(/:(?=\d+$)/);
      return {
        name: on.words[1] ?? '',
        family,
        address: address.replace(/^\[(.*)\]$/, '$1'),
        port: Number(port),
      };
    }),
    // In the syntax of 8.3 a host has its one volume in itself.
    volumes:
      first !== undefined && find(first, 'device').length > 0
        ? [volume(0, first, 'flexible-meta-disk')]
        : find(body, 'volume').map(({ words, body: inside = [] }) =>
            volume(Number(words[1]), inside, 'meta-disk'),
          ),
  };
}
