/**
 * Which points a user means: of one disk, or of all disks at one moment.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { UsageError } from "../errors.ts";
import { restorePoints } from "../repo/chains.ts";
import { readTargets } from "../repo/months.ts";
import { knowsDisks } from "../repo/repository.ts";
import { chooseRun, type RunChoice } from "./choose_run.ts";
import {
  pickPoint,
  pointsOfDisk,
  pointsOfTargets,
  refuseFailedRuns,
  type RestorePoint,
  runsOf,
} from "./points.ts";

/** Points of one moment, and what the user has to know of them. */
export interface ChosenPoints {
  points: RestorePoint[];
  warnings: string[];
}

/**
 * The point of one disk, or the points of all disks of a run, whichever the folder holds.
 *
 * @param dir A disk's folder or a target. Absolute.
 * @param filter Only one disk: that whose images' names contain this.
 */
export async function choosePoints(
  deadline: Deadline,
  dir: string,
  choice: RunChoice,
  filter?: string,
): Promise<ChosenPoints> {
  const targets = filter === undefined ? await readTargets(deadline, dir) : [];
  if (targets.some(knowsDisks)) return await pointsOfChosenRun(deadline, dir, choice);
  const points = await pointsOfDisk(deadline, dir, filter);
  return {
    points: [pickPoint(points, choice.until, await runsOf(deadline, points))],
    warnings: [],
  };
}

/**
 * The points of all disks of a run.
 *
 * @throws {UsageError} If the run lacks a disk and that is not allowed, or there is none.
 */
export async function pointsOfChosenRun(
  deadline: Deadline,
  dir: string,
  choice: RunChoice,
): Promise<ChosenPoints> {
  const targets = await readTargets(deadline, dir);
  const runs = targets.flatMap(({ runs }) => runs);
  if (runs.length > 0 && !targets.some(knowsDisks)) refuseFailedRuns(dir, targets);
  if (runs.length === 0) {
    throw new UsageError(
      `"${dir}" holds no records of runs, so it is not known which images belong together: restore ` +
        "each disk's folder by itself, with --targetfile",
    );
  }
  const points = await pointsOfTargets(deadline, targets);
  if (points.length === 0) refuseFailedRuns(dir, targets);
  const known = targets.flatMap(({ runs }) => restorePoints(runs));
  const { runId, warnings } = chooseRun(known, points, choice, runs);
  return { points: points.filter((point) => point.runId === runId), warnings };
}
