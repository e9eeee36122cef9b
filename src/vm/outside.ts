/**
 * Devices of the guest that may hold data and that QEMU's block layer does not know: a disk that another
 * process serves, a controller of the host, memory that is kept in a file, a shared folder. No backup holds
 * what is in them. Pure but for `queryOutside()`.
 *
 * Source: QEMU's device list (`-device help`) of 5.2 to 11.1, and the PCI class codes of `pci.ids`.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { type PciDevice, queryPci } from "../qmp/queries.ts";
import type { Device } from "./devices.ts";
import type { LeftOut } from "./disks.ts";

/** What becomes of their data, by the beginning of their QOM types; `-pci` and the like may follow. */
const KINDS: readonly [type: RegExp, what: string][] = [
  [
    /^vhost-user-(blk|scsi)\b/,
    "whose disk another process than QEMU serves: back it up there, or inside the guest",
  ],
  [
    /^vhost-scsi\b/,
    "whose disks the host's kernel serves: back them up on the host, or inside the guest",
  ],
  [
    /^(virtio-pmem|nvdimm|cxl-type3)\b/,
    "memory that is kept in a file of the host: back that file up while the VM is off",
  ],
  [
    /^(vhost-user-fs|virtio-9p|usb-mtp)\b/,
    "a shared folder of the host: back it up there",
  ],
  [
    /^(vfio-pci|vfio-user-pci|vfio-ccw)\b/,
    "a device of the host that is passed through: back its disks up inside the guest",
  ],
  [
    /^usb-host$/,
    "a USB device of the host that is passed through: if it is a disk, back it up inside the guest",
  ],
  [
    /^vhost-(vdpa|user)(-test)?-device\b/,
    "a device outside of QEMU: if it is a disk, back it up there, or inside the guest",
  ],
];

/** Finds them among the devices; QEMU is asked about those that are passed through. */
export async function queryOutside(qmp: QmpClient, devices: Device[]): Promise<LeftOut[]> {
  const isPassed = devices.some(({ type }) => isVfioPci(type));
  return outsideOf(devices, isPassed ? await queryPci(qmp) : []);
}

/**
 * Picks those that may hold data.
 *
 * @param pci What is on the guest's PCI buses, for the classes of devices that are passed through.
 */
export function outsideOf(devices: Omit<Device, "path">[], pci: PciDevice[]): LeftOut[] {
  return devices.flatMap(({ name, type }) => {
    const what = KINDS.find(([pattern]) => pattern.test(type))?.[1];
    if (what === undefined || (isVfioPci(type) && !mayBeStorage(name, pci))) return [];
    const article = type.startsWith("nv") ? "an" : "a";
    return [{ device: name, reason: `${article} ${type}, ${what}`, unasked: true }];
  });
}

function isVfioPci(type: string): boolean {
  return /^vfio-(user-)?pci\b/.test(type);
}

/** Mass storage, an SD host controller, or Fibre Channel. A graphics or network card holds no data. */
function mayBeStorage(name: string, pci: PciDevice[]): boolean {
  const classes = pci.filter(({ id }) => id === name).map((device) => device.class);
  // One without an id can't be found among the others.
  if (classes.length === 0) return true;
  return classes.some((code) => code >> 8 === 0x01 || code === 0x0805 || code === 0x0c04);
}
