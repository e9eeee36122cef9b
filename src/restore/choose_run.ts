/**
 * Which run a restore of all disks takes. Pure.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import type { Point } from "../repo/chains.ts";
import { type Lacking, runsWithPoints } from "../repo/complete_run.ts";
import type { RunRecord } from "../repo/record.ts";
import { localTime } from "../time.ts";
import { pickPoint, type RestorePoint } from "./points.ts";

/** What is asked for. */
export interface RunChoice {
  /** An image's name, a run's id or a time; null is the newest. */
  until: string | null;
  /** A run that lacks disks will do. */
  allowMissing: boolean;
}

/** The run, and what the user has to know of it. */
export interface ChosenRun {
  runId: string;
  warnings: string[];
}

/**
 * Chooses the run: without `until` the newest that has all disks, and with it the one it means.
 *
 * @param known The target's points as the records have them.
 * @param points The same as what can be restored.
 * @param all All runs, those that failed too.
 * @throws {UsageError} If the run lacks a disk and that is not allowed, or there is none.
 */
export function chooseRun(
  known: Point[],
  points: RestorePoint[],
  { until, allowMissing }: RunChoice,
  all: readonly RunRecord[] = [],
): ChosenRun {
  const runs = runsWithPoints(known);
  const complete = runs.findLast(({ lacking }) => lacking.length === 0);
  const asked = runs.find(({ run }) => run.id === pickPoint(points, until, all).runId);
  const chosen = until === null && complete && !allowMissing ? complete : asked;
  if (!chosen) throw new UsageError("There is no restore point");
  if (chosen.lacking.length > 0 && !allowMissing) {
    throw new UsageError(refusal(chosen.run, chosen.lacking, complete?.run));
  }
  const newer = runs.slice(runs.indexOf(chosen) + 1);
  return {
    runId: chosen.run.id,
    warnings: [
      ...chosen.lacking.map((one) => withoutDisk(chosen.run, one)),
      ...(until === null ? newerWarning(chosen.run, newer) : []),
      ...otherDisks(chosen, known),
    ],
  };
}

function refusal(run: RunRecord, lacking: Lacking[], complete: RunRecord | undefined): string {
  const others = complete
    ? `restore the run ${complete.id} of ${timeOf(complete)}, the newest that has all disks ` +
      `(--until ${complete.id}), or go on without it`
    : "no run has all disks: go on without it";
  return `The run ${run.id} of ${timeOf(run)} lacks ${namesOf(lacking)}: ${others} ` +
    "(--allow-missing), and restore that disk by itself from its folder (--targetfile)";
}

function withoutDisk({ id }: RunRecord, { disk, why, newest }: Lacking): string {
  return `The disk "${disk}" is not restored, since the run ${id} lacks it (${why}): its newest image is ` +
    `"${newest}", which --targetfile restores`;
}

/** @param newer The runs after the chosen one, which all lack disks. */
function newerWarning(chosen: RunRecord, newer: { run: RunRecord; lacking: Lacking[] }[]) {
  const last = newer.at(-1);
  if (!last) return [];
  const count = newer.length === 1 ? "One newer run lacks" : `${newer.length} newer runs lack`;
  return [
    `The run ${chosen.id} of ${
      timeOf(chosen)
    } is restored, the newest that has all disks. ${count} ` +
    `disks; the newest, ${last.run.id} of ${timeOf(last.run)}, lacks ${
      namesOf(last.lacking)
    }. To restore ` +
    `that one: --until ${last.run.id} --allow-missing`,
  ];
}

/** Disks that the VM had at other times: nobody misses them, but nobody should be surprised. */
function otherDisks(
  { run, lacking }: { run: RunRecord; lacking: Lacking[] },
  known: Point[],
): string[] {
  const named = new Set([...run.disks, ...lacking.map(({ disk: name }) => ({ name }))]
    .map(({ name }) => name));
  const newest = new Map(known.map(({ disk }) => [disk.name, disk.file]));
  return [...newest].filter(([name]) => !named.has(name)).map(([name, file]) =>
    `The disk "${name}" is not in the run ${run.id}: the VM did not have it then. Its newest image is ` +
    `"${file}", which --targetfile restores`
  );
}

const namesOf = (lacking: Lacking[]) =>
  "the " + (lacking.length === 1 ? "disk " : "disks ") +
  lacking.map(({ disk, why }) => `"${disk}" (${why})`).join(", ");

function timeOf({ pointInTime, started }: RunRecord): string {
  return localTime(new Date(pointInTime ?? started));
}
