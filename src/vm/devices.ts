/**
 * The devices of the guest that a user has added: QOM's lists of them.
 *
 * @module
 */

import type { QmpClient } from "../qmp/client.ts";
import { qomChildren } from "../qmp/queries.ts";

/** A device of the guest. */
export interface Device {
  /** Its QOM path. */
  path: string;
  /** Its id; the path of one without. */
  name: string;
  /** Its QOM type. */
  type: string;
}

const NAMED = "/machine/peripheral";
const NAMELESS = "/machine/peripheral-anon";

/** Asks QEMU for them. */
export async function queryDevices(qmp: QmpClient): Promise<Device[]> {
  const at = (folder: string) => ({ name, type }: { name: string; type: string }): Device => {
    const path = `${folder}/${name}`;
    // Only the path tells one without an id from a device of that id.
    return { path, name: folder === NAMED ? name : path, type };
  };
  return [
    ...(await qomChildren(qmp, NAMED)).map(at(NAMED)),
    ...(await qomChildren(qmp, NAMELESS)).map(at(NAMELESS)),
  ];
}

/** The QOM path that `query-block` means by its `qdev`, an id or a path. */
export function pathOf(qdev: string): string {
  return qdev.startsWith("/") || qdev === "" ? qdev : `${NAMED}/${qdev}`;
}

/** The types that have the property `drive` themselves, and `share-rw`. */
const DRIVES = /^(scsi-(hd|cd|block|generic)|ide-(hd|cd))$/;

/**
 * The type of the object at this path, if that is known to have the property `drive`; null where QEMU has to
 * be asked.
 */
export function driveType(devices: Device[], path: string): string | null {
  const typeAt = (path: string) => devices.find((device) => device.path === path)?.type ?? "";
  const own = typeAt(path);
  if (DRIVES.test(own)) return own;
  const part = /^(.*)\/virtio-backend$/.exec(path)?.[1];
  return part !== undefined && typeAt(part).startsWith("virtio-blk-") ? "virtio-blk-device" : null;
}
