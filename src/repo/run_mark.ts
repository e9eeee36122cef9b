/**
 * What a user says of a run: that no prune may remove it, and a note. Each in a small file of its own, so that the
 * record stays what the run wrote.
 *
 * @module
 */

import { join } from "@std/path";
import * as v from "valibot";
import { Failure } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { refuseLink } from "../fs/create.ts";
import { listFolder } from "../fs/files.ts";
import { createInside, exists, removeFile, removeFolders, writeDurably } from "../fs/durable.ts";
import { parseJson } from "../json.ts";
import { MARKS_FOLDER } from "./layout.ts";
import { readSmall } from "./repository.ts";

const FORMAT = "qmpbackup-mark";
const VERSION = 1;

/** A note is some lines, for a table. */
export const MAX_NOTE_LENGTH = 1_000;

const MarkFile = v.object({
  format: v.literal(FORMAT),
  version: v.literal(VERSION),
  protected: v.boolean(),
  note: v.nullable(v.pipe(v.string(), v.maxLength(MAX_NOTE_LENGTH))),
});

/** What is said of a run. */
export interface RunMark {
  isProtected: boolean;
  note: string | null;
}

export const NO_MARK: RunMark = { isProtected: false, note: null };

/** Decodes a mark; null if it is not one of ours. Pure. */
export function parseMark(text: string): RunMark | null {
  try {
    const { protected: isProtected, note } = v.parse(MarkFile, parseJson(text), {
      abortEarly: true,
    });
    return { isProtected, note };
  } catch {
    return null;
  }
}

/** The text of a mark's file. Pure. */
export function formatMark({ isProtected, note }: RunMark): string {
  return JSON.stringify(
    { format: FORMAT, version: VERSION, protected: isProtected, note },
    null,
    2,
  ) +
    "\n";
}

/**
 * Reads the marks of a target, by the runs' ids.
 *
 * @throws {Failure} If one can't be read: it may protect its run.
 */
export async function readMarks(deadline: Deadline, target: string): Promise<Map<string, RunMark>> {
  const folder = join(target, MARKS_FOLDER);
  const marks = new Map<string, RunMark>();
  if (!await exists(deadline, folder)) return marks;
  for (const { name } of await listFolder(deadline, folder)) {
    if (!name.endsWith(".json")) continue;
    const mark = parseMark(await readSmall(deadline, join(folder, name)));
    if (mark === null) {
      throw new Failure(
        `"${
          join(folder, name)
        }" is damaged, or was written by a newer qmpbackup. It may say that its run is ` +
          "protected: look at it, and remove it if not",
      );
    }
    marks.set(name.slice(0, -".json".length), mark);
  }
  return marks;
}

/**
 * Says something of a run; that there is nothing to say any more removes the file.
 *
 * @param mode Of a new file.
 */
export async function writeMark(
  deadline: Deadline,
  target: string,
  runId: string,
  mark: RunMark,
  mode?: number,
): Promise<void> {
  const folder = join(target, MARKS_FOLDER);
  await refuseLink(deadline, folder);
  const file = join(folder, `${runId}.json`);
  if (!mark.isProtected && mark.note === null) {
    await removeFile(deadline, file);
    if (await exists(deadline, folder)) await removeFolders(deadline, [folder]);
    return;
  }
  await createInside(deadline, folder, mode);
  await writeDurably(deadline, file, formatMark(mark), mode === undefined ? {} : { mode });
}
