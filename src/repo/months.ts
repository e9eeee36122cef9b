/**
 * The targets that `--monthly` makes: a folder for each month, `DIR/YYYY-MM`.
 *
 * @module
 */

import { basename, dirname, join } from "@std/path";
import { listFolder } from "../fs/files.ts";
import { readTarget, type Target } from "./repository.ts";

/** The names of the months' folders in a folder, the oldest first. */
export async function listMonths(folder: string): Promise<string[]> {
  return (await listFolder(folder)).map(({ name }) => name)
    .filter((name) => /^\d{4}-\d{2}$/.test(name)).sort();
}

/** The months in a folder that have records, the oldest first. */
export async function readMonths(folder: string): Promise<Target[]> {
  const targets: Target[] = [];
  for (const name of await listMonths(folder)) {
    const target = await readTarget(join(folder, name));
    if (target.hasRecords) targets.push(target);
  }
  return targets;
}

/**
 * The targets that a directory stands for, the oldest first: itself, and the months that `--monthly` has made in
 * it. None if nothing is recorded there.
 */
export async function readTargets(dir: string): Promise<Target[]> {
  const own = await readTarget(dir);
  try {
    return [...(own.hasRecords ? [own] : []), ...await readMonths(dir)];
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
export async function readPastMonths(target: string): Promise<Target[]> {
  const [folder, month] = [dirname(target), basename(target)];
  const past = (await listMonths(folder).catch(() => [])).filter((name) => name < month);
  const targets = past.map((name) => readTarget(join(folder, name)).catch(() => null));
  return (await Promise.all(targets)).flatMap((target) => target ?? []);
}
