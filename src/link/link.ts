/** A link between sender and receiver: one session's two connections, as one side has them. */
import type { ControlMessage, FromReceiver, FromSender, Hello, Welcome } from '../core/link/messages.js';
import type { BulkChannel } from './bulk.js';
import type { ControlChannel } from './control.js';

export interface Link<Out extends ControlMessage, In> {
  readonly hello: Hello;
  readonly welcome: Welcome;
  readonly control: ControlChannel<Out, In>;
  readonly bulk: BulkChannel;
  /**
   * Sends what waits on both connections, and closes them.
   * @param clean whether all of the stream that was to be sent has been
   */
  close(clean: boolean): Promise<void>;
}

export type SenderLink = Link<FromSender, FromReceiver>;
export type ReceiverLink = Link<FromReceiver, FromSender>;

/** The control connection of a cleanup. */
export type SenderControl = ControlChannel<FromSender, FromReceiver>;
export type ReceiverControl = ControlChannel<FromReceiver, FromSender>;

export function makeLink<Out extends ControlMessage, In>(parts: Omit<Link<Out, In>, 'close'>): Link<Out, In> {
  return {
    ...parts,
    close: async (clean) => {
      await Promise.all([parts.control.close(), parts.bulk.close(clean)]);
    },
  };
}

/** Where a link reports; a winston logger fits. */
export interface LinkLog {
  info(message: string, fields: Record<string, unknown>): unknown;
  warn(message: string, fields: Record<string, unknown>): unknown;
}
