/**
 * A block device that is restored onto: whether it is large enough, and nobody uses it.
 *
 * Source: lsblk(8), which names what stands on a device too, such as its partitions.
 *
 * @module
 */

import { Failure, UsageError } from "../errors.ts";
import { outputOf } from "../process/output.ts";

/** Whether a path names a device: Deno can't look at those. */
export function isDevicePath(path: string): boolean {
  return path.startsWith("/dev/");
}

/** What is on a device: itself first. */
export interface DeviceRow {
  type: string;
  sizeBytes: number;
  mountPoint: string;
}

/** Decodes what `lsblk --pairs --bytes` prints. Pure. */
export function parseLsblk(text: string): DeviceRow[] {
  return [...text.matchAll(/^TYPE="([^"]*)" SIZE="(\d+)" MOUNTPOINT="([^"]*)"$/gm)]
    .map(([, type = "", size, mountPoint = ""]) => ({ type, sizeBytes: Number(size), mountPoint }));
}

/** What keeps a disk from being written onto a device, in a sentence; null where nothing does. Pure. */
export function problemOfDevice(
  device: string,
  rows: DeviceRow[],
  sizeBytes: number,
): string | null {
  const [own, ...above] = rows;
  if (!own) return `"${device}" is not a block device that is here`;
  const mounted = rows.find(({ mountPoint }) => mountPoint !== "");
  if (mounted) {
    return `"${device}" is in use: it, or what is on it, is mounted as ${mounted.mountPoint}. Unmount it first`;
  }
  const user = above.find(({ type }) => type !== "part");
  if (user) {
    return `"${device}" is in use by a device of the type ${user.type}: see lsblk, and take that off first`;
  }
  if (own.sizeBytes >= sizeBytes) return null;
  return `"${device}" has ${own.sizeBytes} bytes, and the disk has ${sizeBytes}: make it larger`;
}

/**
 * Looks at a device before anything is written.
 *
 * @returns Its size in bytes.
 * @throws {UsageError} If it is in use, too small, or not there.
 */
export async function requireDevice(device: string, sizeBytes: number): Promise<number> {
  const args = ["--pairs", "--bytes", "--output", "TYPE,SIZE,MOUNTPOINT", device];
  const text = await outputOf("lsblk", args);
  if (text === null) {
    throw new Failure(
      `It can't be checked whether "${device}" is in use: lsblk fails (Debian: util-linux), or ` +
        `"${device}" is not a block device`,
    );
  }
  const rows = parseLsblk(text);
  const problem = problemOfDevice(device, rows, sizeBytes);
  if (problem !== null) throw new UsageError(problem);
  return rows[0]?.sizeBytes ?? 0;
}
