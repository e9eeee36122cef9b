/**
 * Removes the folder of a month in which nothing is left.
 *
 * @module
 */

import { basename, join } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { lookAt } from "../fs/create.ts";
import { removeFile, removeFolders } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import {
  CONFIG_SUFFIX,
  LOCK_FILE,
  RECORDS_FOLDER,
  RESTORE_FILE,
  UUID_FILE,
  VERIFIED_FOLDER,
} from "../repo/layout.ts";
import type { HeldTarget } from "./carry_out.ts";

/** Removes what is ours in it, and then the folder, if that is all. */
export async function removeMonth(deadline: Deadline, { path }: HeldTarget): Promise<void> {
  if (!/^\d{4}-\d{2}$/.test(basename(path))) return;
  for (const { name, isFile, isDirectory } of await listFolder(deadline, path)) {
    if (isFile && ([UUID_FILE, RESTORE_FILE].includes(name) || name.endsWith(CONFIG_SUFFIX))) {
      await removeFile(deadline, join(path, name));
    } else if (isDirectory && name !== RECORDS_FOLDER) {
      await removeFolders(deadline, [join(path, name)]);
    }
  }
  const records = join(path, RECORDS_FOLDER);
  for (const { name, isFile } of await entriesOf(deadline, join(path, VERIFIED_FOLDER))) {
    if (isFile) await removeFile(deadline, join(path, VERIFIED_FOLDER, name));
  }
  await removeEmpty(deadline, records);
  await removeFile(deadline, join(records, RESTORE_FILE));
  await removeFile(deadline, join(path, LOCK_FILE));
  await removeFolders(deadline, [path, records]);
}

/** Removes the folders in a folder that hold nothing but such folders. */
async function removeEmpty(deadline: Deadline, folder: string): Promise<void> {
  for (const { name, isDirectory } of await entriesOf(deadline, folder)) {
    if (!isDirectory) continue;
    await removeEmpty(deadline, join(folder, name));
    await removeFolders(deadline, [join(folder, name)]);
  }
}

/** What a folder holds; nothing where there is none, and nothing by way of a link. */
async function entriesOf(deadline: Deadline, folder: string): Promise<Deno.DirEntry[]> {
  if (!(await lookAt(deadline, folder))?.isDirectory) return [];
  return await listFolder(deadline, folder);
}
