/**
 * What becomes of each key of an old guest configuration: those that xl has (xl.cfg(5) and the keys that
 * xl_parse.c of Xen 4.17 asks for), those that only xm had, and those that can't follow a guest to another host.
 */
import { HOST_DEVICE_KEYS } from '../xlconfig.js';

/** Kept as they are. */
const XL_KEYS = new Set(
  `acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2mhvm apic bios bios_path_override blkdev_start boot
  bootloader bootloader_args cap channel cmdline cpu_weight cpuid cpus cpus_soft device_model_args
  device_model_args_hvm device_model_args_pv device_model_override device_model_user device_model_version dm_restrict
  event_channels extra firmware firmware_override gfx_passthru_kind hap hdtype hpet init_seclabel kernel keymap
  llc_colors localtime max_event_channels max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus
  mca_caps memory mmio_hole ms_vm_genid msr_relaxed nestedhvm nographic nx on_crash on_poweroff on_reboot
  on_soft_reset on_watchdog oos opengl pae passthrough pool pvshim pvshim_cmdline pvshim_extra pvshim_path ramdisk
  root rtc_timeoffset sdl seclabel serial shadow_memory smbios_firmware soundhw spice spice_clipboard_sharing
  spiceagent_mouse spicedisable_ticketing spicehost spicepasswd spiceport spicetls_port spiceusbredirection
  spicevdagent stdvga timer_mode tsc_mode usb usbdevice usbversion uuid vcpus vendor_device vfb vga videoram viridian
  vkb vnc vncdisplay vnclisten vncpasswd vncunused vncviewer vnuma vpmu vpt_align vsnd vuart
  xen_platform_pci xend_suspend_evtchn_compat`.split(/\s+/),
);

/** Read for what they mean, and written again in xl's words. */
const READ_KEYS = new Set(['name', 'type', 'builder', 'pvh', 'disk', 'vif', 'cpu', 'bootargs', 'cpu_cap']);

const HOST_DEVICE =
  "a device of the host stays behind when the guest moves: a guest that has it can't be protected";
const COMMAND_LINE = 'xm made it a part of the kernel\'s command line: write it into "extra"';
const NO_XEND =
  'there is no xend; a protected guest must not be started by xendomains (no link in /etc/xen/auto)';
const NO_SUCH = 'xl has nothing like it';

const NOT_NEEDED: Readonly<Record<string, string>> = {
  device_model: 'xl finds its own QEMU',
  on_xend_start: NO_XEND,
  on_xend_stop: NO_XEND,
  autostart: NO_XEND,
  nomigrate: 'left out: protecting a guest is a migration that never ends',
  disable_migrate: 'left out: protecting a guest is a migration that never ends',
  xauthority: NO_SUCH,
  display: NO_SUCH,
  monitor: 'xl has QEMU\'s monitor elsewhere ("xl qemu-monitor-command")',
  guest_os_type: NO_SUCH,
  suppress_spurious_page_faults: NO_SUCH,
  machine_address_size: NO_SUCH,
  superpages: 'xl uses them by itself',
  features: NO_SUCH,
  vhpt: 'there is no Xen for Itanium',
  access_control: 'xl has "seclabel" for Xen\'s security modules',
  xm_file: NO_SUCH,
  hvm_pirq: 'xl asks the guest',
  run_hotplug_scripts: 'the scripts always run',
  comment: 'nothing but a remark',
  pci_msitranslate: 'without a PCI device it does nothing',
  pci_power_mgmt: 'without a PCI device it does nothing',
  pci_permissive: 'without a PCI device it does nothing',
  pci_seize: 'without a PCI device it does nothing',
};

const CANNOT: Readonly<Record<string, string>> = {
  ...Object.fromEntries(
    [
      ...HOST_DEVICE_KEYS,
      'irq',
      'vscsi',
      'gfx_passthru',
      'rdm',
      'fda',
      'fdb',
      'parallel',
      'blkif',
      'netif',
      'tpmif',
    ].map((key) => [key, HOST_DEVICE]),
  ),
  ...Object.fromEntries(
    ['ip', 'netmask', 'gateway', 'hostname', 'dhcp', 'interface', 'nfs_server', 'nfs_root'].map((key) => [
      key,
      COMMAND_LINE,
    ]),
  ),
  vcpu_avail: 'xl has no mask: set "maxvcpus" to how many there can be and "vcpus" to how many are on',
  vcpus_avail: 'xl has no mask: set "maxvcpus" to how many there can be and "vcpus" to how many are on',
  restart: 'xl has "on_poweroff", "on_reboot" and "on_crash" for it',
  bootentry: 'say it in "bootloader_args"',
  driver_domain: 'a driver domain serves the devices of one host',
  vif2: 'only old NetWare-like drivers had it: make it a "vif"',
  cdrom: 'write the drive as a disk: "file:/PATH,hdc:cdrom,r"',
  isa: 'xl gives an emulated card by "soundhw" or "usbdevice" only',
};

export type KeyRule = { rule: 'keep' | 'read' | 'unknown' } | { rule: 'not-needed' | 'cannot'; note: string };

export function keyRule(key: string): KeyRule {
  if (XL_KEYS.has(key)) return { rule: 'keep' };
  if (READ_KEYS.has(key)) return { rule: 'read' };
  const notNeeded = Object.hasOwn(NOT_NEEDED, key) ? NOT_NEEDED[key] : undefined;
  if (notNeeded !== undefined) return { rule: 'not-needed', note: notNeeded };
  const cannot = Object.hasOwn(CANNOT, key) ? CANNOT[key] : undefined;
  if (cannot !== undefined) return { rule: 'cannot', note: cannot };
  return { rule: 'unknown' };
}
