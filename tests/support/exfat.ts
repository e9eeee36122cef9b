/**
 * A file system without links, owners and modes, as it is found on disks that are carried about. Needs root,
 * FUSE and loop devices.
 *
 * @module
 */

import { ensurePrograms } from "./install_qemu.ts";
import { command } from "./tmpfs.ts";

/** Mounts a new exFAT on a new folder, for root alone. */
export async function mountExfat(path: string, sizeBytes: number): Promise<AsyncDisposable> {
  await ensurePrograms({
    "/usr/sbin/mkfs.exfat": "exfatprogs",
    "/usr/sbin/mount.exfat-fuse": "exfat-fuse",
  });
  await using stack = new AsyncDisposableStack();
  const image = `${path}.image`;
  await command("truncate", "--size", String(sizeBytes), image);
  const device = await command("losetup", "--find", "--show", image);
  stack.defer(async () => void await command("losetup", "--detach", device));
  await command("/usr/sbin/mkfs.exfat", device);
  await Deno.mkdir(path);
  await command("/usr/sbin/mount.exfat-fuse", "-o", "umask=077", device, path);
  stack.defer(async () => void await command("umount", "--lazy", path));
  return stack.move();
}
