/**
 * What `info` looks at before it shows backups: in a directory of one VM, or of several.
 *
 * @module
 */

import { resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { messageOf, UsageError } from "../../errors.ts";
import { exists } from "../../fs/durable.ts";
import { freeBytes } from "../../fs/files.ts";
import { readAllBelow, readBackups, type VmBackups } from "../../overview/find.ts";
import { healthOf, lastCompleteRun, type VmHealth, worstFirst } from "../../overview/health.ts";
import { type ImageStates, imageStates, rowsOfRun } from "../../overview/image_states.ts";
import { withDamages } from "../../overview/damages.ts";
import type { Night } from "../../overview/nights.ts";
import { type Outlook, outlookOf } from "../../overview/totals.ts";
import { readMarks, type RunMark } from "../../repo/run_mark.ts";
import type { DiskRecord } from "../../repo/record.ts";
import type { Target } from "../../repo/repository.ts";
import { readResults } from "../../verify/results.ts";
import { parseAge } from "../args/age.ts";
import type { Values } from "../args/parse.ts";
import type { Verifications } from "../output/verify_report.ts";

/** `--max-age` in milliseconds; null where it is not given. */
export function maxAgeOf({ "max-age": maxAge }: Values): number | null {
  return maxAge === undefined ? null : parseAge("max-age", maxAge);
}

/** The backups of one VM, or of all below a folder. */
export async function findBackups(
  deadline: Deadline,
  { dir }: Values,
): Promise<{ one: VmBackups; all: VmBackups[] } | { one: null; all: VmBackups[] }> {
  if (dir === undefined) throw new UsageError("--show backups needs --dir");
  const path = resolve(dir);
  const one = await readBackups(deadline, path);
  if (one !== null) return { one, all: [one] };
  if (!await exists(deadline, path)) throw new UsageError(`"${path}" does not exist`);
  const all = await readAllBelow(deadline, path);
  if (all.length === 0) throw new UsageError(`"${path}" holds no records of backups`);
  return { one: null, all };
}

/** How it stands with each, the worst first. */
export async function judge(
  deadline: Deadline,
  all: VmBackups[],
  maxAgeMs: number | null,
): Promise<VmHealth[]> {
  const nowMs = Date.now();
  const healths: VmHealth[] = [];
  for (const backups of all) {
    try {
      healths.push(healthOf(backups, await lookAtNeeded(deadline, backups), { nowMs, maxAgeMs }));
    } catch (error) {
      const broken = { ...backups, error: messageOf(error) };
      healths.push(healthOf(broken, new Map(), { nowMs, maxAgeMs }));
    }
  }
  return worstFirst(healths);
}

/** Of all images. */
export async function allStates(deadline: Deadline, { targets }: VmBackups): Promise<ImageStates> {
  const states = await Promise.all(
    targets.map(async (target) =>
      await damagesIn(deadline, target, await imageStates(deadline, target))
    ),
  );
  return new Map(states.flatMap((one) => [...one]));
}

/** What users said of runs, by the runs' ids. */
export async function allMarks(
  deadline: Deadline,
  { targets }: VmBackups,
): Promise<Map<string, RunMark>> {
  const marks = await Promise.all(targets.map(({ path }) => readMarks(deadline, path)));
  return new Map(marks.flatMap((one) => [...one]));
}

/** Of the images that the newest complete run is restored from, among those that were looked at. */
export function neededStates(backups: VmBackups, states: ImageStates): ImageStates {
  const needed = neededRows(backups);
  return new Map([...states].filter(([disk]) => needed?.rows.has(disk)));
}

/** Looks at those images alone. */
async function lookAtNeeded(deadline: Deadline, backups: VmBackups): Promise<ImageStates> {
  const needed = neededRows(backups);
  if (needed === null) return new Map();
  const { target, rows } = needed;
  return await damagesIn(deadline, target, await imageStates(deadline, target, rows));
}

function neededRows(backups: VmBackups): { target: Target; rows: Set<DiskRecord> } | null {
  const run = lastCompleteRun(backups);
  const target = run && backups.targets.find(({ runs }) => runs.includes(run));
  return run && target ? { target, rows: rowsOfRun(target, run) } : null;
}

async function damagesIn(deadline: Deadline, target: Target, states: ImageStates) {
  return withDamages(states, target, await readResults(deadline, target.path));
}

/** What was found of each target: each month has its own. */
export async function verificationsOf(
  deadline: Deadline,
  { targets }: VmBackups,
): Promise<Verifications[]> {
  return await Promise.all(
    targets.map(async ({ path }) => ({ target: path, results: await readResults(deadline, path) })),
  );
}

/** How long the room lasts; null where nobody may ask how much is free. */
export async function outlookFor(
  deadline: Deadline,
  path: string,
  nights: Night[],
): Promise<Outlook | null> {
  try {
    return outlookOf(nights, await freeBytes(deadline, path));
  } catch (error) {
    // Started from source without --allow-sys=statfs.
    if (error instanceof Deno.errors.NotCapable) return null;
    throw error;
  }
}
