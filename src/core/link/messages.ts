/**
 * The messages of the control connection, one JSON object in a frame of its own (`control-frames.ts`).
 *
 *     sender                                receiver
 *       hello (purpose control)       ->
 *                                     <-    welcome | refused (and closed)
 *       heartbeat, guest-ended, end   ->
 *                                     <-    begun                           (only then may a marker be written)
 *                                     <-    heartbeat, committed, ended
 *       module-ask, module-barrier    ->
 *                                     <-    module-side, module-failed     (engine: protocol-d alone)
 *
 * The bulk connection opens with the same hello (purpose bulk, same session) and its answer, then carries the
 * frames of `bulk.ts`. A cleanup (purpose cleanup) is a control connection alone.
 *
 * A new message is a schema here, in the union of its direction. A key that a message doesn't have is dropped, so
 * that a newer peer may add one; a type that a direction doesn't have is an error.
 */
import { z } from 'zod';
import { HOST_NAME, NAME } from '../patterns.js';
import { LinkError } from './errors.js';

/** Raised when either side would misunderstand the other; both sides have to have the same. */
export const LINK_PROTOCOL = 1;

const text = z.string().max(4096);
const count = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const hostName = z.string().regex(HOST_NAME);
const name = z.string().regex(NAME);
const program = z.string().regex(/^[0-9A-Za-z.+-]{1,64}$/);
const session = z.string().regex(/^[0-9a-f]{32}$/);
/** At least 1: a term begins when protection is asked for. */
const term = z.number().int().min(1).max(Number.MAX_SAFE_INTEGER);

export const RefusalCode = z.enum([
  'protocol-version',
  'wrong-domain',
  'wrong-peer',
  'old-term',
  'replayed-session',
  'busy',
  'not-ready',
]);
export type RefusalCode = z.output<typeof RefusalCode>;

const hello = z.object({
  type: z.literal('hello'),
  protocol: count,
  program,
  purpose: z.enum(['control', 'bulk', 'cleanup']),
  pair: name,
  domain: name,
  /** The host that the sender runs on. */
  from: hostName,
  term,
  /** Random, 32 hex digits, never used twice. */
  session,
  intervalMs: z.number().int().min(1).max(3_600_000),
});
export type Hello = z.output<typeof hello>;

/** All that can be read of a hello of another protocol. */
export interface OtherHello {
  type: 'hello';
  protocol: number;
  purpose: 'unknown';
}

const welcome = z.object({
  type: z.literal('welcome'),
  protocol: count,
  program,
  /** The host that the receiver runs on. */
  host: hostName,
});
export type Welcome = z.output<typeof welcome>;

const refused = z.object({ type: z.literal('refused'), code: RefusalCode, reason: text });

const helloAnswer = z.discriminatedUnion('type', [welcome, refused]);
export type HelloAnswer = z.output<typeof helloAnswer>;

const heartbeat = z.object({
  type: z.literal('heartbeat'),
  sequence: count,
  /** The sending host's own clock; of use only to compare with other heartbeats from there. */
  sentMs: z.number().min(0).max(Number.MAX_SAFE_INTEGER),
  state: text,
});

const guestEnded = z.object({
  type: z.literal('guest-ended'),
  how: z.enum(['poweroff', 'reboot', 'crash', 'destroyed']),
});

/** Protection ends, and the primary goes on. */
const end = z.object({
  type: z.literal('end'),
  reason: z.enum(['unprotect', 'suspend', 'guest-ended', 'failed']),
  detail: text,
});

/** Cleanup asks: the primary goes on, the receiver is to end this term. Unless a crashed guest's copy is to go on. */
const dropTerm = z.object({
  type: z.literal('drop-term'),
  reason: text,
  crashed: z.literal(true).optional(),
});

/** The acknowledgement of a checkpoint. Whoever reads it compares every part. */
const committed = z.object({ type: z.literal('committed'), domain: name, term, session, epoch: count });

/**
 * The session is open on the receiver's disks. Before that a marker would close nothing, and its epoch would wait for
 * ever.
 */
const begun = z.object({ type: z.literal('begun') });

const ended = z.object({
  type: z.literal('ended'),
  outcome: z.enum(['rolled-forward', 'claimed', 'refused']),
  reason: text,
});

/** To the host with the backup's DRBD module: what it is to do; it answers with the same number. */
const moduleAsk = z.object({
  type: z.literal('module-ask'),
  what: z.enum(['look', 'promote', 'demote']),
  number: count,
});

/** The module there has acknowledged the barrier of this epoch: the backup's disk is at it. */
const moduleBarrier = z.object({ type: z.literal('module-barrier'), epoch: count });

/** What `/proc/drbd` says of the resource, as it prints it: in answer, or when an epoch's memory is complete. */
const moduleSide = z.object({
  type: z.literal('module-side'),
  of: z.enum(['answer', 'memory']),
  /** Of the question, or of the epoch. */
  number: count,
  procDrbd: text,
});

const moduleFailed = z.object({ type: z.literal('module-failed'), number: count, reason: text });

const fromSender = z.discriminatedUnion('type', [
  heartbeat,
  guestEnded,
  end,
  dropTerm,
  moduleAsk,
  moduleBarrier,
]);
export type FromSender = z.output<typeof fromSender>;

const fromReceiver = z.discriminatedUnion('type', [
  heartbeat,
  begun,
  committed,
  ended,
  moduleSide,
  moduleFailed,
]);
export type FromReceiver = z.output<typeof fromReceiver>;

export type ToModule = z.output<typeof moduleAsk> | z.output<typeof moduleBarrier>;
export type FromModule = z.output<typeof moduleSide> | z.output<typeof moduleFailed>;

export type ControlMessage = Hello | HelloAnswer | FromSender | FromReceiver;

/** Reads one side's messages. @throws LinkError */
export type ReadMessage<T> = (json: unknown) => T;

export const readFromSender: ReadMessage<FromSender> = reader('the sender', fromSender);
export const readFromReceiver: ReadMessage<FromReceiver> = reader('the receiver', fromReceiver);
export const readHelloAnswer: ReadMessage<HelloAnswer> = reader(
  'the receiver, in answer to hello',
  helloAnswer,
);

const readHelloHere = reader('the sender, to begin with', hello);
const anyHello = z.object({ type: z.literal('hello'), protocol: count });

/**
 * Reads the first message of a connection.
 * @returns only the number where the peer speaks another protocol, whose other keys mean nothing here
 * @throws LinkError
 */
export function readHello(json: unknown): Hello | OtherHello {
  const any = anyHello.safeParse(json);
  if (any.success && any.data.protocol !== LINK_PROTOCOL) return { ...any.data, purpose: 'unknown' };
  return readHelloHere(json);
}

function reader<T>(from: string, schema: z.ZodType<T>): ReadMessage<T> {
  return (json) => {
    const result = schema.safeParse(json);
    if (result.success) return result.data;
    const [issue] = result.error.issues;
    const where =
      issue === undefined || issue.path.length === 0 ? '' : `${issue.path.map(String).join('.')}: `;
    throw new LinkError('message', `no message of ${from}: ${where}${issue?.message ?? 'unreadable'}`);
  };
}
