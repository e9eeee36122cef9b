/**
 * Deno's file calls by their own names, each with a deadline. No other room calls Deno's.
 *
 * @module
 */

import { statfs } from "node:fs";
import { bounded } from "./deadline.ts";

/** What a path leads to, through links. */
export async function stat(path: string): Promise<Deno.FileInfo> {
  return await bounded(path, () => Deno.stat(path));
}

/** What a file takes on its file system; blocks are of 512 bytes (stat(2)). */
export async function allocatedBytes(path: string): Promise<number> {
  const { blocks, size } = await stat(path);
  return blocks === null ? size : blocks * 512;
}

/** Where a path leads to, with no link left in it. */
export async function realPath(path: string): Promise<string> {
  return await bounded(path, () => Deno.realPath(path));
}

/** What a symbolic link says. */
export async function readLink(path: string): Promise<string> {
  return await bounded(path, () => Deno.readLink(path));
}

/** What a folder holds. */
export async function listFolder(path: string): Promise<Deno.DirEntry[]> {
  return await bounded(path, () => Array.fromAsync(Deno.readDir(path)));
}

/** Renames; an existing `to` is replaced. Nothing is flushed: see `renameDurably()`. */
export async function rename(from: string, to: string): Promise<void> {
  await bounded(to, () => Deno.rename(from, to));
}

/** Removes a file or an empty folder. */
export async function remove(path: string): Promise<void> {
  await bounded(path, () => Deno.remove(path));
}

/**
 * Gives a file a second name (a hard link).
 *
 * @throws {Deno.errors.AlreadyExists} If there is anything of that name.
 */
export async function link(from: string, to: string): Promise<void> {
  await bounded(to, () => Deno.link(from, to));
}

/** Cuts a file off at so many bytes. */
export async function truncate(path: string, sizeBytes: number): Promise<void> {
  await bounded(path, () => Deno.truncate(path, sizeBytes));
}

/** Makes a folder and what is missing above it, with the modes that the umask leaves. */
export async function makeFolders(path: string): Promise<void> {
  await bounded(path, () => Deno.mkdir(path, { recursive: true }));
}

/** Makes an empty file with a name that nobody knows, for its owner alone. */
export async function makeTempFile(folder: string): Promise<string> {
  return await bounded(folder, () => Deno.makeTempFile({ dir: folder, prefix: "qmpbackup-" }));
}

/** How much a user who is not root may still write to the file system of a folder. */
export async function freeBytes(folder: string): Promise<number> {
  return await bounded(folder, () => {
    // Deno has no statfs of its own; Node's promise kind is missing in Deno 2.4.
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    statfs(folder, (error, found) => error ? reject(error) : resolve(found.bavail * found.bsize));
    return promise;
  });
}
