/**
 * Opens files that are there, and that somebody else may have put there: nothing else is opened by way of a
 * link, nothing waits for the writer of a pipe, and no more is read than was asked for.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { Deadline } from "./deadline.ts";
import { refuseLink } from "./create.ts";

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
  const seen = await deadline.ask(path, () => Deno.lstat(path));
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
    const opened = await deadline.ask(path, () => file.stat());
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
 * @param work Gets the open file with what it is, or why there is none.
 * @throws {Deno.errors.NotFound} If there is nothing.
 */
export async function withFile<T>(
  deadline: Deadline,
  path: string,
  options: Deno.OpenOptions,
  work: (file: Opened | NotTheFile) => Promise<T>,
): Promise<T> {
  return await deadline.run(path, () => openAndWork(path, options, work, asOne));
}

/** On a server far away each file has to be waited for. */
const FILES_AT_ONCE = 8;

/**
 * As `withFile()`, with many files of one file system: some side by side, and all of these within one deadline. To
 * ask for each whether the file system answers takes longer than to look into a file.
 */
export async function* withFiles<T>(
  deadline: Deadline,
  paths: readonly string[],
  options: Deno.OpenOptions,
  work: (file: Opened | NotTheFile, index: number) => Promise<T>,
): AsyncGenerator<PromiseSettledResult<T>> {
  for (let from = 0; from < paths.length; from += FILES_AT_ONCE) {
    const some = paths.slice(from, from + FILES_AT_ONCE);
    yield* await deadline.run(some[0] ?? "", () =>
      Promise.allSettled(
        some.map((path, i) => openAndWork(path, options, (file) => work(file, from + i), asOne)),
      ));
  }
}

/** Asks a file system: with a deadline, of its own or of all that is asked together. */
type Ask = <T>(operate: () => Promise<T>) => Promise<T>;

/** Part of what has a deadline as a whole. */
const asOne: Ask = (operate) => operate();

/** An open file, and what it was when it was opened. */
export interface Opened {
  file: Deno.FsFile;
  info: Deno.FileInfo;
}

async function openAndWork<T>(
  path: string,
  options: Deno.OpenOptions,
  work: (file: Opened | NotTheFile) => Promise<T>,
  ask: Ask,
): Promise<T> {
  const seen = await ask(() => Deno.lstat(path));
  if (seen.isSymlink) return await work("link");
  if (!seen.isFile) return await work("not a file");
  using file = await ask(() => Deno.open(path, options));
  const info = await file.stat();
  const isIt = info.dev === seen.dev && info.ino === seen.ino;
  return await work(isIt ? { file, info } : "replaced");
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
  const info = await deadline.ask(path, () => Deno.stat(path));
  if (!info.isFile || info.size > maxBytes) return null;
  const contents = await deadline.runLong(path, info.size, () => Deno.readFile(path));
  return contents.length > maxBytes ? null : contents;
}

/**
 * Reads a regular file, if it is not too large.
 *
 * @returns Null where it is too large, a link, not a regular file, or not there.
 */
export async function readUpTo(
  deadline: Deadline,
  path: string,
  maxBytes: number,
): Promise<string | null> {
  return await read(path, maxBytes, (operate) => deadline.run(path, operate));
}

/** As `readUpTo()`, of many small files of one file system, in their order: see `withFiles()`. */
export async function* readEachUpTo(
  deadline: Deadline,
  paths: readonly string[],
  maxBytes: number,
): AsyncGenerator<string | null> {
  for (let from = 0; from < paths.length; from += FILES_AT_ONCE) {
    const some = paths.slice(from, from + FILES_AT_ONCE);
    const all = () => Promise.all(some.map((path) => read(path, maxBytes, asOne)));
    yield* await deadline.run(some[0] ?? "", all);
  }
}

async function read(path: string, maxBytes: number, ask: Ask): Promise<string | null> {
  const info = await ask(() => Deno.lstat(path)).catch(nullIfMissing);
  if (!info?.isFile || info.size > maxBytes) return null;
  using file = await ask(() => Deno.open(path, { read: true }));
  // One more than may be there: it may be another file by now, or one that grows.
  const buffer = new Uint8Array(Math.min(maxBytes, info.size) + 1);
  let length = 0;
  while (length < buffer.length) {
    const count = await ask(() => file.read(buffer.subarray(length)));
    if (count === null) return new TextDecoder().decode(buffer.subarray(0, length));
    length += count;
  }
  return null;
}

function nullIfMissing(error: unknown): null {
  const { NotFound, NotADirectory } = Deno.errors;
  if (error instanceof NotFound || error instanceof NotADirectory) return null;
  throw error;
}
