/**
 * The setting `unsafe-may-split`: automatic failover with nobody to ask. Every claim is won, by both hosts when
 * both claim, and then two copies of the guest run.
 */
import {
  checkClaimant,
  claimName,
  type Arbiter,
  type ClaimAnswer,
  type ClaimKey,
} from '../core/claim/types.js';

export const unsafeArbiter: Arbiter = {
  name: 'unsafe-may-split',

  // eslint-disable-next-line @typescript-eslint/require-await -- so that a key that is none is a rejection
  async claim(key: ClaimKey, host: string): Promise<ClaimAnswer> {
    claimName(key);
    checkClaimant(host);
    const reason =
      'UNSAFE: unsafe-may-split is configured, so nobody was asked; if the other host is alive, ' +
      'two copies of the guest run now';
    return { kind: 'won', reason };
  },
  look: () => Promise.resolve({ kind: 'free' }),
  reach: () => Promise.resolve({ reached: true, detail: 'UNSAFE: there is nobody to ask' }),
  close: () => Promise.resolve(),
};
