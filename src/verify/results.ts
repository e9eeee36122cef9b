/**
 * Keeps the results of verifications in a target.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { VERIFIED_FOLDER } from "../repo/layout.ts";
import { readResultFiles, writeResultFile } from "../repo/results.ts";
import {
  formatResult,
  MAX_RESULT_BYTES,
  parseResult,
  ResultError,
  type VerifyResult,
} from "./result.ts";

/** All results of a target that can be read, in no order. */
export async function readResults(deadline: Deadline, target: string): Promise<VerifyResult[]> {
  return await readResultFiles(
    deadline,
    target,
    VERIFIED_FOLDER,
    MAX_RESULT_BYTES,
    (path, text) => {
      try {
        return parseResult(path, text);
      } catch (error) {
        if (!(error instanceof ResultError)) throw error;
        return null;
      }
    },
  );
}

/** Writes a result, and removes the oldest where there are very many. */
export async function writeResult(
  deadline: Deadline,
  target: string,
  result: VerifyResult,
): Promise<void> {
  await writeResultFile(deadline, target, VERIFIED_FOLDER, result.started, formatResult(result));
}
