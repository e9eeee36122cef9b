/**
 * Keeps results in a target, of a verification or of a boot, each in a file of its own.
 *
 * @module
 */

import { join } from "@std/path";
import { Failure } from "../errors.ts";
import { lookAt, OWNER_ONLY } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { createInside, removeFile, writeDurably } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import { findSharedFolder } from "../fs/folder.ts";
import { readUpTo } from "../fs/open.ts";
import {
  BOOTED_FOLDER,
  DIGESTS_FOLDER,
  LOCK_FILE,
  RECORDS_FOLDER,
  runId,
  VERIFIED_FOLDER,
} from "./layout.ts";

/** More than a year of nights; what is older goes. */
const KEPT = 400;

/** The mode of new files: that of the lock, which the first backup was told. */
export async function modeOfFiles(deadline: Deadline, target: string): Promise<number> {
  const mode = (await lookAt(deadline, join(target, LOCK_FILE)))?.mode;
  return mode ? mode & 0o666 | OWNER_ONLY : OWNER_ONLY;
}

/**
 * Why nothing of ours may be written into a target: others could put a link in the place of a file.
 *
 * @returns Whose folder it is, and what to do; null where it may.
 */
export async function writeProblem(deadline: Deadline, target: string): Promise<string | null> {
  const mode = await modeOfFiles(deadline, target);
  for (const name of [".", RECORDS_FOLDER, DIGESTS_FOLDER, VERIFIED_FOLDER, BOOTED_FOLDER]) {
    const problem = await findSharedFolder(deadline, join(target, name), mode);
    if (problem !== null) return problem;
  }
  return null;
}

/**
 * The results that can be read, the oldest first.
 *
 * @param folder `VERIFIED_FOLDER` or `BOOTED_FOLDER`.
 * @param maxBytes What is longer is not a result.
 * @param parse Decodes a file's text; null if it is not a result: it says what was found then, and nothing builds
 * on it.
 */
export async function readResultFiles<T>(
  deadline: Deadline,
  target: string,
  folder: string,
  maxBytes: number,
  parse: (path: string, text: string) => T | null,
): Promise<T[]> {
  const results: T[] = [];
  for (const name of await resultFiles(deadline, join(target, folder))) {
    const path = join(target, folder, name);
    const text = await readUpTo(deadline, path, maxBytes);
    const result = text === null ? null : parse(path, text);
    if (result !== null) results.push(result);
  }
  return results;
}

/** The oldest first: they begin with their time. */
async function resultFiles(deadline: Deadline, folder: string): Promise<string[]> {
  if (!(await lookAt(deadline, folder))?.isDirectory) return [];
  const names = (await listFolder(deadline, folder)).map(({ name }) => name);
  return names.filter((name) => name.endsWith(".json")).sort();
}

/** How often a file is written, if a run that sweeps what is unfinished takes it away before it has its name. */
const ATTEMPTS = 3;

/**
 * Writes a result, and removes the oldest where there are very many.
 *
 * @param started When what it is of began; UTC.
 * @throws {Failure} If others may write there.
 */
export async function writeResultFile(
  deadline: Deadline,
  target: string,
  folder: string,
  started: string,
  text: string,
): Promise<void> {
  const problem = await writeProblem(deadline, target);
  if (problem !== null) throw new Failure(problem);
  const mode = await modeOfFiles(deadline, target);
  const path = join(target, folder);
  for (const name of [RECORDS_FOLDER, folder]) {
    await createInside(deadline, join(target, name), mode);
  }
  const id = runId(new Date(started), crypto.randomUUID().slice(0, 8));
  for (let attempt = 1;; attempt++) {
    try {
      await writeDurably(deadline, join(path, `${id}.json`), text, { mode });
      break;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound) || attempt === ATTEMPTS) throw error;
    }
  }
  for (const name of (await resultFiles(deadline, path)).slice(0, -KEPT)) {
    await removeFile(deadline, join(path, name));
  }
}
