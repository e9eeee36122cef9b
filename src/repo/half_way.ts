/**
 * `_qmpbackup/rollback.json`: disks of the VM are being rolled back. It is written before the first byte of a disk
 * is, and removed when all of them are done. As long as it is there, the disks may be half the old and half the
 * new state: a backup of them would look like a point in time, and be none.
 *
 * @module
 */

import { join } from "@std/path";
import * as v from "valibot";
import { Failure } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { exists, removeFile, syncParent } from "../fs/durable.ts";
import { parseJson } from "../json.ts";
import { ROLLBACK_FILE } from "./layout.ts";
import { readSmall, writeBeside } from "./repository.ts";

const FORMAT = "qmpbackup-rollback";
const VERSION = 1;

const text = v.pipe(v.string(), v.maxLength(1_000));

const HalfWay = v.object({
  format: v.literal(FORMAT),
  version: v.literal(VERSION),
  /** When it began, UTC. */
  since: v.pipe(v.string(), v.isoTimestamp()),
  /** The run whose point in time the disks go back to. */
  run: text,
  /** What the disks are called. */
  disks: v.pipe(v.array(text), v.minLength(1)),
  /** Whether the guest ran before, and is to run again. */
  wasRunning: v.boolean(),
});
export type HalfWay = v.InferOutput<typeof HalfWay>;

export const HALF_WAY_HEAD = { format: FORMAT, version: VERSION } as const;

/** Decodes the file; null if it is not one of ours. Pure. */
export function parseHalfWay(text: string): HalfWay | null {
  try {
    return v.parse(HalfWay, parseJson(text), { abortEarly: true });
  } catch {
    return null;
  }
}

/**
 * Reads what a rollback left that did not end; null where there is none.
 *
 * @throws {Failure} If the file can't be read.
 */
export async function readHalfWay(deadline: Deadline, target: string): Promise<HalfWay | null> {
  const file = join(target, ROLLBACK_FILE);
  if (!await exists(deadline, file)) return null;
  const halfWay = parseHalfWay(await readSmall(deadline, file));
  if (halfWay) return halfWay;
  throw new Failure(
    `"${file}" is damaged, or was written by a newer qmpbackup. It says that the VM's disks were being ` +
      "rolled back: look whether the guest works, and remove it then",
  );
}

/**
 * Says that disks are about to be written.
 *
 * @param mode Of the file.
 */
export async function writeHalfWay(
  deadline: Deadline,
  target: string,
  halfWay: HalfWay,
  mode: number,
): Promise<void> {
  await writeBeside(deadline, target, ROLLBACK_FILE, JSON.stringify(halfWay, null, 2) + "\n", mode);
}

/** All disks are done. */
export async function removeHalfWay(deadline: Deadline, target: string): Promise<void> {
  const file = join(target, ROLLBACK_FILE);
  await removeFile(deadline, file);
  await syncParent(deadline, file);
}

/**
 * Refuses a backup of disks that are half rolled back.
 *
 * @throws {Failure} With what to do.
 */
export async function refuseHalfWay(deadline: Deadline, target: string): Promise<void> {
  const halfWay = await readHalfWay(deadline, target);
  if (halfWay) throw new Failure(halfWayWords(target, halfWay));
}

/** What became of the disks, and what to do. Pure. */
export function halfWayWords(target: string, { since, run, disks }: HalfWay): string {
  const names = (disks.length === 1 ? "disk " : "disks ") +
    disks.map((name) => `"${name}"`).join(", ");
  return `The ${names} of this VM may be half rolled back: a rollback to the run ${run} began at ${since} and ` +
    `did not end. Run "restore rollback --dir ${target} --until ${run}" again, with the flags it had. If the ` +
    `disks were replaced or restored since, remove "${join(target, ROLLBACK_FILE)}" instead`;
}
