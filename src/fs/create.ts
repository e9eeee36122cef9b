/**
 * Makes files and folders with just the mode that was asked for, whatever the umask is, and never
 * through a symbolic link.
 *
 * Source: open(2): with O_CREAT and O_EXCL, "if pathname is a symbolic link, then open() fails".
 * mkdir(2): below a folder with the set-group-ID bit a new one gets the bit and the group.
 *
 * @module
 */

import { close, fchmod, fstat, open } from "node:fs";
import { promisify } from "node:util";
import { Failure } from "../errors.ts";
import { type Deadline, HangingError } from "./deadline.ts";
import { remove } from "./files.ts";

/** Files are for their owner alone, unless a user says otherwise (`--mode`). */
export const OWNER_ONLY = 0o600;

const SET_GROUP_ID = 0o2000;

/** The mode of a folder whose files have this mode: who may read those may enter it. */
export function folderMode(fileMode: number): number {
  return fileMode | (fileMode & 0o444) >> 2;
}

/**
 * Makes a file with these contents. All of it goes through the handle that made the file: if somebody puts
 * another file in its place meanwhile, that one is not touched.
 *
 * @throws {Deno.errors.AlreadyExists} If there is anything of that name.
 * @throws {Failure} If something else was put in its place.
 */
export async function createFile(
  deadline: Deadline,
  path: string,
  mode: number,
  contents: Uint8Array | string = "",
): Promise<void> {
  using file = await deadline.run(
    path,
    () => Deno.open(path, { write: true, createNew: true, mode }),
  );
  try {
    const { mode: given, dev, ino } = await deadline.ask(path, () => file.stat());
    if (given !== null && (given & 0o7777) !== mode) {
      await deadline.run(path, () => changeMode(path, mode, { dev, ino }));
    }
    const bytes = typeof contents === "string" ? new TextEncoder().encode(contents) : contents;
    for (let done = 0; done < bytes.length;) {
      done += await deadline.ask(path, () => file.write(bytes.subarray(done)));
    }
  } catch (error) {
    await remove(deadline, path).catch(() => {});
    throw error;
  }
}

/**
 * Sets the mode of a file from which the umask has taken rights. Deno changes modes by path only, which would
 * follow a link: so the file is opened once more, and changed only if it is the one that we made.
 */
async function changeMode(path: string, mode: number, made: { dev: number; ino: number | null }) {
  // Opened to read only, a pipe would wait for its writer.
  const fd = await promisify(open)(path, "r+");
  try {
    const { dev, ino } = await promisify(fstat)(fd);
    if (dev !== made.dev || ino !== made.ino) {
      throw new Failure(`"${path}" was replaced while it was made: run again`);
    }
    await promisify(fchmod)(fd, mode);
  } catch (error) {
    // We are the owner, who may do that: this file system has no modes (FAT, CIFS).
    if (!(error instanceof Error && "code" in error && error.code === "EPERM")) throw error;
  } finally {
    await promisify(close)(fd);
  }
}

/** Makes a folder, with its parent's set-group-ID bit. */
export async function makeFolder(
  deadline: Deadline,
  path: string,
  fileMode: number,
): Promise<void> {
  const mode = folderMode(fileMode);
  await deadline.run(path, () => Deno.mkdir(path, { mode }));
  await setMode(deadline, path, mode | (await modeOf(deadline, path) & SET_GROUP_ID));
}

/** What is there, without following a link; null where there is nothing. */
export async function lookAt(deadline: Deadline, path: string): Promise<Deno.FileInfo | null> {
  try {
    return await deadline.ask(path, () => Deno.lstat(path));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return null;
    }
    throw error;
  }
}

/**
 * Refuses a symbolic link.
 *
 * @throws {Failure} If it is one, with what to do.
 */
export async function refuseLink(deadline: Deadline, path: string): Promise<void> {
  if (!(await lookAt(deadline, path))?.isSymlink) return;
  throw new Failure(
    `"${path}" is a symbolic link, and qmpbackup does not write through links: put the real file ` +
      "in its place, or, if it leads to a folder, mount that folder there (mount --bind)",
  );
}

/** Sets the mode of a folder, from which the umask may have taken rights. */
async function setMode(deadline: Deadline, path: string, mode: number) {
  if (await modeOf(deadline, path) === mode) return;
  try {
    await deadline.run(path, () => Deno.chmod(path, mode));
  } catch (error) {
    // We are the owner, who may do that: this file system has no modes (FAT, CIFS).
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
  }
}

const WRITE_BITS = 0o222;
const OWNER_WRITE = 0o200;

/** Takes the right to write to a finished file from everybody, where its file system has such rights. */
export async function makeReadOnly(deadline: Deadline, path: string): Promise<void> {
  await tryMode(deadline, path, await modeOf(deadline, path) & ~WRITE_BITS);
}

/**
 * Gives the owner of a finished file the right to write to it again.
 *
 * @returns The mode that it had.
 * @throws {Failure} If we may not write to it all the same, with what to do.
 */
export async function makeWritable(deadline: Deadline, path: string): Promise<number> {
  const { mode, uid } = await deadline.ask(path, () => Deno.lstat(path));
  await tryMode(deadline, path, ((mode ?? 0) | OWNER_WRITE) & 0o7777);
  try {
    (await deadline.run(path, () => Deno.open(path, { write: true }))).close();
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
    throw new Failure(
      `"${path}" is finished, and only its owner (the user ${uid}) or root may change it: run as one of them`,
      { cause: error },
    );
  }
  return (mode ?? 0) & 0o7777;
}

/** Gives a file a mode; a file that somebody else owns keeps its mode. */
export async function tryMode(deadline: Deadline, path: string, mode: number) {
  if (await modeOf(deadline, path) === mode) return;
  try {
    await deadline.run(path, () => Deno.chmod(path, mode));
  } catch (error) {
    if (error instanceof HangingError) throw error;
  }
}

async function modeOf(deadline: Deadline, path: string): Promise<number> {
  const { mode } = await deadline.ask(path, () => Deno.lstat(path));
  return (mode ?? 0) & 0o7777;
}
