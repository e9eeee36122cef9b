/**
 * Compares a new image with the point in time, while that can still be read (`backup --verify`).
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { Failure } from "../errors.ts";
import { firstDifference } from "../qemu_img/difference.ts";
import { requireLinks } from "./backing_links.ts";
import type { CopyOptions } from "./disk_copy.ts";
import type { DiskWork } from "./disk_work.ts";
import type { ImageFile } from "./image_file.ts";
import { useExport } from "./snapshot_export.ts";

const log = getLogger(["qmpbackup", "backup"]);

/**
 * Compares them. The image is closed: it is read from the file, as a restore would, and not from QEMU.
 *
 * @throws {Failure} If they differ.
 */
export async function verifyImage(
  work: DiskWork,
  file: ImageFile,
  nbdSocket: string,
  options: CopyOptions,
): Promise<void> {
  const { deadline, plan: { request: { target, keyFile } }, disk: { disk, parent } } = work;
  await useExport(work, file, nbdSocket, options, async (contents, how) => {
    const below = parent === null
      ? []
      : await requireLinks(deadline, join(target, parent), how.signal);
    const difference = await firstDifference(deadline, [...below, file.partial], contents, {
      ...how,
      keyFile,
    });
    if (difference === null) {
      return log.info("Disk {name}: the image holds what the disk held", { name: disk.name });
    }
    const { offset } = difference;
    const where = offset === null ? "" : ` (the first difference is at byte ${offset} of the disk)`;
    throw new Failure(
      `The new image of the disk "${disk.name}" does not hold what the disk held at the point in time` +
        `${where}: it was removed, and earlier backups are as they were. Check the storage of the target ` +
        "and the memory of this machine, and run again. If this comes again, check the earlier backups " +
        '("restore verify"), and take a full one (--level full)',
    );
  });
}
