/**
 * Which disks go back, and to which images.
 *
 * @module
 */

import { basename } from "@std/path";
import { UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import type { HalfWay } from "../repo/half_way.ts";
import type { DiskRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import { pointsOfChosenRun } from "../restore/choose_points.ts";
import type { RestorePoint } from "../restore/points.ts";

export interface Choice {
  /** An image's name, a run's id or a time: never "the newest", since that may be the safety backup of the last time. */
  until: string;
  allowMissing: boolean;
  /** Names of disks; all of the run where it is empty. */
  include: string[];
}

/** A disk at the point in time. */
export interface ChosenDisk {
  point: RestorePoint;
  /** Its row in the run's record. */
  row: DiskRecord;
}

export interface Chosen {
  run: string;
  timeMs: number;
  disks: ChosenDisk[];
  warnings: string[];
}

/**
 * Chooses them.
 *
 * @param before A rollback that did not end: its disks must be among them.
 * @throws {UsageError} If there is no such point, or a name is not that of a disk.
 */
export async function chooseDisks(
  deadline: Deadline,
  { path, runs }: Target,
  { until, allowMissing, include }: Choice,
  before: HalfWay | null,
): Promise<Chosen> {
  const { points, warnings } = await pointsOfChosenRun(deadline, path, { until, allowMissing });
  const run = runs.find(({ id }) => id === points[0]?.runId);
  const all = points.flatMap((point) => {
    const row = run?.disks.find(({ folder, file }) =>
      folder === point.folder && basename(file) === point.name
    );
    return row ? [{ point, row }] : [];
  });
  if (!run || all.length === 0) {
    throw new UsageError(
      `"${path}" is not the directory of that backup: with --monthly name a month's folder`,
    );
  }
  const disks = select(all, include);
  const forgotten = before?.disks.filter((name) => !disks.some(({ row }) => row.name === name));
  if (forgotten && forgotten.length > 0) {
    throw new UsageError(
      `A rollback of ${
        forgotten.map((name) => `"${name}"`).join(", ")
      } did not end: roll back those disks, too`,
    );
  }
  return { run: run.id, timeMs: Date.parse(run.pointInTime ?? run.started), disks, warnings };
}

function select(all: ChosenDisk[], include: string[]): ChosenDisk[] {
  const answersTo = ({ row, point }: ChosenDisk, name: string) =>
    [row.name, row.node, row.id, point.disk].includes(name);
  for (const name of include) {
    if (all.some((disk) => answersTo(disk, name))) continue;
    const known = all.map(({ row }) => `"${row.name}"`).join(", ");
    throw new UsageError(`That backup has no disk "${name}"; it has ${known}`);
  }
  if (include.length === 0) return all;
  return all.filter((disk) => include.some((name) => answersTo(disk, name)));
}
