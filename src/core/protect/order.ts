/**
 * /run/remus-drbd/DOMAIN/order.json: what `protect` asked for, the same on both hosts. It is in /run because it
 * is about processes of this boot; the term itself is kept in /var/lib (`src/core/claim/term.ts`).
 */
import { z } from 'zod';

const schema = z.strictObject({
  format: z.literal(1),
  pair: z.string(),
  domain: z.string(),
  term: z.number().int().min(1),
  session: z.string().regex(/^[0-9a-f]{32}$/),
  /** The hosts' parts in this term, which may be other ones than those configured. */
  primary: z.string(),
  backup: z.string(),
  intervalMs: z.number().int().min(1),
  network: z.boolean(),
  disk: z.boolean(),
});

export type Order = z.output<typeof schema>;

export function formatOrder(order: Order): string {
  return `${JSON.stringify(order)}\n`;
}

/** @throws Error for anything but a whole order */
export function parseOrder(text: string): Order {
  return schema.parse(JSON.parse(text));
}
