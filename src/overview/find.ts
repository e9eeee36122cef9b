/**
 * Finds the backups of VMs in a directory: a target, the months of one, or a folder of several.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, join, relative } from "@std/path";
import { messageOf } from "../errors.ts";
import { exists } from "../fs/durable.ts";
import { listFolder, stat } from "../fs/files.ts";
import { RECORDS_FOLDER, RUNS_FOLDER, UUID_FILE } from "../repo/layout.ts";
import { listMonths, readTargets } from "../repo/months.ts";
import type { RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";

/** The backups of one VM. */
export interface VmBackups {
  /** Absolute; of `--monthly` the folder of the months. */
  path: string;
  /** What it is called in a list: its path in the folder that was asked for. */
  name: string;
  /** One, or one for each month, the oldest first. */
  targets: Target[];
  /** Why its records can't be read; null where they can. */
  error: string | null;
}

/** All runs, the oldest first. */
export function runsOf({ targets }: Pick<VmBackups, "targets">): RunRecord[] {
  return targets.flatMap(({ runs }) => runs);
}

/** What the newest record says the VM is called, or else its folder. */
export function vmName(backups: VmBackups): string {
  const named = runsOf(backups).findLast(({ vm }) => vm.name !== "");
  return named?.vm.name ?? basename(backups.path);
}

/** How deep targets are looked for: `DIR/vm1`, `DIR/host1/vm1`; and `vm1` may hold months. */
const MAX_DEPTH = 2;

/**
 * Reads the backups of one VM.
 *
 * @param dir Absolute.
 * @returns Null if nothing is recorded there.
 */
export async function readBackups(deadline: Deadline, dir: string): Promise<VmBackups | null> {
  const targets = await readTargets(deadline, dir);
  return targets.length === 0 ? null : { path: dir, name: basename(dir), targets, error: null };
}

/**
 * Reads the backups of the VMs below a folder, in the order of their names. One that can't be read does not
 * keep us from the others.
 */
export async function readAllBelow(deadline: Deadline, dir: string): Promise<VmBackups[]> {
  const found: VmBackups[] = [];
  await search(dir, MAX_DEPTH);
  return found.map((backups) => ({ ...backups, name: relative(dir, backups.path) }));

  async function search(folder: string, depth: number) {
    const names = (await listFolder(deadline, folder))
      // A socket is neither a file nor one of these.
      .filter(({ isDirectory, isSymlink }) => isDirectory || isSymlink)
      .map(({ name }) => name)
      .filter((name) => !name.startsWith(".") && name !== RECORDS_FOLDER);
    for (const name of names.sort()) {
      const path = join(folder, name);
      try {
        if (await leadsToFile(deadline, path)) continue;
        if (await looksLikeBackups(deadline, path)) found.push(await readOrEmpty(deadline, path));
        else if (depth > 1) await search(path, depth - 1);
      } catch (error) {
        // A file system that is gone, say: what it holds can't be told.
        found.push({ path, name, targets: [], error: messageOf(error) });
      }
    }
  }
}

/** A link may lead to a folder, on a file system that is gone as well. */
async function leadsToFile(deadline: Deadline, path: string): Promise<boolean> {
  return !(await stat(deadline, path)).isDirectory;
}

/** Also those of the Python tools, which have an id and no records. */
async function looksLikeBackups(deadline: Deadline, path: string): Promise<boolean> {
  for (const name of [RUNS_FOLDER, UUID_FILE]) {
    if (await exists(deadline, join(path, name))) return true;
  }
  for (const month of await listMonths(deadline, path)) {
    if (await exists(deadline, join(path, month, RUNS_FOLDER))) return true;
  }
  return false;
}

async function readOrEmpty(deadline: Deadline, path: string): Promise<VmBackups> {
  const found = await readBackups(deadline, path);
  return found ?? { path, name: basename(path), targets: [], error: null };
}
