/**
 * Writes that survive a power cut: file first, then the folder that names it.
 *
 * Source: fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory
 * containing the file has also reached disk".
 *
 * @module
 */

import { dirname } from "@std/path";

/** Flushes a file or a folder to its storage. */
export async function syncPath(path: string): Promise<void> {
  using file = await Deno.open(path, { read: true });
  await file.sync();
}

/** Renames, and makes the new name last. An existing `to` is replaced. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await syncPath(from);
  await Deno.rename(from, to);
  await syncPath(dirname(to));
}

/** Writes a file whole or not at all, with only the owner allowed to read it. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const partial = `${path}.tmp`;
  try {
    await Deno.writeTextFile(partial, text, { mode: 0o600 });
    await renameDurably(partial, path);
  } catch (error) {
    await Deno.remove(partial).catch(() => {});
    throw error;
  }
}

/** Whether there is anything of that name, a dangling symlink included. */
export async function exists(path: string): Promise<boolean> {
  try {
    await Deno.lstat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return false;
    }
    throw error;
  }
}

/** Removes a file, if it is there. */
export async function removeFile(path: string): Promise<void> {
  if (await exists(path)) await Deno.remove(path);
}

/** Makes a symbolic link, in the place of one that is there. */
export async function replaceSymlink(path: string, to: string): Promise<void> {
  const fresh = `${path}.new`;
  await removeFile(fresh);
  await Deno.symlink(to, fresh);
  await Deno.rename(fresh, path);
  await syncPath(dirname(path));
}
