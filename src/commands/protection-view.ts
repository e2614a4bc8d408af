/** What a host says of one domain's protection, for the commands that begin, end, move, recover and watch it. */
import { drbdCommand, parseDrbdRunning, understood } from '../core/facts.js';
import type { HostFactsForProtection } from '../core/protect/readiness.js';
import type { ReceiverReport, SenderReport } from '../core/protect/report.js';
import { parseXlInfo, parseXlList } from '../core/parse/xen.js';
import { parseTerm } from '../core/claim/term.js';
import type { TermRecord } from '../core/claim/term.js';
import { OperatorError } from '../core/errors.js';
import { readModule } from '../core/protocol-d/running.js';
import {
  domainFilePath,
  receiverUnit,
  runPath,
  senderUnit,
  statePath,
  switchoverTargetUnit,
  switchoverUnit,
} from '../core/names.js';
import { INTENT_FILE, parseIntent } from '../core/protect/switchover.js';
import type { SwitchoverIntent } from '../core/protect/switchover.js';
import { parseWanted, WANTED_FILE } from '../core/protect/wanted.js';
import type { Wanted } from '../core/protect/wanted.js';
import type { Host } from '../edge/host.js';
import { readReports, reportProbes } from './reports.js';

export interface UnitView {
  activeState: string;
  result: string;
}

export interface ProtectionView extends HostFactsForProtection {
  /** Why its sender or receiver does not know yet who goes on; null where neither waits for that. */
  undecided: string | null;
  boot: string;
  term: TermRecord | undefined;
  sender: SenderReport | string;
  receiver: ReceiverReport | string;
  senderUnit: UnitView;
  receiverUnit: UnitView;
  /** Of a switchover: the unit that sends the guest, the one that takes it, and what was left of one. */
  sourceUnit: UnitView;
  targetUnit: UnitView;
  intent: SwitchoverIntent | undefined;
  wanted: Wanted | undefined;
  /** Whether DRBD lets both hosts be Primary now. */
  twoPrimaries: boolean;
  moving: boolean;
  gate: 'open' | 'shut';
}

/** @throws HostError, or OperatorError where an answer can't be read */
export async function readProtection(host: Host, domain: string): Promise<ProtectionView> {
  const commands = new Map<string, readonly string[]>([
    ...reportProbes([domain]),
    ['events2', drbdCommand()],
    ['show', ['drbdsetup', 'show', domain]],
    ['proc', ['cat', '/proc/drbd']],
    ['list', ['xl', 'list']],
    ['info', ['xl', 'info']],
    ['boot', ['cat', '/proc/sys/kernel/random/boot_id']],
    ['sender', ['systemctl', 'show', '--property=ActiveState,Result', senderUnit(domain)]],
    ['receiver', ['systemctl', 'show', '--property=ActiveState,Result', receiverUnit(domain)]],
    ['source', ['systemctl', 'show', '--property=ActiveState,Result', switchoverUnit(domain)]],
    ['target', ['systemctl', 'show', '--property=ActiveState,Result', switchoverTargetUnit(domain)]],
  ]);
  const term = statePath(domain, 'term.json');
  const intentPath = statePath(domain, INTENT_FILE);
  const wantedPath = statePath(domain, WANTED_FILE);
  const gates = [runPath(domain, 'gate'), statePath(domain, 'gate')];
  const [results, files] = await Promise.all([
    host.probe(commands),
    host.readFiles([term, domainFilePath(domain), intentPath, wantedPath, ...gates]),
  ]);
  const text = (key: string): string => {
    const result = results.get(key);
    if (result === undefined || result.exitCode !== 0) {
      throw new OperatorError(
        `${host.name}: ${commands.get(key)?.join(' ')}: ${result?.stderr.trim() ?? 'no answer'}`,
      );
    }
    return result.stdout;
  };
  const file = (path: string): string | undefined => {
    const content = files.get(path);
    return content === undefined ? undefined : new TextDecoder().decode(content.content);
  };
  const events = results.get('events2');
  if (events === undefined) throw new Error(`${host.name}: no answer`);
  const proc = results.get('proc');
  const module = readModule(
    host.name,
    file(domainFilePath(domain)),
    proc?.exitCode === 0 ? proc.stdout : undefined,
  );
  const drbd = module === null ? parseDrbdRunning(host.name, events) : null;
  const never = 'it has never reported';
  const { sender = never, receiver = never } = readReports(host.name, domain, results);
  const [senderState, receiverState] = [unitView(text('sender')), unitView(text('receiver'))];
  const [sourceUnit, targetUnit] = [unitView(text('source')), unitView(text('target'))];
  const record = <T>(path: string, parse: (content: string) => T): T | undefined => {
    const content = file(path);
    if (content === undefined) return undefined;
    try {
      return parse(content);
    } catch (error) {
      throw new OperatorError(`${host.name}: ${path} can't be read: ${(error as Error).message}`);
    }
  };
  const show = results.get('show')?.stdout ?? '';
  const claims = [sender, receiver].find((each) => typeof each !== 'string' && each.phase === 'claiming');
  return {
    name: host.name,
    resource:
      drbd === null
        ? module?.resource
        : drbd.known
          ? drbd.value.find(({ name }) => name === domain)
          : undefined,
    undecided: typeof claims === 'object' ? claims.reason : null,
    guests: understood(host.name, () => parseXlList(text('list'))),
    freeMemoryBytes: understood(host.name, () => parseXlInfo(text('info'))).freeMemoryBytes,
    // Without the resource drbdsetup fails; then there is no protocol either.
    protocol: module === null ? (/^\s*protocol\s+([ABC]);/m.exec(show)?.[1] ?? null) : module.protocol,
    boot: text('boot').trim(),
    term: record(term, parseTerm),
    sender,
    receiver,
    senderUnit: senderState,
    receiverUnit: receiverState,
    senderActive: isActive(senderState),
    receiverActive: isActive(receiverState),
    sourceUnit,
    targetUnit,
    moving: isActive(sourceUnit) || isActive(targetUnit),
    intent: record(intentPath, parseIntent),
    wanted: record(wantedPath, parseWanted),
    twoPrimaries: /^\s*allow-two-primaries\s+yes;/m.test(show),
    gate: gateOf(gates.map(file).find((content) => content !== undefined)),
  };
}

/** Both hosts of a domain, side by side; throws as `readProtection` does. */
export async function readBoth(
  hosts: readonly [Host, Host],
  domain: string,
): Promise<[ProtectionView, ProtectionView]> {
  return Promise.all([readProtection(hosts[0], domain), readProtection(hosts[1], domain)]);
}

/** As the hotplug script reads it: without a file it is open, and what can't be understood is shut. */
function gateOf(text: string | undefined): 'open' | 'shut' {
  return text === undefined || /^\s*open(?:\s|$)/.test(text) ? 'open' : 'shut';
}

/** Running, or on its way up or down. */
export function isActive({ activeState }: UnitView): boolean {
  return activeState !== 'inactive' && activeState !== 'failed';
}

function unitView(text: string): UnitView {
  const value = (key: string): string => new RegExp(`^${key}=(.*)$`, 'm').exec(text)?.[1] ?? 'unknown';
  return { activeState: value('ActiveState'), result: value('Result') };
}
