/**
 * Keeps the results of verifications in a target, each in a file of its own.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { join } from "@std/path";
import { Failure } from "../errors.ts";
import { lookAt, OWNER_ONLY } from "../fs/create.ts";
import { createInside, removeFile, writeDurably } from "../fs/durable.ts";
import { findSharedFolder } from "../fs/folder.ts";
import { listFolder } from "../fs/files.ts";
import { readUpTo } from "../fs/open.ts";
import {
  DIGESTS_FOLDER,
  LOCK_FILE,
  RECORDS_FOLDER,
  runId,
  VERIFIED_FOLDER,
} from "../repo/layout.ts";
import {
  formatResult,
  MAX_RESULT_BYTES,
  parseResult,
  ResultError,
  type VerifyResult,
} from "./result.ts";

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
  for (const name of [".", RECORDS_FOLDER, DIGESTS_FOLDER, VERIFIED_FOLDER]) {
    const problem = await findSharedFolder(deadline, join(target, name), mode);
    if (problem !== null) return problem;
  }
  return null;
}

/** All results of a target that can be read, in no order. */
export async function readResults(deadline: Deadline, target: string): Promise<VerifyResult[]> {
  const folder = join(target, VERIFIED_FOLDER);
  const results: VerifyResult[] = [];
  for (const name of await resultFiles(deadline, folder)) {
    const path = join(folder, name);
    const text = await readUpTo(deadline, path, MAX_RESULT_BYTES);
    try {
      if (text !== null) results.push(parseResult(path, text));
    } catch (error) {
      // It says what was found then, and nothing builds on it.
      if (!(error instanceof ResultError)) throw error;
    }
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

/** Writes a result, and removes the oldest where there are very many. */
export async function writeResult(
  deadline: Deadline,
  target: string,
  result: VerifyResult,
): Promise<void> {
  const problem = await writeProblem(deadline, target);
  if (problem !== null) throw new Failure(problem);
  const folder = join(target, VERIFIED_FOLDER);
  const mode = await modeOfFiles(deadline, target);
  for (const name of [RECORDS_FOLDER, VERIFIED_FOLDER]) {
    await createInside(deadline, join(target, name), mode);
  }
  const id = runId(new Date(result.started), crypto.randomUUID().slice(0, 8));
  for (let attempt = 1;; attempt++) {
    try {
      await writeDurably(deadline, join(folder, `${id}.json`), formatResult(result), { mode });
      break;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound) || attempt === ATTEMPTS) throw error;
    }
  }
  for (const name of (await resultFiles(deadline, folder)).slice(0, -KEPT)) {
    await removeFile(deadline, join(folder, name));
  }
}
