/**
 * What booting a point in time gave, as a file keeps it: `_qmpbackup/booted/….json`.
 *
 * @module
 */

import * as v from "valibot";
import { brief } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { parseJson } from "../json.ts";
import { BOOTED_FOLDER } from "../repo/layout.ts";
import { readResultFiles, writeResultFile } from "../repo/results.ts";

const time = v.pipe(v.string(), v.isoTimestamp());

const BootResult = v.object({
  format: v.literal("qmpbackup-booted"),
  version: v.literal(1),
  started: time,
  /** The run whose point it was; null where there are no records. */
  runId: v.nullable(v.string()),
  pointInTime: time,
  /** The newest image of each disk, relative to the target. */
  images: v.array(v.string()),
  booted: v.boolean(),
  /** What was waited for. */
  waitedFor: v.picklist(["agent", "text", "shutdown", "exit"]),
  seconds: v.pipe(v.number(), v.minValue(0)),
  /** Why it did not; null if it did. */
  reason: v.nullable(v.string()),
  host: v.string(),
  qemu: v.string(),
});
/** What booting a point in time gave. */
export type BootResult = v.InferOutput<typeof BootResult>;

export const BOOT_HEAD = { format: "qmpbackup-booted", version: 1 } as const;

const MAX_RESULT_BYTES = 1 << 20;

/** Decodes a result; null if it is not one. Pure. */
export function parseBootResult(text: string): BootResult | null {
  try {
    return v.parse(BootResult, parseJson(text), { abortEarly: true });
  } catch {
    return null;
  }
}

/**
 * All results that can be read, the newest first.
 *
 * @param place A target, or a disk's folder where there are no records.
 */
export async function readBootResults(deadline: Deadline, place: string): Promise<BootResult[]> {
  const parse = (_path: string, text: string) => parseBootResult(text);
  return (await readResultFiles(deadline, place, BOOTED_FOLDER, MAX_RESULT_BYTES, parse))
    .toReversed();
}

/** Keeps a result, and removes the oldest where there are very many. */
export async function writeBootResult(
  deadline: Deadline,
  place: string,
  result: BootResult,
): Promise<void> {
  const reason = result.reason === null ? null : brief(result.reason);
  const text = JSON.stringify({ ...result, reason }, null, 1) + "\n";
  await writeResultFile(deadline, place, BOOTED_FOLDER, result.started, text);
}
