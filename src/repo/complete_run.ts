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
 * @param points The target's, see `restorePoints()`.
 */
export function lackingDisks(run: RunRecord, points: Point[]): Lacking[] {
  const held = new Set(points.filter((point) => point.run === run).map(({ disk }) => disk.name));
  const newest = new Map(points.map(({ disk }) => [disk.name, disk.file]));
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
  return [...new Set(points.map(({ run }) => run))]
    .map((run) => ({ run, lacking: lackingDisks(run, points) }));
}
