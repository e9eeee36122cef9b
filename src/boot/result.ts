/**
 * What booting a point in time gave, as a file keeps it: `_qmpbackup/booted/….json`.
 *
 * @module
 */

import { join } from "@std/path";
import * as v from "valibot";
import { brief } from "../errors.ts";
import { lookAt } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { createInside, removeFile, writeDurably } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import { readUpTo } from "../fs/open.ts";
import { parseJson } from "../json.ts";
import { BOOTED_FOLDER, RECORDS_FOLDER, runId } from "../repo/layout.ts";

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
  waitedFor: v.picklist(["agent", "text", "shutdown"]),
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
/** More than a year of nights; what is older goes. */
const KEPT = 400;

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
  const folder = join(place, BOOTED_FOLDER);
  const results: BootResult[] = [];
  for (const name of await resultFiles(deadline, folder)) {
    const text = await readUpTo(deadline, join(folder, name), MAX_RESULT_BYTES);
    const result = text === null ? null : parseBootResult(text);
    if (result) results.push(result);
  }
  return results.toReversed();
}

/** The oldest first: they begin with their time. */
async function resultFiles(deadline: Deadline, folder: string): Promise<string[]> {
  if (!(await lookAt(deadline, folder))?.isDirectory) return [];
  const names = (await listFolder(deadline, folder)).map(({ name }) => name);
  return names.filter((name) => name.endsWith(".json")).sort();
}

/** Keeps a result, and removes the oldest where there are very many. */
export async function writeBootResult(
  deadline: Deadline,
  place: string,
  result: BootResult,
): Promise<void> {
  const folder = join(place, BOOTED_FOLDER);
  for (const name of [RECORDS_FOLDER, BOOTED_FOLDER]) {
    await createInside(deadline, join(place, name));
  }
  const id = runId(new Date(result.started), crypto.randomUUID().slice(0, 8));
  const reason = result.reason === null ? null : brief(result.reason);
  const text = JSON.stringify({ ...result, reason }, null, 1) + "\n";
  await writeDurably(deadline, join(folder, `${id}.json`), text);
  for (const name of (await resultFiles(deadline, folder)).slice(0, -KEPT)) {
    await removeFile(deadline, join(folder, name));
  }
}
