/**
 * One member of an etcd cluster, by the JSON gateway of its v3 API (etcd 3.4 or later: POST /v3/...; "gRPC
 * gateway" in etcd's documentation). Keys and values are base64, numbers are text, and what is false or empty is
 * left out of an answer.
 *
 * With a user, a token is asked for first and kept until etcd no longer takes it. The password is read from its
 * file each time, so that it can be changed there.
 *
 * `fetch` is not used, since it takes no certificate authority of its own in Node 18. Each request has its own
 * connection: claims are rare, and a kept connection to a member that was restarted would fail the next one.
 */
import { readFile } from 'node:fs/promises';
import * as http from 'node:http';
import * as https from 'node:https';

export interface EtcdCredentials {
  user?: string;
  /** Its first line is the password. */
  passwordFile?: string;
  /** The certificate authority of the members, PEM; the system's ones where there is none. */
  caFile?: string;
  /**
   * This host's certificate and key for members that ask for one, PEM. With a user, it may have no common name:
   * etcd's gateway refuses those, since it can't take them for the user's name.
   */
  certFile?: string;
  keyFile?: string;
}

/** An answer is a few hundred bytes; the names of roles and members in an error may make it longer. */
const ANSWER_BYTES_MAX = 64 * 1024;
const SECRET_BYTES_MAX = 256 * 1024;

/** Why a member gave no answer that says anything. Its message is for `reason`. */
export class EtcdError extends Error {
  /** The member did not take the token. */
  readonly tokenRefused: boolean;

  constructor(message: string, tokenRefused = false) {
    super(message);
    this.name = 'EtcdError';
    this.tokenRefused = tokenRefused;
  }
}

export class EtcdMember {
  /** Its base URL, such as `https://192.0.2.9:2379`. */
  readonly endpoint: string;
  readonly #credentials: EtcdCredentials;
  #token: string | undefined;

  constructor(endpoint: string, credentials: EtcdCredentials) {
    this.endpoint = endpoint;
    this.#credentials = credentials;
  }

  /**
   * One call of the API.
   *
   * @param path such as `/v3/kv/txn`
   * @throws EtcdError when it gave no good answer; whether it did what was asked is then not known
   */
  async call(path: string, body: object, signal: AbortSignal): Promise<Record<string, unknown>> {
    if (this.#credentials.user === undefined) return this.#post(path, body, signal);
    const kept = this.#token;
    try {
      return await this.#post(path, body, signal, kept ?? (await this.#authenticate(signal)));
    } catch (error) {
      // A new token that isn't taken is no use asking for again.
      if (kept === undefined || !(error instanceof EtcdError) || !error.tokenRefused) throw error;
      return this.#post(path, body, signal, await this.#authenticate(signal));
    }
  }

  async #authenticate(signal: AbortSignal): Promise<string> {
    this.#token = undefined;
    const { user, passwordFile } = this.#credentials;
    const text = passwordFile === undefined ? '' : await readSecret(passwordFile);
    const password = text.split(/\r?\n/, 1)[0] ?? '';
    const { token } = await this.#post('/v3/auth/authenticate', { name: user, password }, signal);
    // It becomes a header, where nothing else may get in.
    if (typeof token !== 'string' || !/^[\x21-\x7e]{1,4096}$/.test(token)) {
      throw new EtcdError(`it gave user ${user} no token`);
    }
    this.#token = token;
    return token;
  }

  async #post(
    path: string,
    body: object,
    signal: AbortSignal,
    token?: string,
  ): Promise<Record<string, unknown>> {
    const { caFile, certFile, keyFile } = this.#credentials;
    const secure = this.endpoint.startsWith('https:');
    const url = new URL(path, this.endpoint);
    const content = JSON.stringify(body);
    const headers: http.OutgoingHttpHeaders = {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(content),
      ...(token === undefined ? {} : { authorization: token }),
    };
    const options: https.RequestOptions = { method: 'POST', headers, signal, agent: false };
    if (secure) {
      options.minVersion = 'TLSv1.2';
      if (caFile !== undefined) options.ca = await readSecret(caFile);
      if (certFile !== undefined) options.cert = await readSecret(certFile);
      if (keyFile !== undefined) options.key = await readSecret(keyFile);
    }
    const { status, text } = await new Promise<{ status: number; text: string }>((resolve, reject) => {
      const request = (secure ? https : http).request(url, options, (response) => {
        const chunks: Buffer[] = [];
        let bytes = 0;
        response.on('data', (chunk: Buffer) => {
          bytes += chunk.byteLength;
          if (bytes > ANSWER_BYTES_MAX)
            request.destroy(new Error(`an answer of over ${ANSWER_BYTES_MAX} bytes`));
          else chunks.push(chunk);
        });
        response.on('end', () => {
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString('utf8') });
        });
        response.on('error', reject);
      });
      request.on('error', reject);
      request.end(content);
    }).catch((error: unknown) => {
      throw new EtcdError(signal.aborted ? 'no answer in time' : (error as Error).message);
    });
    const answer = parseObject(text);
    if (status === 200 && answer !== undefined) return answer;
    const { error: said, message } = answer ?? {};
    const why = typeof said === 'string' ? said : typeof message === 'string' ? message : clip(text);
    // The second one: users or roles were changed since the token was made.
    const refused = status === 401 || /invalid auth token|revision of auth store is old/.test(why);
    throw new EtcdError(`${why} (HTTP status ${status})`, refused);
  }
}

async function readSecret(path: string): Promise<string> {
  try {
    const text = await readFile(path, 'utf8');
    if (text.length > SECRET_BYTES_MAX) throw new Error(`${path} is longer than ${SECRET_BYTES_MAX} bytes`);
    return text;
  } catch (error) {
    throw new EtcdError((error as Error).message);
  }
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

function clip(text: string): string {
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > 200 ? `${line.slice(0, 200)}...` : line || 'an empty answer';
}
