/** The machines that a run is made of: the production ones, or one of them with a fault put in to see it found. */
import { stepMarks } from '../core/netbuf/marks.js';
import { nextRecoveryStep, winnerOf } from '../core/protect/recovery.js';
import { receiverStep } from '../core/protect/receiver.js';
import { senderStep } from '../core/protect/sender.js';

export interface Machines {
  senderStep: typeof senderStep;
  receiverStep: typeof receiverStep;
  stepMarks: typeof stepMarks;
  nextRecoveryStep: typeof nextRecoveryStep;
  winnerOf: typeof winnerOf;
  /** Effects whose act is left out although the machine is told that it was done. */
  skips: ReadonlySet<string>;
}

export const productionMachines: Machines = {
  senderStep,
  receiverStep,
  stepMarks,
  nextRecoveryStep,
  winnerOf,
  skips: new Set(),
};
