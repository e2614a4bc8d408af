/**
 * The `arbiter` of a pair, in any of its forms:
 *
 *     arbiter: operator
 *     arbiter: unsafe-may-split
 *     arbiter: { etcd: [ URL, ... ] }
 *     arbiter: { etcd: { endpoints: [ URL, ... ], user, passwordFile, caFile, certFile, keyFile } }
 *     arbiter: { ssh: user@host[:port], directory }
 *     arbiter: { fence: { HOST1: [ agent, argument, ... ], HOST2: { agent: [ ... ], delay } } }
 */

import { isAbsolute } from 'node:path';

import type { z } from 'zod';

import { agentOption } from './config-fence.js';
import {
  Defaults,
  delayedFenceShape,
  endpointsShape,
  etcdShape,
  expected,
  fenceAgentShape,
  isRecord,
  Limits,
  readShape,
  sshArbiterShape,
  unknownKeys,
} from './config-schema.js';
import type { Arbiter, HostConfig } from './model.js';
import type { Path, YamlSource } from './yaml-source.js';

/**
 * Reads an arbiter.
 *
 * @param hostNames the names of the pair's hosts, as far as they are known
 * @param hosts those of them that could be read
 * @returns undefined when there is none, or when the source has new problems for it
 */
export function readArbiter(
  source: YamlSource,
  raw: unknown,
  path: Path,
  hostNames: readonly string[],
  hosts: readonly HostConfig[],
): Arbiter | undefined {
  if (raw === undefined) return undefined;
  if (raw === 'operator' || raw === 'unsafe-may-split') return { kind: raw };
  const forms = 'operator, unsafe-may-split, or a map with one of etcd, ssh or fence';
  if (!isRecord(raw)) {
    source.add(path, expected(forms, raw));
    return undefined;
  }
  const keys = Object.keys(raw);
  const kinds = keys.filter((key) => ['etcd', 'ssh', 'fence'].includes(key));
  if (kinds.length !== 1) {
    unknownKeys(source, keys, ['etcd', 'ssh', 'fence', 'directory'], path);
    source.add(
      path,
      `expected ${forms}, found ${kinds.length === 0 ? 'none of them' : kinds.join(' and ')}`,
      'key',
    );
    return undefined;
  }
  if (kinds[0] === 'ssh') return readSsh(source, raw, path, hosts);
  unknownKeys(source, keys, kinds, path);
  return kinds[0] === 'fence'
    ? readFence(source, raw.fence, [...path, 'fence'], hostNames)
    : readEtcd(source, raw.etcd, [...path, 'etcd'], hosts);
}

function readSsh(
  source: YamlSource,
  raw: unknown,
  path: Path,
  hosts: readonly HostConfig[],
): Arbiter | undefined {
  const shape = readShape(source, sshArbiterShape, raw, path);
  if (shape === undefined) return undefined;
  const target = shape.ssh;
  const own = hosts.find(({ ssh, replication }) => {
    return (ssh.host === target.host && ssh.port === target.port) || replication === target.host;
  });
  if (own !== undefined) {
    const message = `the arbiter has to be a third machine: ${target.host} is ${own.name} itself`;
    source.add([...path, 'ssh'], message);
  }
  return { kind: 'ssh', ...target, directory: shape.directory ?? Defaults.arbiterDirectory };
}

function readFence(
  source: YamlSource,
  raw: unknown,
  path: Path,
  hostNames: readonly string[],
): Arbiter | undefined {
  if (!isRecord(raw)) {
    source.add(path, expected('a map with a command line for each host', raw));
    return undefined;
  }
  unknownKeys(source, Object.keys(raw), hostNames, path);
  const agents: Record<string, string[]> = {};
  const delaysMs: Record<string, number> = {};
  for (const host of hostNames) {
    const at = [...path, host];
    if (!Object.hasOwn(raw, host)) {
      source.add(at, 'is required: the command that powers this host off', 'key');
      continue;
    }
    const given: unknown = raw[host];
    if (isRecord(given)) {
      const shape = readShape(source, delayedFenceShape, given, at);
      if (shape === undefined) continue;
      agents[host] = checkAgent(source, shape.agent, [...at, 'agent']);
      if (shape.delay !== undefined && shape.delay > 0) delaysMs[host] = shape.delay;
    } else {
      const argv = readShape(source, fenceAgentShape, given, at);
      if (argv !== undefined) agents[host] = checkAgent(source, argv, at);
    }
  }
  const delayed = Object.keys(delaysMs);
  if (delayed.length > 1) {
    const message = 'only one of the hosts may have a delay: with both, both are switched off after a cut';
    source.add([...path, delayed[1] ?? '', 'delay'], message);
  }
  return { kind: 'fence', agents, ...(delayed.length === 0 ? {} : { delaysMs }) };
}

function checkAgent(source: YamlSource, argv: string[], path: Path): string[] {
  const [program, ...words] = argv;
  if (program === undefined || argv.length > Limits.fenceArgumentsMax) {
    source.add(path, `expected 1 to ${Limits.fenceArgumentsMax} arguments, found ${argv.length}`);
    return argv;
  }
  if (!/^fence_[a-z0-9_]+$/.test(program) && !isAbsolute(program)) {
    const message = 'a fence agent such as fence_ipmilan, or an absolute path';
    source.add([...path, 0], expected(message, program));
    return argv;
  }
  for (const [index, word] of words.entries()) {
    const option = agentOption(word);
    if ('problem' in option) source.add([...path, index + 1], option.problem);
  }
  return argv;
}

function readEtcd(
  source: YamlSource,
  raw: unknown,
  path: Path,
  hosts: readonly HostConfig[],
): Arbiter | undefined {
  if (!Array.isArray(raw)) {
    const shape = readShape(source, etcdShape, raw, path);
    if (shape === undefined) return undefined;
    const { endpoints, user, passwordFile, caFile, certFile, keyFile } = shape;
    checkEndpoints(source, endpoints, [...path, 'endpoints'], hosts);
    checkSecrets(source, shape, path);
    return {
      kind: 'etcd',
      endpoints,
      ...(user === undefined ? {} : { user }),
      ...(passwordFile === undefined ? {} : { passwordFile }),
      ...(caFile === undefined ? {} : { caFile }),
      ...(certFile === undefined ? {} : { certFile }),
      ...(keyFile === undefined ? {} : { keyFile }),
    };
  }
  const endpoints = readShape(source, endpointsShape, raw, path);
  if (endpoints === undefined) return undefined;
  checkEndpoints(source, endpoints, path, hosts);
  return { kind: 'etcd', endpoints };
}

function checkEndpoints(
  source: YamlSource,
  endpoints: readonly string[],
  path: Path,
  hosts: readonly HostConfig[],
): void {
  if (endpoints.length < 1 || endpoints.length > Limits.endpointsMax) {
    source.add(path, `expected 1 to ${Limits.endpointsMax} URLs, found ${endpoints.length}`);
    return;
  }
  for (const [index, endpoint] of endpoints.entries()) {
    if (endpoints.indexOf(endpoint) !== index) {
      source.add([...path, index], `${endpoint} is named twice`);
    }
  }
  const names = endpoints.map((endpoint) => new URL(endpoint).hostname.replace(/^\[|\]$/g, ''));
  const only = hosts.find(({ ssh, replication }) => {
    return names.every((name) => name === ssh.host || name === replication);
  });
  if (only !== undefined) {
    source.add(
      path,
      `only ${only.name} itself could decide, and not when it is lost; name a member elsewhere`,
    );
  }
}

/** A password and certificates are of use, and safe, only with https. */
function checkSecrets(source: YamlSource, etcd: z.output<typeof etcdShape>, path: Path): void {
  const { user, passwordFile, caFile, certFile, keyFile, endpoints } = etcd;
  if (user !== undefined && passwordFile === undefined) {
    source.add([...path, 'user'], 'needs passwordFile, too');
  }
  if (passwordFile !== undefined && user === undefined) {
    source.add([...path, 'passwordFile'], 'needs user, too');
  }
  if (certFile !== undefined && keyFile === undefined) {
    source.add([...path, 'certFile'], 'needs keyFile, too');
  }
  if (keyFile !== undefined && certFile === undefined) {
    source.add([...path, 'keyFile'], 'needs certFile, too');
  }
  for (const [index, endpoint] of endpoints.entries()) {
    if (!endpoint.startsWith('http:')) continue;
    const at = [...path, 'endpoints', index];
    if (passwordFile !== undefined) source.add(at, 'would get the password in the clear; use https');
    if (caFile !== undefined) source.add(at, 'has no certificate for caFile to verify; use https');
    if (certFile !== undefined) source.add(at, 'asks for no certificate such as certFile; use https');
  }
}
