/**
 * Opens files that are there, and that somebody else may have put there: nothing else is opened by way of a
 * link, nothing waits for the writer of a pipe, and no more is read than was asked for.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { Deadline } from "./deadline.ts";
import { lookAt, refuseLink } from "./create.ts";

/**
 * Opens a regular file itself, and nothing that was put in its place while we looked.
 *
 * @param what What it is to be, for the message: "our lock".
 * @throws {Failure} If it is a link, not a regular file, or has a second name (a hard link), which may be a
 * file that means something else.
 * @throws {Deno.errors.NotFound} If there is nothing.
 */
export async function openItself(
  deadline: Deadline,
  path: string,
  what: string,
  options: Deno.OpenOptions,
): Promise<Deno.FsFile> {
  await refuseLink(deadline, path);
  const seen = await deadline.run(path, () => Deno.lstat(path));
  if (!seen.isFile) throw new Failure(`"${path}" is in the place of ${what}: move it away`);
  return await openSame(deadline, path, seen, options, ({ nlink }) => {
    if (nlink !== null && nlink > 1) {
      throw new Failure(
        `"${path}" has another name elsewhere (a hard link), and what is written to ${what} would be ` +
          `written there: remove it, and run again`,
      );
    }
  });
}

/**
 * Opens a file that was looked at, and nothing that was put in its place since.
 *
 * @param refuse Throws if something else is wrong with it.
 */
export async function openSame(
  deadline: Deadline,
  path: string,
  seen: Deno.FileInfo,
  options: Deno.OpenOptions,
  refuse: (opened: Deno.FileInfo) => void = () => {},
): Promise<Deno.FsFile> {
  const file = await deadline.run(path, () => Deno.open(path, options));
  try {
    const opened = await deadline.run(path, () => file.stat());
    if (opened.dev !== seen.dev || opened.ino !== seen.ino) {
      throw new Failure(`"${path}" was replaced while it was opened: run again`);
    }
    refuse(opened);
    return file;
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Why something is not the regular file that was looked for. */
export type NotTheFile = "link" | "not a file" | "replaced";

/**
 * Works with a regular file itself, all within one deadline: a link is not followed, and a pipe not opened,
 * which would wait for its writer.
 *
 * @param work Gets the open file, or why there is none.
 * @throws {Deno.errors.NotFound} If there is nothing.
 */
export async function withFile<T>(
  deadline: Deadline,
  path: string,
  options: Deno.OpenOptions,
  work: (file: Deno.FsFile | NotTheFile) => Promise<T>,
): Promise<T> {
  return await deadline.run(path, async () => {
    const seen = await Deno.lstat(path);
    if (seen.isSymlink) return await work("link");
    if (!seen.isFile) return await work("not a file");
    using file = await Deno.open(path, options);
    const { dev, ino } = await file.stat();
    return await work(dev === seen.dev && ino === seen.ino ? file : "replaced");
  });
}

/**
 * Reads a regular file that a user named: a link is followed.
 *
 * @returns Null where it is too large, or not a regular file.
 */
export async function readBytesUpTo(
  deadline: Deadline,
  path: string,
  maxBytes: number,
): Promise<Uint8Array | null> {
  const info = await deadline.run(path, () => Deno.stat(path));
  if (!info.isFile || info.size > maxBytes) return null;
  const contents = await deadline.runLong(path, info.size, () => Deno.readFile(path));
  return contents.length > maxBytes ? null : contents;
}

/**
 * Reads a regular file, if it is not too large.
 *
 * @returns Null where it is too large, a link, or not a regular file.
 */
export async function readUpTo(
  deadline: Deadline,
  path: string,
  maxBytes: number,
): Promise<string | null> {
  const info = await lookAt(deadline, path);
  if (!info?.isFile || info.size > maxBytes) return null;
  using file = await deadline.run(path, () => Deno.open(path, { read: true }));
  // One more than may be there: it may be another file by now, or one that grows.
  const buffer = new Uint8Array(Math.min(maxBytes, info.size) + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await deadline.run(path, () => file.read(buffer.subarray(length)));
    if (count === null) return new TextDecoder().decode(buffer.subarray(0, length));
    length += count;
  }
  return null;
}
