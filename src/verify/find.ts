/**
 * Finds what there is to verify: a disk's folder, a target, or all targets below a folder.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join } from "@std/path";
import { homeOf } from "../digest/store.ts";
import { exists } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import { ChainError } from "../repo/chains.ts";
import { orderByName } from "../python/name_order.ts";
import { RECORDS_FOLDER } from "../repo/layout.ts";
import { knowsDisks, readTarget } from "../repo/repository.ts";
import { Failure, UsageError } from "../errors.ts";
import { pointsOfDisk, pointsOfTarget, type RestorePoint } from "../restore/points.ts";

/** What is verified together. */
export interface Backups {
  /** Where digests and results are kept; absolute. */
  target: string;
  /** The one disk's folder; null for all of the target. */
  folder: string | null;
  /** What the VM is called, as far as that is known. */
  vm: string;
  /** Whether there are records that say which images there must be. */
  hasRecords: boolean;
  /**
   * The restore points, oldest first.
   *
   * @throws {Failure} If they can't be told.
   */
  points(): Promise<RestorePoint[]>;
}

/** DIR/<VM>/<month>/<disk>. */
const MAX_DEPTH = 3;

/**
 * Finds the backups in a folder.
 *
 * @param dir Absolute.
 * @param filter Only the images whose name contains this, where no records tell disks apart.
 * @throws {UsageError} If there are none.
 */
export async function findBackups(
  deadline: Deadline,
  dir: string,
  filter?: string,
): Promise<Backups[]> {
  if (!await exists(deadline, dir)) throw new UsageError(`The directory "${dir}" does not exist`);
  const found = await backupsOf(deadline, dir, filter, true, MAX_DEPTH);
  if (found.length > 0) return found;
  throw new UsageError(
    `There are no backups in "${dir}": name a disk's folder, a backup directory, or a folder of those`,
  );
}

async function backupsOf(
  deadline: Deadline,
  dir: string,
  filter: string | undefined,
  isNamed: boolean,
  depth: number,
): Promise<Backups[]> {
  const own = await recorded(deadline, dir);
  if (own) return [own];
  const entries = await listFolder(deadline, dir).catch((error) => {
    // What the user named must be readable; what lies in it may be anything, "lost+found" too.
    if (isNamed) throw error;
    return [];
  });
  const names = entries.filter(({ isDirectory }) => !isDirectory).map(({ name }) => name);
  if (hasImages(dir, names)) return [await byName(deadline, dir, filter, isNamed)];
  if (depth === 0) return [];
  const all: Backups[] = [];
  for (const { name, isDirectory } of entries.toSorted((a, b) => a.name < b.name ? -1 : 1)) {
    if (!isDirectory || name.startsWith(".") || name === RECORDS_FOLDER) continue;
    all.push(...await backupsOf(deadline, join(dir, name), filter, false, depth - 1));
  }
  return all;
}

/** A target with records; null where there is none. Damaged ones are said when its points are asked for. */
async function recorded(deadline: Deadline, dir: string): Promise<Backups | null> {
  const points = async () => await pointsOfTarget(deadline, await readTarget(deadline, dir));
  const backups = { target: dir, folder: null, hasRecords: true, points };
  try {
    const target = await readTarget(deadline, dir);
    if (!knowsDisks(target)) return null;
    return { ...backups, vm: target.runs.at(-1)?.vm.name || basename(dir) };
  } catch (error) {
    if (error instanceof UsageError || !(error instanceof Failure)) throw error;
    return { ...backups, vm: basename(dir) };
  }
}

function hasImages(dir: string, names: string[]): boolean {
  try {
    return orderByName(dir, names).length > 0;
  } catch (error) {
    if (error instanceof ChainError) return true;
    throw error;
  }
}

/** A disk's folder: of a target whose records name it, or one without records. */
async function byName(
  deadline: Deadline,
  dir: string,
  filter: string | undefined,
  isNamed: boolean,
): Promise<Backups> {
  const points = () => pointsOfDisk(deadline, dir, filter);
  const above = isNamed ? await recorded(deadline, dirname(dir)) : null;
  const first = above ? (await points().catch(() => []))[0] : undefined;
  if (above && first && first.target !== null) {
    return { ...above, folder: first.folder, points };
  }
  const { target, folder } = await homeOf(deadline, dir);
  return {
    target,
    folder: folder === "." ? null : folder,
    vm: basename(target),
    hasRecords: false,
    points,
  };
}
