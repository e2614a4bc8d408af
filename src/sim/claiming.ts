/** How a modelled host asks who goes on, in the way of `src/protect/claim.ts`. */
import type { Decision } from '../core/protect/types.js';
import type { Owner } from './model-time.js';
import type { Host } from './host.js';
import type { Term, World } from './world.js';

const CLAIM_MS = 10_000;
const CLEANUP_MS = 5_000;
const AGAIN_MS = 500;
const TURN_MS = 100;
const FIRST_WORD = { silentMs: 10_000, undecidedMs: 60_000 };

/** What the primary asks. `crashed`: the guest has, and its copy is to go on. */
export interface Asked {
  reason: string;
  crashed: boolean;
}

export interface Outcome {
  decision: Decision;
  reason: string;
}

/** Asks the arbiter until it decides. */
export function claimFrom(
  world: World,
  term: Term,
  host: Host,
  owner: Owner,
  isOver: () => boolean,
  onUndecided: (reason: string) => void,
  decided: (outcome: Outcome) => void,
): void {
  if (isOver()) return;
  world.arbiter.claim(host, owner, term.number, CLAIM_MS, (answer) => {
    if (isOver()) return;
    if (answer.kind === 'undecided') {
      onUndecided(answer.reason);
      world.time.later(answer.retryMs, owner, () =>
        claimFrom(world, term, host, owner, isOver, onUndecided, decided),
      );
      return;
    }
    const winner = answer.kind === 'won' ? host.name : answer.winner;
    decided({ decision: winner === term.primary.name ? 'primary' : 'backup', reason: answer.reason });
  });
}

type Question = { type: 'drop-term' } | { type: 'answer'; decision: Decision | null; reason: string };

function askReceiver(
  world: World,
  term: Term,
  owner: Owner,
  asked: Asked,
  isOver: () => boolean,
  onUndecided: (reason: string) => void,
  onAnswered: () => void,
  decided: (outcome: Outcome) => void,
): void {
  if (isOver()) return;
  const { time, network } = world;
  const again = (): void => askReceiver(world, term, owner, asked, isOver, onUndecided, onAnswered, decided);
  let isAnswered = false;
  const end = (outcome: Outcome | string): void => {
    if (isAnswered || isOver()) return;
    isAnswered = true;
    if (typeof outcome !== 'string') {
      decided(outcome);
      return;
    }
    onUndecided(outcome);
    time.later(AGAIN_MS, owner, again);
  };
  const receiver = world.receiverOn(term.backup, term);
  const isUp = (): boolean =>
    network.isUp(term.primary.name, term.backup.name) && network.isUp(term.backup.name, term.primary.name);
  time.later(CLEANUP_MS, owner, () => end('the receiver has not answered'));
  if (receiver === null || !isUp() || !receiver.wasBegun) {
    time.later(time.random.between(1, 200), owner, () => {
      // After a receiver that died its clean-up answers.
      const decision = isUp() ? world.answerWithoutCopy(term) : null;
      if (decision === null) end("the receiver can't be reached");
      else end({ decision, reason: 'the receiver has ended, and with it the copy of the guest' });
    });
    return;
  }
  const connection = network.connect<Question>(
    {
      host: term.primary,
      owner,
      onMessage: (message) => {
        if (message.type !== 'answer') return;
        connection.close(0);
        if (message.decision === null) {
          onAnswered();
          end(message.reason);
        } else end({ decision: message.decision, reason: `agreed: ${message.reason}` });
      },
      onLost: (why) => end(why),
    },
    {
      host: term.backup,
      owner: receiver.owner,
      onMessage: (message) => {
        if (message.type !== 'drop-term') return;
        receiver.dropTerm(term.number, asked, (decision, why) => {
          connection.send(1, { type: 'answer', decision, reason: why });
        });
      },
      onLost: () => undefined,
    },
  );
  connection.send(0, { type: 'drop-term' });
}

/** The primary's way: arbiter and receiver side by side, whichever decides first; after a crash the receiver first. */
export function decideForPrimary(
  world: World,
  term: Term,
  owner: Owner,
  asked: Asked,
  onUndecided: (reason: string) => void,
  decided: (outcome: Outcome) => void,
  isDecided: () => boolean = () => false,
): void {
  const { time, arbiter } = world;
  let isDone = false;
  const isOver = (): boolean => isDone || !owner.alive || isDecided();
  const once = (outcome: Outcome): void => {
    if (isDone) return;
    isDone = true;
    decided(outcome);
  };
  const beganMs = time.nowMs;
  let answeredMs = beganMs;
  const isOurTurn = (): boolean =>
    !asked.crashed ||
    arbiter.kind === 'operator' ||
    time.nowMs - answeredMs >= FIRST_WORD.silentMs ||
    time.nowMs - beganMs >= FIRST_WORD.undecidedMs;
  const claim = (): void => {
    if (isOver()) return;
    if (!isOurTurn()) time.later(TURN_MS, owner, claim);
    else {
      world.primaryClaims(term);
      claimFrom(world, term, term.primary, owner, isOver, onUndecided, once);
    }
  };
  claim();
  askReceiver(world, term, owner, asked, isOver, onUndecided, () => (answeredMs = time.nowMs), once);
}
