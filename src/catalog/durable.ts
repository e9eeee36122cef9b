/**
 * Writes that survive a power cut: file first, then the folder that names it. None waits for ever: an
 * NFS server that is gone, or a disk that died, lets whoever asks it wait.
 *
 * Source: fsync(2): "Calling fsync() does not necessarily ensure that the entry in the directory
 * containing the file has also reached disk".
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { dirname, join } from "@std/path";
import { Failure } from "../errors.ts";

/** A file system does not answer. What was asked of it may still happen. */
export class HangingError extends Failure {
  override name = "HangingError";
}

/** How long a file system gets while another operation that was given up has still not come back. */
const IMPATIENT_TIMEOUT_MS = 5_000;

let timeoutMs = 300_000;
const late = new Set<Promise<unknown>>();

/** Sets how long a file system may take for one operation; at first 5 minutes. */
export function setFileTimeout(ms: number): void {
  timeoutMs = ms;
}

/**
 * Runs a file operation, but does not wait for ever. One that is given up is left to the kernel, since
 * nobody can take it back; the process ends all the same.
 *
 * @param path What the operation is about.
 * @throws {HangingError} If it takes too long.
 */
export async function bounded<T>(path: string, operate: () => Promise<T>): Promise<T> {
  await limited(path, knock(path));
  return await limited(path, operate());
}

/**
 * Asks for names that nobody knows, which no cache can answer. Deno 2.4 opens files, and asks for free
 * space, in its only thread, where no time-out runs: that a file system hangs must be known before.
 */
async function knock(path: string) {
  const name = `.${crypto.randomUUID()}`;
  await Promise.allSettled([path, dirname(path)].map((folder) => Deno.lstat(join(folder, name))));
}

async function limited<T>(path: string, work: Promise<T>): Promise<T> {
  const limitMs = late.size > 0 ? Math.min(timeoutMs, IMPATIENT_TIMEOUT_MS) : timeoutMs;
  const pause = new AbortController();
  const tooLong = delay(limitMs, { signal: pause.signal }).then(() => true, () => false);
  const isLate = await Promise.race([work.then(() => false, () => false), tooLong]);
  pause.abort();
  if (!isLate) return await work;
  late.add(work);
  const forget = () => void late.delete(work);
  work.then(forget, forget);
  throw new HangingError(
    `The file system of "${path}" has not answered for ${
      limitMs / 1000
    } s: is its server, or its ` +
      "disk, still there",
  );
}

/** Flushes a file or a folder to its storage. */
export async function syncPath(path: string): Promise<void> {
  await bounded(path, () => sync(path));
}

async function sync(path: string) {
  using file = await Deno.open(path, { read: true });
  await file.sync();
}

/** Renames, and makes the new name last. An existing `to` is replaced. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await syncPath(from);
  await bounded(to, () => Deno.rename(from, to));
  await syncPath(dirname(to));
}

/** Writes a file whole or not at all, with only the owner allowed to read it. */
export async function writeDurably(path: string, text: string): Promise<void> {
  const partial = `${path}.tmp`;
  try {
    await bounded(path, () => Deno.writeTextFile(partial, text, { mode: 0o600 }));
    await renameDurably(partial, path);
  } catch (error) {
    await bounded(path, () => Deno.remove(partial)).catch(() => {});
    throw error;
  }
}

/** Whether there is anything of that name, a dangling symlink included. */
export async function exists(path: string): Promise<boolean> {
  try {
    await bounded(path, () => Deno.lstat(path));
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
  if (await exists(path)) await bounded(path, () => Deno.remove(path));
}

/** Makes a symbolic link, in the place of one that is there. */
export async function replaceSymlink(path: string, to: string): Promise<void> {
  const fresh = `${path}.new`;
  await removeFile(fresh);
  await bounded(path, () => Deno.symlink(to, fresh));
  await bounded(path, () => Deno.rename(fresh, path));
  await syncPath(dirname(path));
}
