/**
 * Which runs hold all of the VM's disks. Pure.
 *
 * @module
 */

import type { Point } from "./chains.ts";
import { type DiskRecord, isAdopted, type RunRecord } from "./record.ts";

/** A disk that a run lacks, though the target has backups of it. */
export interface Lacking {
  /** Its name. */
  disk: string;
  /** A few words: "failed". */
  why: string;
  /** Its newest image, relative to the target. */
  newest: string;
}

const WORDS: Record<DiskRecord["result"], string> = {
  pending: "not finished",
  failed: "failed",
  cancelled: "cancelled",
  superseded: "merged into a later image",
  // And not a point any more: a backup without a time stamp has the name now.
  done: "replaced by a later backup",
};

/**
 * The disks that a run lacks: those that it did not finish, and those that it was told to leave out. Of a run
 * of the Python qmpbackup nothing says what else the VM had, so that it lacks every other disk.
 *
 * A disk that came later or had gone by then is none of them, and neither is one that was never backed up.
 *
 * @param held The disks that can be restored from it.
 * @param newest The newest image of each disk of the target, by the disk's name.
 */
export function lackingDisks(
  run: RunRecord,
  held: ReadonlySet<string>,
  newest: ReadonlyMap<string, string>,
): Lacking[] {
  const reasons = new Map<string, string>();
  if (isAdopted(run)) { for (const name of newest.keys()) reasons.set(name, "of another time"); }
  for (const { device, gone } of run.leftOut) if (!gone) reasons.set(device, "left out");
  for (const { name, result } of run.disks) {
    reasons.set(name, WORDS[result]);
  }
  return [...reasons].flatMap(([disk, why]) => {
    const file = newest.get(disk);
    return file === undefined || held.has(disk) ? [] : [{ disk, why, newest: file }];
  });
}

/** The runs that have anything to restore, oldest first, each with what it lacks. */
export function runsWithPoints(points: Point[]): { run: RunRecord; lacking: Lacking[] }[] {
  const newest = new Map(points.map(({ disk }) => [disk.name, disk.file]));
  return [...Map.groupBy(points, ({ run }) => run)].map(([run, ofRun]) => ({
    run,
    lacking: lackingDisks(run, new Set(ofRun.map(({ disk }) => disk.name)), newest),
  }));
}
