/**
 * The configuration that DRBD itself has read: `drbdadm dump-xml` (drbdadm(8)), the same for 8.4 and 9. That of 8.3
 * has no places of resources, and a host's one volume stands in the host itself.
 *
 *     <config file="/etc/drbd.conf">
 *       <resource name="web" conf-file-line="/etc/drbd.d/web.res:1">
 *         <host name="alpha">
 *           <volume vnr="0"><device minor="1000"></device><disk>/dev/x</disk><meta-disk>/dev/y</meta-disk></volume>
 *           <address family="ipv4" port="7790">10.0.0.1</address>
 *
 * The XML is the small part of it that drbdadm prints: elements, attributes in double quotes, the five
 * entities. Everything else is refused.
 */
import type { ConfiguredHost, ConfiguredResource, ConfiguredVolume } from '../facts.js';
import { MINOR_MAX, PORT_MAX } from '../names.js';
import { Line } from './text.js';

const TOOL = 'drbdadm dump-xml';
/** drbdadm nests six deep. */
const DEPTH_MAX = 16;

const ENTITIES: Readonly<Record<string, string>> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" };

interface Element {
  name: string;
  attributes: Map<string, string>;
  children: Element[];
  text: string;
  /** Where it starts, for messages. */
  line: Line;
}

/** @throws ParseError */
export function parseDumpXml(text: string): ConfiguredResource[] {
  const root = parseXml(text);
  if (root.name !== 'config') root.line.fail('<config> is expected');
  return childrenOf(root, 'resource').map(readResource);
}

function childrenOf(element: Element, name: string): Element[] {
  return element.children.filter((child) => child.name === name);
}

function attribute(element: Element, name: string): string {
  return element.attributes.get(name) ?? element.line.fail(`<${element.name}> has no ${name}`);
}

function readResource(element: Element): ConfiguredResource {
  const text = element.attributes.get('conf-file-line');
  const found = text === undefined ? null : /^(.+):([0-9]{1,9})$/.exec(text);
  if (text !== undefined && !found?.[1]) element.line.fail('FILE:LINE is expected in conf-file-line');
  return {
    name: attribute(element, 'name'),
    ...(found?.[1] === undefined ? {} : { file: found[1], line: Number(found[2]) }),
    hosts: childrenOf(element, 'host').map(readHost),
  };
}

function readHost(element: Element): ConfiguredHost {
  const address = childrenOf(element, 'address')[0];
  return {
    name: attribute(element, 'name'),
    ...(address
      ? {
          address: {
            family: attribute(address, 'family'),
            address: address.text.trim(),
            port: address.line.integer(attribute(address, 'port'), 'the port', PORT_MAX),
          },
        }
      : {}),
    volumes:
      childrenOf(element, 'device').length > 0
        ? [readVolume(element, 0)]
        : childrenOf(element, 'volume').map((volume) =>
            readVolume(volume, volume.line.integer(attribute(volume, 'vnr'), 'the volume', MINOR_MAX)),
          ),
  };
}

/** @param element the volume, or with 8.3 the host */
function readVolume(element: Element, volume: number): ConfiguredVolume {
  const device = childrenOf(element, 'device')[0] ?? element.line.fail('a volume has no device');
  const disk = childrenOf(element, 'disk')[0]?.text.trim();
  const [meta] = [...childrenOf(element, 'meta-disk'), ...childrenOf(element, 'flexible-meta-disk')];
  const metaDisk = meta?.text.trim();
  return {
    volume,
    minor: device.line.integer(attribute(device, 'minor'), 'the minor', MINOR_MAX),
    ...(disk === undefined || disk === 'none' ? {} : { disk }),
    ...(metaDisk === undefined ? {} : { metaDisk }),
  };
}

/** Reads one element with all that is in it. */
function parseXml(text: string): Element {
  // Line starts, to give a place for an offset.
  const starts = [0];
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) starts.push(at + 1);
  let reached = 0;
  const lineAt = (offset: number): Line => {
    while (reached + 1 < starts.length && (starts[reached + 1] ?? 0) <= offset) reached += 1;
    const start = starts[reached] ?? 0;
    const end = text.indexOf('\n', start);
    return new Line(TOOL, text.slice(start, end < 0 ? text.length : end), reached + 1);
  };

  const token = /<(\/?)([a-z][a-z0-9-]*)((?:\s+[a-z][a-z0-9-]*="[^"<]*")*)\s*(\/?)>|([^<]+)/y;
  const open: Element[] = [];
  let root: Element | undefined;
  while (token.lastIndex < text.length) {
    const offset = token.lastIndex;
    const match = token.exec(text);
    const line = lineAt(offset);
    if (!match) return line.fail('neither an element nor a text');
    const [, closing, name, attributes, empty, characters] = match;
    const parent = open[open.length - 1];
    if (characters !== undefined) {
      if (parent) parent.text += decode(characters, line);
      else if (characters.trim() !== '') line.fail('a text outside of all elements');
      continue;
    }
    if (closing === '/') {
      if (parent?.name !== name || attributes !== '' || empty !== '') line.fail(`</${name}> closes nothing`);
      open.pop();
      continue;
    }
    const element: Element = { name: name ?? '', attributes: new Map(), children: [], text: '', line };
    for (const [, key, value] of (attributes ?? '').matchAll(/([a-z][a-z0-9-]*)="([^"]*)"/g)) {
      element.attributes.set(key ?? '', decode(value ?? '', line));
    }
    if (parent) parent.children.push(element);
    else if (root) line.fail('a second outermost element');
    else root = element;
    if (empty === '/') continue;
    open.push(element);
    if (open.length > DEPTH_MAX) line.fail('nested too deep');
  }
  const unclosed = open[open.length - 1];
  if (unclosed) unclosed.line.fail(`<${unclosed.name}> is not closed`);
  return root ?? lineAt(0).fail('nothing printed');
}

function decode(text: string, line: Line): string {
  return text.replace(/&([^;&]{0,8};?)/g, (_, entity: string) => {
    const name = entity.endsWith(';') ? entity.slice(0, -1) : '';
    return Object.hasOwn(ENTITIES, name) ? (ENTITIES[name] ?? '') : line.fail('unknown entity');
  });
}
