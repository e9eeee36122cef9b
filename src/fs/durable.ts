/**
 * Writes that survive a power cut: file first, then the folder that names it.
 *
 * Source: fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory
 * containing the file has also reached disk".
 *
 * @module
 */

import { dirname } from "@std/path";
import { Failure, messageOf } from "../errors.ts";
import { type Deadline, HangingError } from "./deadline.ts";
import { readLink, remove, rename, stat } from "./files.ts";
import { createFile, lookAt, makeFolder, OWNER_ONLY, refuseLink } from "./create.ts";

/**
 * Flushes a file or a folder to its storage.
 *
 * @param sizeBytes How much there may be to write, if that is much.
 */
export async function syncPath(deadline: Deadline, path: string, sizeBytes = 0): Promise<void> {
  await deadline.runLong(path, sizeBytes, async () => {
    using file = await Deno.open(path, { read: true });
    await file.sync();
  });
}

/** The suffix of a link that is about to replace another one. */
const FRESH_SUFFIX = ".new";

/** Renames so that the new name survives a power cut. An existing `to` is replaced. */
export async function renameDurably(deadline: Deadline, from: string, to: string): Promise<void> {
  await syncPath(deadline, from);
  await rename(deadline, from, to);
  await syncPath(deadline, dirname(to));
}

export interface WriteOptions {
  /** Of a new file; one that is there keeps its own. */
  mode?: number;
  /** Where it is written to before it gets its name: on the same file system. */
  partial?: string;
}

/** Writes a file whole or not at all. A link of its name is replaced, not followed. */
export async function writeDurably(
  deadline: Deadline,
  path: string,
  text: string,
  { mode = OWNER_ONLY, partial = `${path}.tmp` }: WriteOptions = {},
): Promise<void> {
  const present = await lookAt(deadline, path);
  // A killed run may have left one.
  await removeFile(deadline, partial);
  try {
    await createFile(
      deadline,
      partial,
      present?.isFile ? (present.mode ?? mode) & 0o777 : mode,
      text,
    );
    await renameDurably(deadline, partial, path);
  } catch (error) {
    await remove(deadline, partial).catch(() => {});
    throw error;
  }
}

/**
 * Makes a folder so that it survives a power cut; one that is there stays as it is.
 *
 * @param made Gets the folder's path, if it was missing.
 * @throws {Failure} If something else is there, a link to a folder included.
 */
export async function createInside(
  deadline: Deadline,
  path: string,
  fileMode = OWNER_ONLY,
  made: string[] = [],
): Promise<void> {
  await refuseLink(deadline, path);
  const present = await lookAt(deadline, path);
  if (present === null) {
    if (await tryToMakeFolder(deadline, path, fileMode)) made.push(path);
  } else if (!present.isDirectory) throw new Failure(`"${path}" is not a folder made by qmpbackup`);
  // One that is there may have been made by a run that died before it came to this.
  await syncPath(deadline, dirname(path));
}

/** Makes a folder, unless another disk of the same run has just made it. Returns whether it was made here. */
async function tryToMakeFolder(
  deadline: Deadline,
  path: string,
  fileMode: number,
): Promise<boolean> {
  try {
    await makeFolder(deadline, path, fileMode);
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    if ((await lookAt(deadline, path))?.isDirectory) return false;
    throw error;
  }
}

/**
 * Makes a folder that a user named, and the missing folders above it. Here a link may be followed.
 *
 * @param made Gets the paths of the folders that were missing, the outermost first.
 */
export async function createFolders(
  deadline: Deadline,
  path: string,
  fileMode = OWNER_ONLY,
  made: string[] = [],
): Promise<void> {
  if (await isFolder(deadline, path)) return;
  await createFolders(deadline, dirname(path), fileMode, made);
  await makeFolder(deadline, path, fileMode);
  made.push(path);
  await syncParent(deadline, path);
}

/**
 * Removes folders that are not needed after all, the last one first. A folder that is not empty stays, and so
 * do those before it.
 */
export async function removeFolders(deadline: Deadline, made: readonly string[]): Promise<void> {
  for (const path of made.toReversed()) {
    try {
      await remove(deadline, path);
    } catch {
      return;
    }
  }
}

/** Flushes the folder above, unless we may write to it but not read it. */
export async function syncParent(deadline: Deadline, path: string): Promise<void> {
  await syncPath(deadline, dirname(path)).catch((error) => {
    const { PermissionDenied, NotCapable } = Deno.errors;
    if (!(error instanceof PermissionDenied || error instanceof NotCapable)) throw error;
  });
}

async function isFolder(deadline: Deadline, path: string): Promise<boolean> {
  try {
    return (await stat(deadline, path)).isDirectory;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** Whether there is anything of that name, a dangling symlink included. */
export async function exists(deadline: Deadline, path: string): Promise<boolean> {
  return await lookAt(deadline, path) !== null;
}

/** Removes a file, if it is there. A server that ends may remove its own socket meanwhile. */
export async function removeFile(deadline: Deadline, path: string): Promise<void> {
  if (!await exists(deadline, path)) return;
  try {
    await remove(deadline, path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Where a symbolic link leads to; null if there is none of that name. */
export async function linkTarget(deadline: Deadline, path: string): Promise<string | null> {
  if (!(await lookAt(deadline, path))?.isSymlink) return null;
  return await readLink(deadline, path);
}

/** Gives a file the time of another one, for tools that go by it; where that can't be, it keeps its own. */
export async function setFileTime(
  deadline: Deadline,
  path: string,
  mtime: Date | null,
): Promise<void> {
  if (mtime === null) return;
  await deadline.run(path, () => Deno.utime(path, new Date(), mtime)).catch((error) => {
    if (error instanceof HangingError) throw error;
  });
}

/**
 * Checks that symbolic links may be made: Deno wants the right to everything for that, and would say so only
 * when all else is done.
 *
 * @throws {Failure} If not.
 */
export async function requireSymlinks(): Promise<void> {
  for (const name of ["read", "write"] as const) {
    if ((await Deno.permissions.query({ name })).state === "granted") continue;
    throw new Failure(
      `Deno makes a symbolic link only where it may ${name} everything: add --allow-${name}`,
    );
  }
}

/**
 * Makes a symbolic link, in the place of one that is there.
 *
 * @returns Why there is none now, in a sentence: not every file system has links (exFAT, FAT, some CIFS).
 * Null where there is one.
 * @throws {Failure} If something else is there.
 */
export async function replaceSymlink(
  deadline: Deadline,
  path: string,
  to: string,
): Promise<string | null> {
  const present = await lookAt(deadline, path);
  if (present && !present.isSymlink) {
    throw new Failure(`"${path}" is in the way of a link of that name: move it away`);
  }
  const fresh = path + FRESH_SUFFIX;
  try {
    await removeFile(deadline, fresh);
    await deadline.run(path, () => Deno.symlink(to, fresh));
    await rename(deadline, fresh, path);
    await syncPath(deadline, dirname(path));
    return null;
  } catch (error) {
    if (error instanceof Failure || error instanceof Deno.errors.NotCapable) throw error;
    await removeFile(deadline, fresh).catch(() => {});
    return `The link "${path}" could not be made: ${
      messageOf(error)
    }. Everything else is done: use ` +
      `"${to}" instead of the link`;
  }
}
