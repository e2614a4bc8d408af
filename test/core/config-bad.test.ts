/** Every way that pair.yaml can be wrong, and the exact message for each. */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';

import { parseConfig } from '../../src/core/config.js';
import { OperatorErrors } from '../../src/core/errors.js';

const HEAD = `pairs:
  rack1:
    hosts:
      alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }
      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }
    arbiter: operator
    domains:
`;
const WEB = `      web:
        config: web.cfg
        primary: alpha
        port: 7790
        disks:
          - { vdev: xvda, volumeGroup: vg0, size: 20GiB }
`;
const DB = `      db:
        config: db.cfg
        primary: beta
        port: 7791
        disks:
          - { vdev: xvda, volumeGroup: vg0, size: 10GiB }
          - { vdev: xvdb, volumeGroup: vg1, logicalVolume: data }
`;
/** A good configuration, which each case breaks in its own way. */
const BASE = HEAD + WEB + DB;

const LONG = `${'a-'.repeat(26)}a`;

interface Case {
  what: string;
  /** What of the good configuration is replaced; all of it where this is absent. */
  from?: string;
  to: string;
  /** The messages, without the name of the file that starts each. */
  says: string[];
}

const cases: Case[] = [
  { what: 'an empty file', to: '', says: ['1:1: the file is empty; expected a map with the key pairs'] },
  { what: 'a file of one word', to: 'pairs', says: ['1:1: expected a map, found "pairs"'] },
  {
    what: 'no pairs at all',
    to: 'pairs: {}',
    says: ['1:8: pairs: is empty; expected a map of pairs by name'],
  },
  {
    what: 'a list for pairs',
    to: 'pairs: []',
    says: ['1:8: pairs: expected a map of pairs by name, found a list'],
  },
  {
    what: 'broken YAML',
    from: 'primary: alpha',
    to: 'primary: [alpha',
    says: ['11:9: Flow sequence in block collection must be sufficiently indented and end with a ]'],
  },
  {
    what: 'a tab for indentation',
    from: '        primary: alpha',
    to: '\tprimary: alpha',
    says: ['10:1: Tabs are not allowed as indentation'],
  },
  {
    what: 'a key twice',
    from: 'primary: alpha',
    to: 'primary: alpha\n        primary: beta',
    says: ['11:9: pairs.rack1.domains.web.primary: written twice, first on line 10'],
  },
  {
    what: 'a domain twice',
    from: '      db:',
    to: '      web:',
    says: ['14:7: pairs.rack1.domains.web: written twice, first on line 8'],
  },
  {
    what: 'an unknown tag',
    from: 'primary: alpha',
    to: 'primary: !secret alpha',
    says: ['10:18: Unresolved tag: !secret'],
  },
  {
    what: 'two documents',
    from: '    arbiter: operator',
    to: '---\n    arbiter: operator',
    says: ['6:1: a second document starts here'],
  },
  {
    what: 'an alias bomb',
    to: 'a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\npairs: [*c, *c, *c]',
    says: ['1:1: has too many aliases'],
  },
  {
    what: 'an unknown key at the top',
    from: 'pairs:',
    to: 'pears: 1\npairs:',
    says: ['1:1: pears: Unrecognized key; did you mean "pairs"?'],
  },
  {
    what: 'an unknown key with no near one',
    from: '    arbiter: operator',
    to: '    arbiter: operator\n    colour: red',
    says: ['7:5: pairs.rack1.colour: Unrecognized key'],
  },
  {
    what: 'a misspelt key of a host',
    from: 'replication: 10.0.0.2',
    to: 'replicaton: 10.0.0.2',
    says: ['5:36: pairs.rack1.hosts.beta.replicaton: Unrecognized key; did you mean "replication"?'],
  },
  {
    what: 'a misspelt key of a disk',
    from: 'volumeGroup: vg0, size: 20GiB',
    to: 'volumegroup: vg0, size: 20GiB',
    says: [
      '13:27: pairs.rack1.domains.web.disks.0.volumegroup: Unrecognized key; did you mean "volumeGroup"?',
    ],
  },
  {
    what: 'a missing key',
    from: '        port: 7790\n',
    to: '',
    says: ['8:7: pairs.rack1.domains.web.port: is required'],
  },
  {
    what: 'several things wrong at once',
    from: '        primary: alpha\n        port: 7790',
    to: '        primary: gamma\n        prot: 7790\n        onCrash: explode',
    says: [
      '10:18: pairs.rack1.domains.web.primary: "gamma" is not a host of this pair ("alpha", "beta")',
      '11:9: pairs.rack1.domains.web.prot: Unrecognized key; did you mean "port"?',
      '12:18: pairs.rack1.domains.web.onCrash: expected stop or failover, found "explode"',
    ],
  },
  {
    what: 'a quote in the name of a domain',
    from: '      web:',
    to: '      "we\'b":',
    says: [
      '8:7: pairs.rack1.domains."we\'b": the name of a domain is a letter followed by up to 47 letters, digits, "_", "." or "-"',
    ],
  },
  {
    what: 'a newline in the name of a domain',
    from: '      web:',
    to: '      "we\\nb":',
    says: [
      '8:7: pairs.rack1.domains."we\\nb": the name of a domain is a letter followed by up to 47 letters, digits, "_", "." or "-"',
    ],
  },
  {
    what: 'a domain that starts with a digit',
    from: '      web:',
    to: '      1web:',
    says: [
      '8:7: pairs.rack1.domains.1web: the name of a domain is a letter followed by up to 47 letters, digits, "_", "." or "-"',
    ],
  },
  {
    what: 'a domain called __proto__',
    from: '      web:',
    to: '      __proto__:',
    says: [
      '8:7: pairs.rack1.domains.__proto__: the name of a domain is a letter followed by up to 47 letters, digits, "_", "." or "-"',
    ],
  },
  {
    what: 'a domain called all',
    from: '      web:',
    to: '      all:',
    says: ['8:7: pairs.rack1.domains.all: drbdadm reads "all" as something else than a resource\'s name'],
  },
  {
    what: 'a domain that drbdadm takes for a minor',
    from: '      web:',
    to: '      minor-7:',
    says: [
      '8:7: pairs.rack1.domains.minor-7: drbdadm reads "minor-7" as something else than a resource\'s name',
    ],
  },
  {
    what: 'a domain whose LVs LVM would refuse',
    from: '      web:',
    to: '      web_tdata:',
    says: [
      '8:7: pairs.rack1.domains.web_tdata: "remus-web_tdata-barrier" contains "_tdata", which LVM keeps for itself',
    ],
  },
  {
    what: 'a shell metacharacter in the name of a host',
    from: 'beta: { ssh',
    to: '"be;ta": { ssh',
    says: [
      '5:7: pairs.rack1.hosts."be;ta": the name of a host is up to 63 letters, digits, "_", "." or "-", starting with a letter or digit',
      '16:18: pairs.rack1.domains.db.primary: "beta" is not a host of this pair; did you mean "be;ta"? ("alpha", "be;ta")',
    ],
  },
  {
    what: 'a space in the name of a pair',
    from: '  rack1:',
    to: '  rack 1:',
    says: [
      '2:3: pairs."rack 1": the name of a pair is a letter followed by up to 47 letters, digits, "_", "." or "-"',
    ],
  },
  {
    what: 'one host',
    from: '      beta: { ssh: root@192.0.2.2, replication: 10.0.0.2 }\n',
    to: '',
    says: [
      '3:5: pairs.rack1.hosts: expected exactly two hosts, found 1',
      '15:18: pairs.rack1.domains.db.primary: "beta" is not a host of this pair ("alpha")',
    ],
  },
  {
    what: 'three hosts',
    from: '    arbiter: operator',
    to: '      gamma: { ssh: root@192.0.2.3, replication: 10.0.0.3 }\n    arbiter: operator',
    says: ['3:5: pairs.rack1.hosts: expected exactly two hosts, found 3'],
  },
  {
    what: 'an ssh target without a user',
    from: 'ssh: root@192.0.2.2',
    to: 'ssh: 192.0.2.2',
    says: ['5:20: pairs.rack1.hosts.beta.ssh: expected user@host or user@host:port, found "192.0.2.2"'],
  },
  {
    what: 'an ssh target that would be an option',
    from: 'ssh: root@192.0.2.2',
    to: 'ssh: root@-oProxyCommand=x',
    says: [
      '5:20: pairs.rack1.hosts.beta.ssh: expected user@host or user@host:port, found "root@-oProxyCommand=x"',
    ],
  },
  {
    what: 'an ssh target with an IPv6 address without brackets',
    from: 'ssh: root@192.0.2.2',
    to: 'ssh: "root@2001:DB8::2"',
    says: ['5:20: pairs.rack1.hosts.beta.ssh: an IPv6 address needs brackets here: root@[2001:db8::2]'],
  },
  {
    what: 'a port beyond all ports',
    from: 'ssh: root@192.0.2.2',
    to: 'ssh: root@192.0.2.2:70000',
    says: ['5:20: pairs.rack1.hosts.beta.ssh: port 70000 is not between 1 and 65535'],
  },
  {
    what: 'an address that is none',
    from: 'replication: 10.0.0.2',
    to: 'replication: 10.0.0.256',
    says: ['5:49: pairs.rack1.hosts.beta.replication: expected an IPv4 or IPv6 address, found "10.0.0.256"'],
  },
  {
    what: 'a name for an address',
    from: 'replication: 10.0.0.2',
    to: 'replication: beta.example.net',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: expected an IPv4 or IPv6 address, found "beta.example.net"',
    ],
  },
  {
    what: 'a loopback address',
    from: 'replication: 10.0.0.2',
    to: 'replication: 127.0.0.2',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: "127.0.0.2" is a loopback address; the other host can\'t reach it',
    ],
  },
  {
    what: 'a link-local address',
    from: 'replication: 10.0.0.2',
    to: 'replication: "fe80::2"',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: "fe80::2" is a link-local address, which DRBD has no interface for; the other host can\'t reach it',
    ],
  },
  {
    what: 'an address with brackets',
    from: 'replication: 10.0.0.2',
    to: 'replication: "[fd00::2]"',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: expected an IPv4 or IPv6 address, without brackets, found "[fd00::2]"',
    ],
  },
  {
    what: 'two families',
    from: 'replication: 10.0.0.2',
    to: 'replication: "fd00::2"',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: alpha and beta need addresses of one family, IPv4 or IPv6',
    ],
  },
  {
    what: 'the same address for both',
    from: 'replication: 10.0.0.2',
    to: 'replication: 10.0.0.1',
    says: [
      '5:49: pairs.rack1.hosts.beta.replication: 10.0.0.1 is already taken by pairs.rack1.hosts.alpha.replication on line 4; a host belongs to one pair, once',
    ],
  },
  {
    what: 'the same machine for both',
    from: 'ssh: root@192.0.2.2',
    to: 'ssh: admin@192.0.2.1',
    says: [
      '5:20: pairs.rack1.hosts.beta.ssh: 192.0.2.1 port 22 is already taken by pairs.rack1.hosts.alpha.ssh on line 4; a host belongs to one pair, once',
    ],
  },
  {
    what: 'a host in two pairs',
    to: BASE + secondPair('alpha: { ssh: root@192.0.2.1, replication: 10.0.0.1 }', 'mail'),
    says: [
      '23:7: pairs.rack2.hosts.alpha: host alpha is already taken by pairs.rack1.hosts.alpha on line 4; a host belongs to one pair, once',
      '23:21: pairs.rack2.hosts.alpha.ssh: 192.0.2.1 port 22 is already taken by pairs.rack1.hosts.alpha.ssh on line 4; a host belongs to one pair, once',
      '23:50: pairs.rack2.hosts.alpha.replication: 10.0.0.1 is already taken by pairs.rack1.hosts.alpha.replication on line 4; a host belongs to one pair, once',
    ],
  },
  {
    what: 'a machine in two pairs under two names',
    to: BASE + secondPair('delta: { ssh: root@192.0.2.1, replication: 10.0.9.1 }', 'web'),
    says: [
      '23:21: pairs.rack2.hosts.delta.ssh: 192.0.2.1 port 22 is already taken by pairs.rack1.hosts.alpha.ssh on line 4; a host belongs to one pair, once',
      '26:7: pairs.rack2.domains.web: domain web is already taken by pairs.rack1.domains.web on line 8',
    ],
  },
  {
    what: 'an arbiter that is none',
    from: 'arbiter: operator',
    to: 'arbiter: quorum',
    says: [
      '6:14: pairs.rack1.arbiter: expected operator, unsafe-may-split, or a map with one of etcd, ssh or fence, found "quorum"',
    ],
  },
  {
    what: 'two arbiters',
    from: 'arbiter: operator',
    to: 'arbiter: { ssh: root@192.0.2.9, etcd: ["https://192.0.2.9:2379"] }',
    says: [
      '6:5: pairs.rack1.arbiter: expected operator, unsafe-may-split, or a map with one of etcd, ssh or fence, found ssh and etcd',
    ],
  },
  {
    what: 'a misspelt arbiter',
    from: 'arbiter: operator',
    to: 'arbiter: { etcdd: ["https://192.0.2.9:2379"] }',
    says: [
      '6:5: pairs.rack1.arbiter: expected operator, unsafe-may-split, or a map with one of etcd, ssh or fence, found none of them',
      '6:16: pairs.rack1.arbiter.etcdd: Unrecognized key; did you mean "etcd"?',
    ],
  },
  {
    what: 'etcd without endpoints',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: [] }',
    says: ['6:22: pairs.rack1.arbiter.etcd: expected 1 to 15 URLs, found 0'],
  },
  {
    what: 'an endpoint without a port',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: ["https://192.0.2.9"] }',
    says: [
      '6:23: pairs.rack1.arbiter.etcd.0: "https://192.0.2.9" names no port; etcd listens on 2379 by default',
    ],
  },
  {
    what: 'an endpoint with a password in it',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: ["https://root:secret@192.0.2.9:2379"] }',
    says: [
      '6:23: pairs.rack1.arbiter.etcd.0: no credentials belong in a URL; use the keys user and passwordFile',
    ],
  },
  {
    what: 'an endpoint named twice',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: ["https://192.0.2.9:2379", "https://192.0.2.9:2379/"] }',
    says: ['6:49: pairs.rack1.arbiter.etcd.1: https://192.0.2.9:2379 is named twice'],
  },
  {
    what: 'etcd on one of the hosts alone',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: ["https://192.0.2.1:2379"] }',
    says: [
      '6:22: pairs.rack1.arbiter.etcd: only alpha itself could decide, and not when it is lost; name a member elsewhere',
    ],
  },
  {
    what: 'a password in the clear',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["http://192.0.2.9:2379"], user: remus, passwordFile: /etc/p } }',
    says: ['6:36: pairs.rack1.arbiter.etcd.endpoints.0: would get the password in the clear; use https'],
  },
  {
    what: 'an etcd user without a password',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["https://192.0.2.9:2379"], user: remus } }',
    says: ['6:69: pairs.rack1.arbiter.etcd.user: needs passwordFile, too'],
  },
  {
    what: 'an etcd certificate without its key',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["https://192.0.2.9:2379"], certFile: /etc/c } }',
    says: ['6:73: pairs.rack1.arbiter.etcd.certFile: needs keyFile, too'],
  },
  {
    what: 'an etcd key without its certificate',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["https://192.0.2.9:2379"], keyFile: /etc/k } }',
    says: ['6:72: pairs.rack1.arbiter.etcd.keyFile: needs certFile, too'],
  },
  {
    what: 'an etcd certificate for an etcd that asks for none',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["http://192.0.2.9:2379"], certFile: /etc/c, keyFile: /etc/k } }',
    says: ['6:36: pairs.rack1.arbiter.etcd.endpoints.0: asks for no certificate such as certFile; use https'],
  },
  {
    what: 'a password file on the controller',
    from: 'arbiter: operator',
    to: 'arbiter: { etcd: { endpoints: ["https://192.0.2.9:2379"], user: remus, passwordFile: secret } }',
    says: [
      '6:90: pairs.rack1.arbiter.etcd.passwordFile: expected an absolute path of letters, digits and "_./~+@:,=%-" without "..", found "secret"',
    ],
  },
  {
    what: 'a host as its own arbiter',
    from: 'arbiter: operator',
    to: 'arbiter: { ssh: remus@10.0.0.2 }',
    says: ['6:21: pairs.rack1.arbiter.ssh: the arbiter has to be a third machine: 10.0.0.2 is beta itself'],
  },
  {
    what: 'a directory with a metacharacter',
    from: 'arbiter: operator',
    to: 'arbiter: { ssh: remus@192.0.2.9, directory: "/srv/$(id)" }',
    says: [
      '6:49: pairs.rack1.arbiter.directory: expected an absolute path of letters, digits and "_./~+@:,=%-" without "..", found "/srv/$(id)"',
    ],
  },
  {
    what: 'a directory that climbs',
    from: 'arbiter: operator',
    to: 'arbiter: { ssh: remus@192.0.2.9, directory: /srv/../etc }',
    says: [
      '6:49: pairs.rack1.arbiter.directory: expected an absolute path of letters, digits and "_./~+@:,=%-" without "..", found "/srv/../etc"',
    ],
  },
  {
    what: 'a fence agent for one host only',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: [fence_ipmilan] } }',
    says: ['6:16: pairs.rack1.arbiter.fence.beta: is required: the command that powers this host off'],
  },
  {
    what: 'a fence agent for a host of another name',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: [fence_ipmilan], beta: [fence_ipmilan], bata: [fence_ipmilan] } }',
    says: ['6:72: pairs.rack1.arbiter.fence.bata: Unrecognized key; did you mean "beta"?'],
  },
  {
    what: 'a fence agent through a shell',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: [sh, -c, reboot], beta: [fence_ipmilan] } }',
    says: [
      '6:33: pairs.rack1.arbiter.fence.alpha.0: expected a fence agent such as fence_ipmilan, or an absolute path, found "sh"',
    ],
  },
  {
    what: 'a fence password with a quote',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: [fence_ipmilan, "--password=a\'b"], beta: [fence_ipmilan] } }',
    says: [
      '6:48: pairs.rack1.arbiter.fence.alpha.1: expected an argument made of letters, digits and "_.:,=@%+/-" only',
    ],
  },
  {
    what: 'a fence command line that is a text',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: fence_ipmilan -P, beta: [fence_ipmilan] } }',
    says: ['6:32: pairs.rack1.arbiter.fence.alpha: expected a command line as a list of arguments'],
  },
  {
    what: 'a fence agent with a short option',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: [fence_ipmilan, -P], beta: [fence_ipmilan, --lanplus, secret] } }',
    says: [
      '6:48: pairs.rack1.arbiter.fence.alpha.1: expected the form --name=value, --name or name=value, which can be given on standard input; write the long form of the option',
      '6:86: pairs.rack1.arbiter.fence.beta.2: expected the form --name=value, --name or name=value, which can be given on standard input; write the long form of the option',
    ],
  },
  {
    what: 'a fence agent that starts the machine again',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: { agent: [fence_ipmilan, --action=reboot] }, beta: [fence_ipmilan] } }',
    says: [
      '6:57: pairs.rack1.arbiter.fence.alpha.agent.1: its action is reboot, off is required: a machine that is started again is no proof that it has stopped; leave --action out, or make it off',
    ],
  },
  {
    what: 'a fence delay for both hosts',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: { agent: [fence_a], delay: 15s }, beta: { agent: [fence_b], delay: 15s } } }',
    says: [
      '6:99: pairs.rack1.arbiter.fence.beta.delay: only one of the hosts may have a delay: with both, both are switched off after a cut',
    ],
  },
  {
    what: 'a fence delay of an hour',
    from: 'arbiter: operator',
    to: 'arbiter: { fence: { alpha: { agent: [fence_a], delay: 60m }, beta: [fence_b] } }',
    says: [
      '6:59: pairs.rack1.arbiter.fence.alpha.delay: 60m is more than 5m: nothing of the guest is heard until then after a failure',
    ],
  },
  {
    what: 'a link that is none',
    from: '    arbiter: operator',
    to: '    link: telnet',
    says: ['6:11: pairs.rack1.link: expected tls or ssh, found "telnet"'],
  },
  {
    what: 'a primary of another pair',
    from: 'primary: alpha',
    to: 'primary: alhpa',
    says: [
      '10:18: pairs.rack1.domains.web.primary: "alhpa" is not a host of this pair; did you mean "alpha"? ("alpha", "beta")',
    ],
  },
  {
    what: 'a path with a metacharacter',
    from: 'config: web.cfg',
    to: 'config: "web.cfg; reboot"',
    says: [
      '9:17: pairs.rack1.domains.web.config: expected a path of letters, digits and "_./~+@:,=%-", found "web.cfg; reboot"',
    ],
  },
  {
    what: 'an engine that is none',
    from: 'primary: alpha',
    to: 'primary: alpha\n        engine: protocol-e',
    says: ['11:17: pairs.rack1.domains.web.engine: expected journal or protocol-d, found "protocol-e"'],
  },
  {
    what: 'two engines on the same hosts',
    from: '        port: 7791\n        disks:\n          - { vdev: xvda, volumeGroup: vg0, size: 10GiB }\n          - {',
    to: '        port: 7791\n        engine: protocol-d\n        minor: 7\n        disks:\n          - {',
    says: [
      '18:17: pairs.rack1.domains.db.engine: protocol-d, but web has journal: they need different DRBD modules, and a host can load one',
    ],
  },
  {
    what: 'protocol D with two disks and no minor',
    to:
      HEAD +
      DB.replace('port: 7791', 'port: 7791\n        engine: protocol-d\n        journal: { size: 1GiB }'),
    says: [
      '8:7: pairs.rack1.domains.db: minor is required with engine protocol-d (0 to 254): DRBD 8.3 has no larger ones',
      '13:9: pairs.rack1.domains.db.journal: has no use with engine protocol-d, whose module buffers the writes itself',
      '14:9: pairs.rack1.domains.db.disks: engine protocol-d can protect one disk, found 2: its disks commit one by one, so after a failover they could be of different checkpoints',
    ],
  },
  {
    what: 'protocol D with a minor that 8.3 has not',
    to: HEAD + WEB.replace('port: 7790', 'port: 7790\n        engine: protocol-d\n        minor: 255'),
    says: ['13:16: pairs.rack1.domains.web.minor: 255 is beyond 254, the largest minor of DRBD 8.3'],
  },
  {
    what: 'a text for a port',
    from: 'port: 7790',
    to: 'port: "7790"',
    says: ['11:15: pairs.rack1.domains.web.port: expected a whole number, found "7790"'],
  },
  {
    what: 'a port of the system',
    from: 'port: 7790',
    to: 'port: 80',
    says: ['11:15: pairs.rack1.domains.web.port: 80 is not between 1024 and 65535'],
  },
  {
    what: 'a port with a fraction',
    from: 'port: 7790',
    to: 'port: 7790.5',
    says: ['11:15: pairs.rack1.domains.web.port: expected a whole number, found 7790.5'],
  },
  {
    what: 'the same port twice',
    from: 'port: 7791',
    to: 'port: 7790',
    says: [
      '17:15: pairs.rack1.domains.db.port: port 7790 is already taken by pairs.rack1.domains.web.port on line 11',
    ],
  },
  {
    what: "a port that is another one's linkPort",
    from: 'port: 7791',
    to: 'port: 8790',
    says: [
      '17:15: pairs.rack1.domains.db.port: port 8790 is already taken by pairs.rack1.domains.web.linkPort on line 8',
    ],
  },
  {
    what: 'no room for the linkPort',
    from: 'port: 7791',
    to: 'port: 65000',
    says: ['14:7: pairs.rack1.domains.db: linkPort is required here: port + 1000 is beyond 65535'],
  },
  {
    what: 'minors that overlap',
    from: 'port: 7791',
    to: 'port: 7791\n        minor: 108250',
    says: [
      '18:16: pairs.rack1.domains.db.minor: minors 108250 to 108265 overlap with 108256 to 108271 of web',
    ],
  },
  {
    what: 'minors beyond what DRBD has',
    from: 'port: 7791',
    to: 'port: 7791\n        minor: 1048570',
    says: ['18:16: pairs.rack1.domains.db.minor: a domain takes 16 minors, and 1048585 is beyond 1048575'],
  },
  {
    what: 'no disks',
    from: '        disks:\n          - { vdev: xvda, volumeGroup: vg0, size: 20GiB }',
    to: '        disks: []',
    says: ['12:9: pairs.rack1.domains.web.disks: is empty; a domain needs at least one disk'],
  },
  {
    what: 'too many disks',
    from: '          - { vdev: xvda, volumeGroup: vg0, size: 20GiB }',
    to: sixteenDisks(),
    says: ['12:9: pairs.rack1.domains.web.disks: 16 disks; at most 15, as volume 15 is the barrier'],
  },
  {
    what: 'a vdev that is none',
    from: 'vdev: xvda, volumeGroup: vg0, size: 20GiB',
    to: 'vdev: /dev/xvda, volumeGroup: vg0, size: 20GiB',
    says: [
      '13:21: pairs.rack1.domains.web.disks.0.vdev: expected a disk name such as xvda, sda or hda, found "/dev/xvda"',
    ],
  },
  {
    what: 'a vdev twice',
    from: 'vdev: xvdb',
    to: 'vdev: xvda',
    says: ['20:21: pairs.rack1.domains.db.disks.1.vdev: xvda is already disk 0 of this domain'],
  },
  {
    what: 'a group with a slash',
    from: 'volumeGroup: vg0, size: 20GiB',
    to: 'volumeGroup: ../vg0, size: 20GiB',
    says: [
      '13:40: pairs.rack1.domains.web.disks.0.volumeGroup: expected a name of letters, digits and "_+.-" as LVM has it, found "../vg0"',
    ],
  },
  {
    what: 'neither size nor volume',
    from: 'volumeGroup: vg0, size: 20GiB',
    to: 'volumeGroup: vg0',
    says: [
      '13:13: pairs.rack1.domains.web.disks.0: expected either size (setup makes the volume) or logicalVolume (it exists), found neither',
    ],
  },
  {
    what: 'both size and volume',
    from: 'volumeGroup: vg0, size: 20GiB',
    to: 'volumeGroup: vg0, size: 20GiB, logicalVolume: web',
    says: [
      '13:13: pairs.rack1.domains.web.disks.0: expected either size (setup makes the volume) or logicalVolume (it exists), found both',
    ],
  },
  {
    what: 'a volume that LVM keeps for itself',
    from: 'logicalVolume: data',
    to: 'logicalVolume: data_rimage_0',
    says: [
      '20:60: pairs.rack1.domains.db.disks.1.logicalVolume: "data_rimage_0" contains "_rimage", which LVM keeps for itself',
    ],
  },
  {
    what: 'a volume that is used twice',
    from: 'size: 10GiB }',
    to: 'logicalVolume: data }\n          - { vdev: xvdc, volumeGroup: vg0, logicalVolume: data }',
    says: [
      '20:60: pairs.rack1.domains.db.disks.1.logicalVolume: volume vg0/data is already taken by pairs.rack1.domains.db.disks.0.logicalVolume on line 19',
    ],
  },
  {
    what: 'a volume of the name of one of ours',
    from: 'volumeGroup: vg1, logicalVolume: data',
    to: 'volumeGroup: vg0, logicalVolume: remus-web-0-md',
    says: [
      '20:60: pairs.rack1.domains.db.disks.1.logicalVolume: volume vg0/remus-web-0-md is already taken by pairs.rack1.domains.web.disks.0.volumeGroup on line 13',
    ],
  },
  {
    what: 'a size in decimal units',
    from: 'size: 20GiB',
    to: 'size: 20GB',
    says: ['13:51: pairs.rack1.domains.web.disks.0.size: unknown unit in "20GB"; did you mean 20GiB?'],
  },
  {
    what: 'a size that is no multiple of a sector',
    from: 'size: 20GiB',
    to: 'size: 10000000',
    says: [
      '13:51: pairs.rack1.domains.web.disks.0.size: 10000000 bytes is not a multiple of 512, the size of a sector',
    ],
  },
  {
    what: 'a size with a fraction',
    from: 'size: 20GiB',
    to: 'size: 1.5GiB',
    says: [
      '13:51: pairs.rack1.domains.web.disks.0.size: expected a size such as 20GiB, 512MiB or a number of bytes, found "1.5GiB"',
    ],
  },
  {
    what: 'a negative size',
    from: 'size: 20GiB',
    to: 'size: -4194304',
    says: [
      '13:51: pairs.rack1.domains.web.disks.0.size: expected a size such as 20GiB, 512MiB or a number of bytes, found -4194304',
    ],
  },
  {
    what: 'a size beyond all disks',
    from: 'size: 20GiB',
    to: 'size: 17TiB',
    says: [
      '13:51: pairs.rack1.domains.web.disks.0.size: 17TiB is not between 4MiB and 16TiB: one LVM extent at least, and a bitmap that fits in memory at most',
    ],
  },
  {
    what: 'a size of nothing',
    from: 'size: 20GiB',
    to: 'size: 0',
    says: [
      '13:51: pairs.rack1.domains.web.disks.0.size: 0 bytes is not between 4MiB and 16TiB: one LVM extent at least, and a bitmap that fits in memory at most',
    ],
  },
  {
    what: 'a journal that is too small',
    from: '        port: 7790',
    to: '        port: 7790\n        journal: { size: 1MiB }',
    says: [
      '12:26: pairs.rack1.domains.web.journal.size: 1MiB is not between 64MiB and 256GiB: it holds the disk writes of several checkpoints, and its index is kept in memory',
    ],
  },
  {
    what: 'device-mapper names that are too long',
    from: 'volumeGroup: vg1, logicalVolume: data',
    to: `volumeGroup: ${LONG}, logicalVolume: ${LONG}`,
    says: [
      `20:110: pairs.rack1.domains.db.disks.1.logicalVolume: the device-mapper name of ${LONG}/${LONG} has 159 characters; at most 127, hyphens count twice`,
    ],
  },
  {
    what: 'an interval without a unit',
    from: '        port: 7790',
    to: '        port: 7790\n        checkpoint: { interval: 100 }',
    says: [
      '12:33: pairs.rack1.domains.web.checkpoint.interval: 100 has no unit; expected a duration such as 100ms, 1s or 2m',
    ],
  },
  {
    what: 'an interval that is too short',
    from: '        port: 7790',
    to: '        port: 7790\n        checkpoint: { interval: 5ms }',
    says: [
      '12:33: pairs.rack1.domains.web.checkpoint.interval: 5ms is less than 10ms: suspending and resuming the guest takes about as long',
    ],
  },
  {
    what: 'an interval that is too long',
    from: '        port: 7790',
    to: '        port: 7790\n        checkpoint: { interval: 1m }',
    says: [
      '12:33: pairs.rack1.domains.web.checkpoint.interval: 1m is more than 10s: every answer of the guest waits for the end of its checkpoint',
    ],
  },
  {
    what: 'a detection that is too quick',
    from: '        port: 7790',
    to: '        port: 7790\n        checkpoint: { interval: 400ms, failAfter: 500ms }',
    says: [
      '12:51: pairs.rack1.domains.web.checkpoint.failAfter: failAfter 500ms is less than two intervals of 400ms: one late checkpoint would be taken for a failure',
    ],
  },
  {
    what: 'an interval too long for the detection',
    from: '        port: 7790',
    to: '        port: 7790\n        checkpoint: { interval: 800ms }',
    says: [
      '12:33: pairs.rack1.domains.web.checkpoint.interval: failAfter 1s is less than two intervals of 800ms: one late checkpoint would be taken for a failure',
    ],
  },
  {
    what: 'pins that overlap',
    from: '        port: 7790',
    to: '        port: 7790\n        pin: { dom0: [0, 1], guest: [1, 2] }',
    says: [
      '12:38: pairs.rack1.domains.web.pin.guest.0: CPU 1 is given to the dom0 too; the two would take turns on it',
    ],
  },
  {
    what: 'pins of nothing',
    from: '        port: 7790',
    to: '        port: 7790\n        pin: { dom0: [], guest: [1, 1] }',
    says: [
      '12:22: pairs.rack1.domains.web.pin.dom0: is empty; expected CPU numbers',
      '12:37: pairs.rack1.domains.web.pin.guest.1: CPU 1 is listed twice',
    ],
  },
  {
    what: 'yes instead of true',
    from: '        port: 7790',
    to: '        port: 7790\n        autoRecover: yes',
    says: ['12:22: pairs.rack1.domains.web.autoRecover: expected true or false, found "yes"'],
  },
  {
    what: 'a key file with a newline',
    from: 'pairs:',
    to: 'ssh: { identityFiles: ["a\\nb"] }\npairs:',
    says: ['1:24: ssh.identityFiles.0: expected a path of letters, digits and "_./~+@:,=%-", found "a\\nb"'],
  },
  {
    what: 'two wishes for the dom0',
    to:
      HEAD +
      WEB +
      '        pin: { dom0: [0], guest: [1] }\n' +
      DB +
      '        pin: { dom0: [1], guest: [2] }\n',
    says: [
      '22:22: pairs.rack1.domains.db.pin.dom0: CPUs 1, but web gives the dom0 0; a host has one dom0 for all domains',
    ],
  },
  {
    what: "a key of an object's prototype in a disk",
    from: 'size: 20GiB',
    to: 'size: 20GiB, __proto__: { size: 1 }',
    says: ['13:58: pairs.rack1.domains.web.disks.0.__proto__: Unrecognized key'],
  },
  {
    what: 'a primary that every object has',
    from: 'primary: alpha',
    to: 'primary: constructor',
    says: [
      '10:18: pairs.rack1.domains.web.primary: "constructor" is not a host of this pair ("alpha", "beta")',
    ],
  },
];

/** The good configuration with one thing changed. */
function broken({ from, to }: Case): string {
  if (from === undefined) return to;
  assert.is(BASE.split(from).length >= 2, true, `the good configuration has no ${from}`);
  return BASE.replace(from, () => to);
}

function messages(text: string): string[] {
  try {
    parseConfig(text, 'pair.yaml');
  } catch (error) {
    assert.instance(error, OperatorErrors);
    assert.is((error as OperatorErrors).exitCode, 2);
    return (error as OperatorErrors).errors.map(({ message }) => message);
  }
  return [];
}

const test = suite('broken configurations');

test('the configuration that they all start from is good', () => {
  assert.equal(messages(BASE), []);
});

for (const one of cases) {
  test(one.what, () => {
    assert.equal(
      messages(broken(one)),
      one.says.map((line) => `pair.yaml:${line}`),
    );
  });
}

test('what the file has in it gets neither to the terminal nor to a second line', () => {
  const [message] = messages('pairs: !<\u001b[2J> { a: 1 }');
  assert.is(/[\u0000-\u001f\u007f-\u009f]/.test(message ?? '\u0000'), false, message ?? 'it was accepted');
});

test('a file that is too large is not even parsed', () => {
  assert.equal(messages(`# ${'x'.repeat(1024 * 1024)}`), ['pair.yaml:1:1: is larger than 1048576 bytes']);
});

function secondPair(host: string, domain: string): string {
  return `  rack2:
    hosts:
      ${host}
      gamma: { ssh: root@192.0.2.3, replication: 10.0.0.3 }
    domains:
      ${domain}: { config: m.cfg, primary: gamma, port: 7800, disks: [{ vdev: xvda, volumeGroup: vg0, size: 1GiB }] }
`;
}

function sixteenDisks(): string {
  const letters = [...'abcdefghijklmnop'];
  return letters
    .map((letter) => `          - { vdev: xvd${letter}, volumeGroup: vg0, size: 1GiB }`)
    .join('\n');
}

test.run();
