/**
 * What the operator reads where the program of a unit fails: never a bare stack for what can go wrong in operation,
 * which is a disk without room, a device or an address that can't be had, a tool that fails. Anything else is a fault
 * of the program, and its stack is what helps.
 */
import { JournalError } from '../core/journal/types.js';
import { ExitCode, OperatorError } from '../core/errors.js';
import { errorCode } from '../edge/durable-file.js';
import { missingRoom } from '../edge/room.js';
import { ToolError } from './exec.js';

export type UnitProgram =
  | 'sender'
  | 'receiver'
  | 'sender-cleanup'
  | 'receiver-cleanup'
  | 'switchover-source'
  | 'switchover-target'
  | 'switchover-cleanup'
  | 'drill-run'
  | 'drill-cleanup';

const ERRNO = /^E[A-Z0-9]+$/;

/** What it was left in, and what comes next. */
const AFTER: Record<UnitProgram, (domain: string) => string> = {
  sender: (domain) =>
    `The unit's clean-up decides who goes on and frees the guest. Mend it and run remus-drbd protect ${domain}.`,
  receiver: (domain) =>
    `The unit's clean-up puts the disks back on their LVs and lets the primary go on. Mend it and run remus-drbd protect ${domain}.`,
  'sender-cleanup': (domain) =>
    `The guest's output may still be held. Mend it; it is tried again by itself, or at once with remus-drbd sender-cleanup ${domain}.`,
  'receiver-cleanup': (domain) =>
    `The disks here may still be on the journal. Mend it; it is tried again by itself, or at once with remus-drbd receiver-cleanup ${domain}.`,
  'switchover-source': again,
  'switchover-target': again,
  'switchover-cleanup': again,
  'drill-run': drillAgain,
  'drill-cleanup': drillAgain,
};

function drillAgain(domain: string): string {
  return `Production is not concerned. Mend it; the next remus-drbd drill ${domain} first removes what this one has left.`;
}

function again(domain: string): string {
  return `remus-drbd status says where ${domain} runs. Mend it and run remus-drbd switchover ${domain} again.`;
}

/** @returns the error to end with: one for the operator, or the same one */
export async function unitError(program: UnitProgram, domain: string, error: unknown): Promise<unknown> {
  if (error instanceof OperatorError || !(error instanceof Error)) return error;
  const isErrno = ERRNO.test(errorCode(error) ?? '');
  if (!isErrno && !(error instanceof JournalError) && !(error instanceof ToolError)) return error;
  const { path } = error as NodeJS.ErrnoException;
  const where = path === undefined || error.message.includes(path) ? '' : `${path}: `;
  const room = path === undefined ? '' : await missingRoom(error, path);
  return new OperatorError(
    `${domain}: the ${program} failed: ${where}${error.message}${room}. ${AFTER[program](domain)}`,
    ExitCode.failed,
    error,
  );
}
