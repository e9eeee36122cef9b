/**
 * Copies files and folders out of a file system that was opened. Only regular files and folders are made,
 * with names that lead nowhere else: the guest chose them.
 *
 * @module
 */

import { basename, dirname, join } from "@std/path";
import { Failure } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { createFileOf } from "../fs/create_of.ts";
import { createInside, exists } from "../fs/durable.ts";
import { type Entry, isPlainName, type Reader } from "./reader.ts";

export interface CopyOptions {
  deadline: Deadline;
  /** Of the new files. */
  mode: number;
  signal: AbortSignal;
  onFile(path: string): void;
  /** Told of what is left out, and why. */
  onSkipped(path: string, why: string): void;
}

export interface Copied {
  files: number;
  bytes: number;
}

/**
 * Copies what a path leads to into a folder.
 *
 * @param path In the file system: "/etc".
 * @returns How much that was.
 * @throws {Failure} If it is not there, or something of its name is in the folder already.
 */
export async function copyOut(
  reader: Reader,
  path: string,
  folder: string,
  options: CopyOptions,
): Promise<Copied> {
  const copied = { files: 0, bytes: 0 };
  if (path === "/") {
    await copyFolder(reader, path, folder, options, copied);
    return copied;
  }
  const name = basename(path);
  const entry = (await reader.list(dirname(path))).find((entry) => entry.name === name);
  if (!entry) throw new Failure(`"${path}" is not in this file system`);
  if (entry.kind === "link" || entry.kind === "other") {
    throw new Failure(
      `"${path}" is not a file or a folder, and can't be copied (a link, a device)`,
    );
  }
  const to = join(folder, name);
  if (await exists(options.deadline, to)) {
    throw new Failure(`"${to}" exists already, and is not overwritten`);
  }
  await copyEntry(reader, entry, path, to, options, copied);
  return copied;
}

async function copyEntry(
  reader: Reader,
  entry: Entry,
  path: string,
  to: string,
  options: CopyOptions,
  copied: Copied,
): Promise<void> {
  options.signal.throwIfAborted();
  if (entry.kind === "folder") {
    await createInside(options.deadline, to, options.mode);
    return await copyFolder(reader, path, to, options, copied);
  }
  if (entry.kind !== "file") return options.onSkipped(path, "it is not a file or a folder");
  options.onFile(path);
  copied.bytes += await createFileOf(
    options.deadline,
    to,
    options.mode,
    (write) => reader.read(entry, write),
  );
  copied.files += 1;
}

async function copyFolder(
  reader: Reader,
  path: string,
  folder: string,
  options: CopyOptions,
  copied: Copied,
): Promise<void> {
  for (const entry of await reader.list(path)) {
    const from = join(path, entry.name);
    const to = join(folder, entry.name);
    if (!isPlainName(entry.name)) options.onSkipped(from, "its name can't be a file's");
    else if (await exists(options.deadline, to)) {
      options.onSkipped(from, "something of that name is there already");
    } else await copyEntry(reader, entry, from, to, options, copied);
  }
}
