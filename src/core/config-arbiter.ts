/**
 * The `arbiter` of a pair, in any of its forms:
 *
 *     arbiter: operator
 *     arbiter: unsafe-may-split
 *     arbiter: { etcd: [ URL, ... ] }
 *     arbiter: { etcd: { endpoints: [ URL, ... ], user, passwordFile, caFile } }
 *     arbiter: { ssh: user@host[:port], directory }
 *     arbiter: { fence: { HOST1: [ agent, argument, ... ], HOST2: [ ... ] } }
 */

import { isAbsolute } from 'node:path';

import type { z } from 'zod';

import {
  Defaults,
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
  for (const host of hostNames) {
    const at = [...path, host];
    if (!Object.hasOwn(raw, host)) {
      source.add(at, 'is required: the command that powers this host off', 'key');
      continue;
    }
    const argv = readShape(source, fenceAgentShape, raw[host], at);
    if (argv === undefined) continue;
    const [program] = argv;
    if (program === undefined || argv.length > Limits.fenceArgumentsMax) {
      source.add(at, `expected 1 to ${Limits.fenceArgumentsMax} arguments, found ${argv.length}`);
    } else if (!/^fence_[a-z0-9_]+$/.test(program) && !isAbsolute(program)) {
      const message = 'a fence agent such as fence_ipmilan, or an absolute path';
      source.add([...at, 0], expected(message, program));
    }
    agents[host] = argv;
  }
  return { kind: 'fence', agents };
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
    const { endpoints, user, passwordFile, caFile } = shape;
    checkEndpoints(source, endpoints, [...path, 'endpoints'], hosts);
    checkSecrets(source, shape, path);
    return {
      kind: 'etcd',
      endpoints,
      ...(user === undefined ? {} : { user }),
      ...(passwordFile === undefined ? {} : { passwordFile }),
      ...(caFile === undefined ? {} : { caFile }),
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

/** A password and a certificate authority are of use, and safe, only with https. */
function checkSecrets(source: YamlSource, etcd: z.output<typeof etcdShape>, path: Path): void {
  const { user, passwordFile, caFile, endpoints } = etcd;
  if (user !== undefined && passwordFile === undefined) {
    source.add([...path, 'user'], 'needs passwordFile, too');
  }
  if (passwordFile !== undefined && user === undefined) {
    source.add([...path, 'passwordFile'], 'needs user, too');
  }
  for (const [index, endpoint] of endpoints.entries()) {
    if (!endpoint.startsWith('http:')) continue;
    const at = [...path, 'endpoints', index];
    if (passwordFile !== undefined) source.add(at, 'would get the password in the clear; use https');
    if (caFile !== undefined) source.add(at, 'has no certificate for caFile to verify; use https');
  }
}
