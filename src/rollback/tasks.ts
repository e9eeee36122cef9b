/**
 * What is to be done with each disk. Pure.
 *
 * @module
 */

import { join } from "@std/path";
import { Failure } from "../errors.ts";
import type { Plan } from "../plan/plan.ts";
import { chainOf, images, type Point } from "../repo/chains.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import type { Disk } from "../vm/disks.ts";
import type { DiskTask } from "./disk.ts";
import { type ChainImage, imagesThatDiffer, resizedImage } from "./images.ts";

/** The images that a disk's chain has now, and the bitmap that has recorded since. */
interface Newest {
  file: string;
  bitmap: string;
}

/**
 * Refuses what can't be rolled back, before anything is done.
 *
 * @param rows The disks at the point in time.
 * @throws {Failure} With what to do.
 */
export function refuseUnfit(
  rows: DiskRecord[],
  { features, disks, request }: Pick<Plan, "disks" | "request" | "features">,
) {
  if (!features.fleecing) {
    throw new Failure(
      "This QEMU is older than 7.1 and can't let go of a disk while the VM is there: end it, and restore into " +
        "new files (restore merge)",
    );
  }
  for (const row of rows) {
    const disk = disks.find(({ disk }) => disk.id === row.id)?.disk;
    if (!disk) throw missing(row);
    if (disk.isShared) {
      throw new Failure(
        `Others may write to the disk "${disk.name}", too (share-rw=on): it can't be rolled back under them`,
      );
    }
    if (row.virtualSizeBytes === disk.virtualSizeBytes) continue;
    throw wasResized(disk, { ...row, path: join(request.target, row.file) });
  }
}

function missing({ name, id }: DiskRecord): Failure {
  return new Failure(`The VM has no disk "${name}" at "${id}" any more`);
}

function wasResized(disk: Disk, { path, virtualSizeBytes }: ChainImage): Failure {
  return new Failure(
    `The disk "${disk.name}" has ${disk.virtualSizeBytes} bytes now, and ${virtualSizeBytes} bytes in "${path}": ` +
      "a disk that was resized since can't be rolled back. Restore it into a new file (restore merge)",
  );
}

/**
 * Plans the work.
 *
 * @param rows The disks at the point in time.
 * @param plan Of a backup of just these disks: it says which bitmap of each can be trusted.
 * @param runs All runs, that of the safety backup among them.
 * @param safety The id of that run; null where there is none.
 * @throws {Failure} If a disk can't be rolled back.
 */
export function planTasks(
  rows: DiskRecord[],
  plan: Pick<Plan, "disks" | "request">,
  runs: RunRecord[],
  safety: string | null,
): DiskTask[] {
  const all = images(runs);
  const chain = (file: string): ChainImage[] =>
    chainOf(all, file).map(({ disk }: Point) => ({
      path: join(plan.request.target, disk.file),
      virtualSizeBytes: disk.virtualSizeBytes,
    }));
  return rows.map((row): DiskTask => {
    const index = plan.disks.findIndex(({ disk }) => disk.id === row.id);
    const planned = plan.disks[index];
    if (!planned) throw missing(row);
    const { disk } = planned;
    const done = runs.find(({ id }) => id === safety)?.disks.find(({ id }) => id === disk.id);
    const newest: Newest | null = done?.bitmap
      ? { file: done.file, bitmap: done.bitmap }
      : planned.parent !== null && planned.previousBitmap !== null
      ? { file: planned.parent, bitmap: planned.previousBitmap }
      : null;
    if (!newest) {
      throw new Failure(
        `Nothing tells what has changed on the disk "${disk.name}" since the last backup (${planned.reason}): ` +
          "leave out --no-safety-backup, then the whole disk is compared",
      );
    }
    const point = chain(row.file);
    const differing = imagesThatDiffer(point, chain(newest.file));
    const resized = resizedImage([...point.slice(-1), ...differing], disk.virtualSizeBytes);
    if (resized) throw wasResized(disk, resized);
    return { plan: planned, index, point, differing, bitmap: newest.bitmap };
  });
}
