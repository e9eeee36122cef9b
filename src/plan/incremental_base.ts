/**
 * Whether an increment can be taken of a disk, and on what it builds. Pure.
 *
 * @module
 */

import type { Point } from "../repo/chains.ts";
import type { Disk } from "../vm/disks.ts";
import { backingChange } from "./backing.ts";
import { sentinelProblem } from "../vm/sentinel.ts";

export type IncrementalBase =
  | { usable: true; last: Point; bitmap: string; dirtyBytes: number }
  /** `last`: what the disk can be compared with; null where there is nothing. */
  | { usable: false; reason: string; last: Point | null };

/**
 * Looks whether an increment has all it needs: the last backup, its file, and a bitmap that has recorded every
 * change since.
 *
 * @param last The disk's last full or incremental backup in this target.
 * @param fault What is wrong with an image, relative to the target, or with what it builds on; or null.
 * @param foreign An image in the disk's folder that no record knows.
 */
export function incrementalBase(
  disk: Disk,
  last: Point | undefined,
  fault: (file: string) => string | null,
  foreign?: string,
): IncrementalBase {
  const nothing = (reason: string): IncrementalBase => ({ usable: false, reason, last: null });
  if (!last) return nothing("no backup of this disk in the target yet");
  const { file, bitmap: name, granularityBytes, virtualSizeBytes, sentinel, backing } = last.disk;
  const broken = fault(file);
  if (broken !== null) return nothing(`the last backup can't be built on: ${broken}`);
  if (foreign) {
    return nothing(`"${foreign}" is in no record: another program has gone on with this chain`);
  }
  const not = (reason: string): IncrementalBase => ({ usable: false, reason, last });
  if (disk.isShared) {
    return not("others may write to it, too (share-rw=on), and its bitmap can't record that");
  }
  const bitmap = disk.bitmaps.find((bitmap) => bitmap.name === name);
  if (name === null) return not("the last backup has no bitmap");
  if (!bitmap) {
    return not(`its bitmap "${name}" is gone (QEMU was killed, or the disk got another image)`);
  }
  if (bitmap.inconsistent) {
    return not(`its bitmap "${name}" is inconsistent (QEMU was killed)`);
  }
  if (!bitmap.recording) return not(`its bitmap "${name}" does not record`);
  if (bitmap.busy) return not(`its bitmap "${name}" is in use by another job or export`);
  if (bitmap.granularityBytes !== granularityBytes) {
    return not(
      `its bitmap "${name}" has another granularity (${bitmap.granularityBytes}) than the one of ` +
        `the last backup (${granularityBytes}): another program made it again`,
    );
  }
  // QEMU grows a bitmap with its disk, and forgets what was cut off.
  if (disk.virtualSizeBytes < virtualSizeBytes) return not("the disk has shrunk");
  const problem = (sentinel && sentinelProblem(disk.bitmaps, sentinel)) ??
    backingChange(backing, disk.backing);
  if (problem !== null) return not(problem);
  // The bitmap began with the sentinel's bit.
  if (sentinel && bitmap.countBytes < sentinel.countBytes) {
    return not(`its bitmap "${name}" was cleared by another program`);
  }
  return { usable: true, last, bitmap: bitmap.name, dirtyBytes: bitmap.countBytes };
}
