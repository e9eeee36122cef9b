/**
 * Deno's file calls by their own names, each with a deadline. No other room calls Deno's.
 *
 * @module
 */

import { statfs } from "node:fs";
import type { Deadline } from "./deadline.ts";

/** What a path leads to, through links. */
export async function stat(deadline: Deadline, path: string): Promise<Deno.FileInfo> {
  return await deadline.ask(path, () => Deno.stat(path));
}

/** What a file takes on its file system; blocks are of 512 bytes (stat(2)). */
export async function allocatedBytes(deadline: Deadline, path: string): Promise<number> {
  const { blocks, size } = await stat(deadline, path);
  return blocks === null ? size : blocks * 512;
}

/** Where a path leads to: the same without links. */
export async function realPath(deadline: Deadline, path: string): Promise<string> {
  return await deadline.ask(path, () => Deno.realPath(path));
}

/** What a symbolic link says. */
export async function readLink(deadline: Deadline, path: string): Promise<string> {
  return await deadline.ask(path, () => Deno.readLink(path));
}

/** What a folder holds. */
export async function listFolder(deadline: Deadline, path: string): Promise<Deno.DirEntry[]> {
  return await deadline.ask(path, () => Array.fromAsync(Deno.readDir(path)));
}

/** Renames; an existing `to` is replaced. Nothing is flushed: see `renameDurably()`. */
export async function rename(deadline: Deadline, from: string, to: string): Promise<void> {
  await deadline.run(to, () => Deno.rename(from, to));
}

/** Removes a file or an empty folder. */
export async function remove(deadline: Deadline, path: string): Promise<void> {
  await deadline.run(path, () => Deno.remove(path));
}

/**
 * Gives a file a second name (a hard link).
 *
 * @throws {Deno.errors.AlreadyExists} If there is anything of that name.
 */
export async function link(deadline: Deadline, from: string, to: string): Promise<void> {
  await deadline.run(to, () => Deno.link(from, to));
}

/** Cuts a file off at so many bytes. */
export async function truncate(deadline: Deadline, path: string, sizeBytes: number): Promise<void> {
  await deadline.run(path, () => Deno.truncate(path, sizeBytes));
}

/** Makes a folder and what is missing above it, with the modes that the umask leaves. */
export async function makeFolders(deadline: Deadline, path: string): Promise<void> {
  await deadline.run(path, () => Deno.mkdir(path, { recursive: true }));
}

/** Makes an empty file with a name that nobody knows, for its owner alone. */
export async function makeTempFile(deadline: Deadline, folder: string): Promise<string> {
  return await deadline.run(folder, () => Deno.makeTempFile({ dir: folder, prefix: "qmpbackup-" }));
}

/** Makes a folder with a name that nobody knows, for its owner alone. */
export async function makeTempFolder(deadline: Deadline, folder: string): Promise<string> {
  return await deadline.run(folder, () => Deno.makeTempDir({ dir: folder, prefix: "qmpbackup-" }));
}

/** How much a user who is not root may still write to the file system of a folder. */
export async function freeBytes(deadline: Deadline, folder: string): Promise<number> {
  return await deadline.run(folder, () => {
    // Deno has no statfs of its own; Node's promise kind is missing in Deno 2.4.
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    statfs(folder, (error, found) => error ? reject(error) : resolve(found.bavail * found.bsize));
    return promise;
  });
}
