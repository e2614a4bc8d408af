/** What the sender and the receiver of domains say of themselves, as a host has it, and how old that is by its own clock. */
import { understood } from '../core/facts.js';
import { runPath } from '../core/names.js';
import { parseClock } from '../core/parse/system.js';
import { readReport } from '../core/protect/report.js';
import type { ReceiverReport, Report, SenderReport } from '../core/protect/report.js';
import type { CommandResult } from '../edge/host.js';

const ROLES = ['sender', 'receiver'] as const;

const keyOf = (role: Report['role'], domain: string): string => `${role}.json of ${domain}`;

/**
 * Probes for `Host#probe`, which runs them in this order: the clock is read right behind the reports. So none looks
 * younger than it is, nor, however slow host and connection are, so old that it isn't believed (`REPORT_STALE_MS`).
 */
export function reportProbes(domains: readonly string[]): [string, readonly string[]][] {
  const files = domains.flatMap((domain) =>
    ROLES.map((role): [string, readonly string[]] => [
      keyOf(role, domain),
      ['cat', runPath(domain, `${role}.json`)],
    ]),
  );
  return [...files, ['now', ['date', '+%s.%N']]];
}

/** In words where there is no report to go by; undefined where there was never one. */
export interface DomainReports {
  sender: SenderReport | string | undefined;
  receiver: ReceiverReport | string | undefined;
}

/**
 * @param answers to `reportProbes`
 * @throws OperatorError where the clock can't be read
 */
export function readReports(
  host: string,
  domain: string,
  answers: ReadonlyMap<string, CommandResult>,
): DomainReports {
  const nowMs = understood(host, () => parseClock(answers.get('now')?.stdout ?? ''));
  const said = <R extends Report['role']>(role: R): Extract<Report, { role: R }> | string | undefined => {
    const answer = answers.get(keyOf(role, domain));
    if (answer?.exitCode !== 0) {
      if (answer?.stderr.includes('No such file') === true) return undefined;
      return `its report can't be read: ${answer?.stderr.trim() ?? 'no answer'}`;
    }
    const report = readReport(answer.stdout, nowMs);
    if (typeof report === 'string') return report;
    return isOf(report, role) ? report : `its report is of a ${report.role}`;
  };
  return { sender: said('sender'), receiver: said('receiver') };
}

function isOf<R extends Report['role']>(report: Report, role: R): report is Extract<Report, { role: R }> {
  return report.role === role;
}
