/** Makes the arbiter that a pair is configured with, on one of its hosts. */
import { join } from 'node:path';
import type { Arbiter } from '../core/claim/types.js';
import type { Arbiter as ArbiterSettings } from '../core/model.js';
import { Paths } from '../core/names.js';
import { SSH_KEY, SSH_KNOWN_HOSTS } from '../core/setup/ssh.js';
import type { Log } from '../edge/log.js';
import { readBootId } from '../edge/term-store.js';
import { EtcdArbiter } from './etcd.js';
import { FenceArbiter } from './fence.js';
import { OperatorArbiter } from './operator.js';
import { SshArbiter } from './ssh.js';
import { unsafeArbiter } from './unsafe.js';

export interface ArbiterContext {
  /** This host and the other one of the pair, by their names in the configuration. */
  host: string;
  peer: string;
  domain: string;
  log: Log;
}

/**
 * The arbiter for one domain. Nothing is asked of it yet.
 *
 * @throws OperatorError usage: settings that no arbiter can be made of
 */
export async function openArbiter(settings: ArbiterSettings, context: ArbiterContext): Promise<Arbiter> {
  const { host, peer, domain, log } = context;
  const directory = join(Paths.state, domain);
  switch (settings.kind) {
    case 'etcd':
      return new EtcdArbiter(settings);
    case 'ssh': {
      const { user, host: machine, port, directory: claims } = settings;
      const files = { identityFile: SSH_KEY, knownHostsFile: SSH_KNOWN_HOSTS };
      return new SshArbiter({ user, host: machine, port, directory: claims, ...files }, log);
    }
    case 'fence': {
      const agent = settings.agents[peer] ?? [];
      const delayMs = settings.delaysMs?.[peer] ?? 0;
      return new FenceArbiter({ host, peer, agent, directory, bootId: await readBootId(), delayMs });
    }
    case 'operator':
      return new OperatorArbiter(directory);
    case 'unsafe-may-split':
      return unsafeArbiter;
  }
}
