/**
 * The targets that `--monthly` makes: a folder for each month, `DIR/YYYY-MM`.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join } from "@std/path";
import { listFolder } from "../fs/files.ts";
import { readTarget, type Target } from "./repository.ts";

/** The names of the months' folders in a folder, the oldest first. */
export async function listMonths(deadline: Deadline, folder: string): Promise<string[]> {
  return (await listFolder(deadline, folder)).map(({ name }) => name)
    .filter((name) => /^\d{4}-\d{2}$/.test(name)).sort();
}

/** The months in a folder that have records, the oldest first. */
export async function readMonths(deadline: Deadline, folder: string): Promise<Target[]> {
  const targets: Target[] = [];
  for (const name of await listMonths(deadline, folder)) {
    const target = await readTarget(deadline, join(folder, name));
    if (target.hasRecords) targets.push(target);
  }
  return targets;
}

/**
 * The targets that a directory stands for, the oldest first: itself, and the months that `--monthly` has made in
 * it. None if nothing is recorded there.
 */
export async function readTargets(deadline: Deadline, dir: string): Promise<Target[]> {
  const own = await readTarget(deadline, dir);
  try {
    return [...(own.hasRecords ? [own] : []), ...await readMonths(deadline, dir)];
  } catch (error) {
    // Of a directory that does not exist, the caller says so.
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/**
 * The months before a month's target, the oldest first: nothing goes on from there by itself. What can't be
 * read, or is no longer there, is passed over.
 */
export async function readPastMonths(deadline: Deadline, target: string): Promise<Target[]> {
  const [folder, month] = [dirname(target), basename(target)];
  const past = (await listMonths(deadline, folder).catch(() => [])).filter((name) => name < month);
  const targets = past.map((name) => readTarget(deadline, join(folder, name)).catch(() => null));
  return (await Promise.all(targets)).flatMap((target) => target ?? []);
}
