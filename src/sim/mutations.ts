/**
 * Faults put into the machines on purpose: each wraps a production step function, or leaves out an act, in a way in
 * which somebody could have got it wrong. The simulator has to find every one of them.
 */
import { receiverStep } from '../core/protect/receiver.js';
import type {
  ReceiverEffect,
  ReceiverInput,
  ReceiverState,
  ReceiverStepResult,
} from '../core/protect/receiver.js';
import { senderStep } from '../core/protect/sender.js';
import type { SenderEffect, SenderInput, SenderState, SenderStep } from '../core/protect/sender.js';
import { stepMarks } from '../core/netbuf/marks.js';
import { winnerOf } from '../core/protect/recovery.js';
import { productionMachines } from './machines.js';
import type { Machines } from './machines.js';
import type { Guarantee } from './world.js';

export interface Mutation {
  name: string;
  machines: Machines;
  /** Guarantees whose violation shows it. */
  breaks: readonly Guarantee[];
}

type SenderChange = (state: SenderState, input: SenderInput) => SenderStep;
type ReceiverChange = (state: ReceiverState, input: ReceiverInput) => ReceiverStepResult;

const sender = (name: string, breaks: readonly Guarantee[], change: SenderChange): Mutation => ({
  name,
  breaks,
  machines: { ...productionMachines, senderStep: change },
});
const receiver = (name: string, breaks: readonly Guarantee[], change: ReceiverChange): Mutation => ({
  name,
  breaks,
  machines: { ...productionMachines, receiverStep: change },
});
const marks = (name: string, breaks: readonly Guarantee[], change: Machines['stepMarks']): Mutation => ({
  name,
  breaks,
  machines: { ...productionMachines, stepMarks: change },
});
const recovery = (name: string, breaks: readonly Guarantee[], change: Machines['winnerOf']): Mutation => ({
  name,
  breaks,
  machines: { ...productionMachines, winnerOf: change },
});
const skip = (name: string, breaks: readonly Guarantee[], ...acts: string[]): Mutation => ({
  name,
  breaks,
  machines: { ...productionMachines, skips: new Set(acts) },
});

/** The same step with an effect more after each one that `also` answers for. */
function withAlso(step: SenderStep, also: (effect: SenderEffect) => SenderEffect[]): SenderStep {
  return { ...step, effects: step.effects.flatMap((effect) => [effect, ...also(effect)]) };
}

/** Of the two that the gate waits for, this one is taken for done as soon as the other one is. */
const gateWithout =
  (part: 'marked' | 'written'): SenderChange =>
  (state, input) => {
    const other = part === 'marked' ? 'marker-written' : 'network-marked';
    const { hold } = state;
    const isDone = input.type === other && hold !== null;
    return senderStep(isDone ? { ...state, hold: { ...hold, [part]: true } } : state, input);
  };

const isOn = ({ phase }: ReceiverState): boolean => phase === 'live' || phase === 'on';

export const MUTATIONS: readonly Mutation[] = [
  receiver('acknowledged before the commit is durable', ['output'], (state, input) => {
    const { state: next, effects } = receiverStep(state, input);
    const early = effects.flatMap((effect): ReceiverEffect[] => {
      if (effect.type === 'acknowledge') return [];
      return effect.type === 'commit' ? [{ type: 'acknowledge', epoch: effect.epoch }, effect] : [effect];
    });
    return { state: next, effects: early };
  }),
  receiver('committed without the marker', ['atomic'], (state, input) => {
    if (input.type === 'memory' && typeof input.counts === 'number' && input.counts > 0) {
      return receiverStep({ ...state, marker: Math.max(state.marker, input.counts) }, input);
    }
    if (input.type === 'marker' && input.epoch <= state.marker) return { state, effects: [] };
    return receiverStep(state, input);
  }),
  receiver('committed without the memory', ['atomic'], (state, input) => {
    if (input.type === 'marker') {
      return receiverStep({ ...state, memory: Math.max(state.memory, input.epoch) }, input);
    }
    if (input.type === 'memory' && typeof input.counts === 'number' && input.counts > 0) {
      if (input.counts <= state.memory) return receiverStep(state, { ...input, counts: 'before' });
    }
    return receiverStep(state, input);
  }),
  receiver('CHECKPOINT_END passed on before the commit', ['atomic'], (state, input) => {
    const { state: next, effects } = receiverStep(state, input);
    if (input.type !== 'memory' || !isOn(next)) return { state: next, effects };
    const passes = next.held.map((epoch): ReceiverEffect => ({ type: 'pass-checkpoint', epoch }));
    return { state: { ...next, held: [] }, effects: [...effects, ...passes] };
  }),
  receiver('a folded checkpoint counts with the epoch before', ['atomic'], (state, input) =>
    receiverStep(
      state,
      input.type === 'memory' && input.counts === 'folded' ? { ...input, counts: 'before' } : input,
    ),
  ),
  receiver('the copy is started without a claim', ['two', 'lost'], (state, input) => {
    const result = receiverStep(state, input);
    if (!result.effects.some(({ type }) => type === 'claim')) return result;
    return receiverStep(result.state, {
      type: 'claimed',
      decision: 'backup',
      reason: 'nobody was asked',
      nowMs: input.nowMs,
    });
  }),
  receiver('a lost claim is taken for a won one', ['two', 'progress'], (state, input) =>
    receiverStep(state, input.type === 'claimed' ? { ...input, decision: 'backup' } : input),
  ),
  receiver('the decision is not durable before its effects', ['two'], (state, input) => {
    if (input.type === 'decision-durable' && state.phase !== 'deciding') return { state, effects: [] };
    const decided = receiverStep(state, input);
    if (!decided.effects.some(({ type }) => type === 'decide')) return decided;
    const followed = receiverStep(decided.state, { type: 'decision-durable', nowMs: input.nowMs });
    return { state: followed.state, effects: [...decided.effects, ...followed.effects] };
  }),
  receiver('agreed with the primary after the arbiter was asked', ['two'], (state, input) =>
    receiverStep(input.type === 'drop-term' ? { ...state, mayHaveWon: false } : state, input),
  ),
  receiver('a second decision in the same term', ['two', 'program'], (state, input) => {
    const isSecond =
      (input.type === 'failover-asked' || (input.type === 'claimed' && input.decision === 'backup')) &&
      (state.phase === 'deciding' || state.phase === 'giving-up') &&
      state.decision === 'primary';
    if (!isSecond) return receiverStep(state, input);
    return receiverStep(
      { ...state, phase: 'claiming', decision: null, step: null },
      { type: 'claimed', decision: 'backup', reason: input.reason, nowMs: input.nowMs },
    );
  }),
  receiver('a guest that ended of itself is taken over', ['policy'], (state, input) =>
    receiverStep(
      state,
      input.type === 'end' && input.guest !== null && state.phase === 'on'
        ? { type: 'failover-asked', reason: input.reason, nowMs: input.nowMs }
        : input,
    ),
  ),
  sender('the primary claims at once when the guest has crashed', ['policy'], (state, input) => {
    const step = senderStep(state, input);
    const atOnce = (effect: SenderEffect): SenderEffect =>
      effect.type === 'claim' ? { ...effect, crashed: false } : effect;
    return { ...step, effects: step.effects.map(atOnce) };
  }),
  recovery('started anew where the term was lost', ['lost', 'progress'], (hosts) => {
    const winner = winnerOf(hosts);
    return winner === undefined ? undefined : hosts.find((host) => host !== winner);
  }),
  skip('the journal answers flushes and does nothing', ['lost', 'atomic', 'disks', 'program'], 'flush'),
  skip('the journal is not discarded', ['atomic', 'disks'], 'discard'),
  skip('discarded blocks are not marked', ['disks'], 'mark-discarded'),
  skip('DRBD is not disconnected before the discard', ['atomic', 'progress'], 'disconnect'),
  skip('the journal is not rolled forward', ['disks', 'atomic', 'lost', 'progress'], 'roll-forward'),
  skip('the journal keeps no room for the disconnect', ['progress'], 'open-reserve'),
  skip('that room is given free while DRBD still takes writes', ['progress'], 'open-reserve early'),
  skip('gives way and does not destroy the guest', ['two'], 'destroy'),
  skip(
    'a resync comes into an open session',
    ['atomic', 'lost', 'output', 'disks', 'progress'],
    'before-resync-target',
  ),
  sender('released when it is sent', ['output'], (state, input) =>
    withAlso(senderStep(state, input), (effect) =>
      effect.type === 'send-checkpoint' && typeof effect.counts === 'number' && effect.counts > 0
        ? [{ type: 'release-network', epoch: effect.counts }]
        : [],
    ),
  ),
  sender('released when it is marked', ['output'], (state, input) =>
    withAlso(senderStep(state, input), (effect) =>
      effect.type === 'read-on' && effect.epoch !== null
        ? [{ type: 'release-network', epoch: effect.epoch }]
        : [],
    ),
  ),
  sender('the claim is ignored', ['two', 'output'], (state, input) => {
    const result = senderStep(state, input);
    if (!result.effects.some(({ type }) => type === 'claim')) return result;
    return senderStep(result.state, {
      type: 'claimed',
      decision: 'primary',
      reason: 'nobody was asked',
      nowMs: input.nowMs,
    });
  }),
  sender('goes on without a claim before the first acknowledgement', ['two', 'lost'], (state, input) => {
    const result = senderStep(state, input);
    if (state.lastCommitted > 0 || !result.effects.some(({ type }) => type === 'claim')) return result;
    return senderStep(result.state, {
      type: 'claimed',
      decision: 'primary',
      reason: 'nothing was acknowledged',
      nowMs: input.nowMs,
    });
  }),
  sender('the term of an acknowledgement is not checked', ['output'], (state, input) =>
    senderStep(state, input.type === 'committed' ? { ...input, identity: state.options.identity } : input),
  ),
  sender('the session of an acknowledgement is not checked', ['output'], (state, input) => {
    const { session } = state.options.identity;
    return senderStep(
      state,
      input.type === 'committed' ? { ...input, identity: { ...input.identity, session } } : input,
    );
  }),
  sender('the epoch of an acknowledgement is not checked', ['output', 'program'], (state, input) => {
    if (input.type !== 'committed' || state.phase === 'claiming') return senderStep(state, input);
    const { epoch } = input;
    return senderStep(
      { ...state, lastCommitted: epoch - 1, lastSent: Math.max(state.lastSent, epoch) },
      input,
    );
  }),
  sender('the gate opens before the marker is written', ['atomic'], gateWithout('written')),
  sender('the marker is written when the gate is open', ['atomic'], (state, input) => {
    const step = gateWithout('written')(state, input);
    const effects = step.effects.filter(({ type }) => type !== 'write-marker');
    return withAlso({ ...step, effects }, (effect) =>
      effect.type === 'read-on' && effect.epoch !== null
        ? [{ type: 'write-marker', epoch: effect.epoch }]
        : [],
    );
  }),
  sender('a checkpoint that waits for a commit is never begun', ['progress'], (state, input) => {
    if (input.type !== 'committed' || !state.waiting) return senderStep(state, input);
    const step = senderStep({ ...state, waiting: false }, input);
    return step.state.phase === 'holding' ? { ...step, state: { ...step.state, waiting: true } } : step;
  }),
  sender('the gate opens before the network is marked', ['output'], gateWithout('marked')),
  sender('a missed checkpoint counts with the epoch before', ['atomic', 'lost'], (state, input) =>
    input.type === 'epoch-missed' ? { state, effects: [] } : senderStep(state, input),
  ),
  sender('protected is said for ever', ['silent'], (state, input) => {
    const result = senderStep(state, input);
    const { phase, lastCommitted } = result.state;
    if ((phase !== 'running' && phase !== 'holding') || lastCommitted === 0) return result;
    return { ...result, state: { ...result.state, committedAtMs: input.nowMs, diskLostSinceMs: null } };
  }),
  marks('a second mark over a pending one', ['output'], (state, input) => {
    const step = stepMarks(state, input);
    const isOver = input.kind === 'mark' && state.phase === 'held' && state.pending !== null;
    return isOver && step.effect === 'none' ? { ...step, effect: 'block' } : step;
  }),
  marks('the release of an earlier checkpoint releases the pending mark', ['output'], (state, input) => {
    if (input.kind !== 'release' || state.phase !== 'held' || state.pending === null)
      return stepMarks(state, input);
    return stepMarks(state, {
      kind: 'release',
      checkpoint: Math.max(input.checkpoint, state.pending.checkpoint),
    });
  }),
];
