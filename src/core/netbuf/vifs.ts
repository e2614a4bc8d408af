/**
 * Which of the host's interfaces a guest's output comes from, by `xenstore-ls -f /local/domain/0/backend/vif/DOMID`
 * and the interfaces that are there.
 *
 * A PVH guest sends through `vifDOMID.DEVID` (or the name that `vifname=` gave it). An HVM guest has an emulated card
 * besides, whose tap is the same name with `-emu`, until its own driver unplugs it; the tap may stay behind. Where
 * there is a tap, the guest must have its Xen driver connected; the tap is then held like the vif, so that nothing
 * can leave by it.
 * (xl-network-configuration(5); `libxl__device_nic_devname` in Xen's tools/libs/light/libxl_nic.c;
 * `XenbusState` in xen/include/public/io/xenbus.h.)
 *
 * Not known is refused: an interface that was overlooked would let output out before its commit.
 */
import type { Hold } from './commands.js';
import { ifbName, isInterfaceName } from './names.js';
import { linesOf } from '../parse/text.js';

export interface VifBackend {
  devid: number;
  /** Keys below the device, as in `state` and `vifname`. */
  values: ReadonlyMap<string, string>;
}

const PATH = /^\/local\/domain\/[0-9]+\/backend\/vif\/([0-9]+)(?:\/([0-9]+)(?:\/(\S+))?)? = "(.*)"$/;

/**
 * @param text nothing when the guest has no network
 * @throws ParseError
 */
export function parseVifBackends(domid: number, text: string): VifBackend[] {
  const devices = new Map<number, Map<string, string>>();
  for (const line of linesOf('xenstore-ls', text)) {
    const match = PATH.exec(line.text);
    if (!match) return line.fail('a path and a value of a network backend are expected');
    if (line.integer(match[1], 'the domain') !== domid) line.fail(`domain ${domid} is expected`);
    if (match[2] === undefined) continue;
    const devid = line.integer(match[2], 'the device', 65535);
    const values = devices.get(devid) ?? new Map<string, string>();
    devices.set(devid, values);
    if (match[3] !== undefined) values.set(match[3], match[4] ?? '');
  }
  return [...devices].sort(([a], [b]) => a - b).map(([devid, values]) => ({ devid, values }));
}

/** `enum xenbus_state`. */
const STATES: Record<string, string> = {
  '1': 'Initialising',
  '2': 'InitWait',
  '3': 'Initialised',
  '4': 'Connected',
  '5': 'Closing',
  '6': 'Closed',
  '7': 'Reconfiguring',
  '8': 'Reconfigured',
};

export type VifChoice = { holds: Hold[]; reason: string } | { refused: string };

/**
 * @param guest `pvh` guests have no emulated card
 * @param interfaces names of all that the host has
 */
export function chooseVifs(
  domain: string,
  domid: number,
  guest: 'pvh' | 'hvm',
  backends: readonly VifBackend[],
  interfaces: ReadonlySet<string>,
): VifChoice {
  const holds: Hold[] = [];
  const said: string[] = [];
  const refused = (what: string): VifChoice => ({
    refused: `${domain}: its network can't be held: ${what}; nothing was changed`,
  });
  for (const { devid, values } of backends) {
    const vif = values.get('vifname') ?? `vif${domid}.${devid}`;
    const tap = `${vif}-emu`;
    const state = values.get('state') ?? '';
    const stateName = `state ${state} (${STATES[state] ?? 'unknown'})`;
    if (!isInterfaceName(vif)) return refused(`${JSON.stringify(vif)} is no name of an interface`);
    if (values.get('online') !== '1') return refused(`network device ${devid} is being removed (not online)`);
    if (!['1', '2', '3', '4'].includes(state)) return refused(`${vif} is in ${stateName}`);
    if (state !== '4' && interfaces.has(tap)) {
      return refused(
        `${vif} is in ${stateName} and ${tap} is there, so the guest may send through its emulated card; ` +
          `it has to use its Xen network driver (Connected)`,
      );
    }
    if (!interfaces.has(vif)) return refused(`there is no interface ${vif} on this host`);
    const ifb = ifbName(domid, devid, false);
    const tapIfb = ifbName(domid, devid, true);
    if (ifb === undefined || tapIfb === undefined) return refused(`the name for ${vif} would be too long`);
    holds.push({ vif, ifb });
    if (!interfaces.has(tap)) {
      said.push(vif);
    } else if (guest === 'pvh') {
      return refused(`${tap} is there, but a PVH guest has no emulated card`);
    } else {
      holds.push({ vif: tap, ifb: tapIfb });
      said.push(`${vif} and ${tap}`);
    }
  }
  for (const name of interfaces) {
    const own = new RegExp(`^vif${domid}\\.[0-9]+(?:-emu)?$`).test(name);
    if (own && !holds.some((hold) => hold.vif === name)) {
      return refused(`${name} is on this host, but xenstore knows no such device`);
    }
  }
  const reason = said.length === 0 ? 'has no network' : `sends through ${said.join(', ')}`;
  return { holds, reason: `${domain} ${reason}` };
}
