/**
 * What a verification found, as a file keeps it: `_qmpbackup/verified/….json`. Pure.
 *
 * @module
 */

import * as v from "valibot";
import { brief, Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { MAX_DAY, MAX_DENOMINATOR, slotsOf } from "./subset.ts";

const FORMAT = "qmpbackup-verified";
const VERSION = 1;

/** A file of results that can't be believed. */
export class ResultError extends Failure {
  override name = "ResultError";
}

const count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const time = v.pipe(
  v.string(),
  v.isoTimestamp(),
  v.check((text) => !Number.isNaN(Date.parse(text)), "is not a time"),
);

const Result = v.object({
  format: v.literal(FORMAT),
  version: v.literal(VERSION),
  started: time,
  finished: time,
  tool: v.string(),
  /** The one disk's folder that was verified; null for all. */
  folder: v.nullable(v.string()),
  /** The share of the contents that was read; null for all. The day decides which. */
  subset: v.nullable(
    v.pipe(
      v.object({
        numerator: v.pipe(count, v.minValue(1)),
        denominator: v.pipe(count, v.maxValue(MAX_DENOMINATOR)),
        day: v.pipe(count, v.maxValue(MAX_DAY)),
      }),
      v.check(({ numerator, denominator }) => numerator <= denominator, "is more than all"),
    ),
  ),
  images: count,
  points: count,
  readBytes: count,
  /** The images whose digests were recorded, since they had none. */
  recorded: count,
  damages: v.array(v.object({
    file: v.string(),
    range: v.nullable(v.object({ offset: count, length: count })),
    reason: v.string(),
    spoils: v.boolean(),
  })),
  /** The restore points that need a damaged file. */
  spoiled: v.array(v.string()),
});
export type VerifyResult = v.InferOutput<typeof Result>;

/** What a new result starts from. */
export const RESULT_HEAD = { format: FORMAT, version: VERSION } as const;

export const MAX_RESULT_BYTES = 4 << 20;
const MAX_ROWS = 1_000;

/** The text of a result's file; of very many damages the first are kept. */
export function formatResult(result: VerifyResult): string {
  return JSON.stringify(
    {
      ...result,
      damages: result.damages.slice(0, MAX_ROWS)
        .map((damage) => ({ ...damage, reason: brief(damage.reason) })),
      spoiled: result.spoiled.slice(0, MAX_ROWS),
    },
    null,
    1,
  ) + "\n";
}

/**
 * Decodes a result.
 *
 * @throws {ResultError} If it is none.
 */
export function parseResult(name: string, text: string): VerifyResult {
  let json: unknown;
  try {
    json = parseJson(text);
  } catch {
    throw new ResultError(`"${name}" is not JSON`);
  }
  const result = v.safeParse(Result, json, { abortEarly: true });
  if (result.success) return result.output;
  throw new ResultError(`"${name}" is not a result of ours: ${brief(result.issues[0].message)}`);
}

/**
 * The results that hold now: the newest of the whole target, and of each disk that was verified alone after it.
 *
 * @param results In any order.
 * @returns The newest first.
 */
export function presentResults(results: readonly VerifyResult[]): VerifyResult[] {
  const present: VerifyResult[] = [];
  for (const result of newestFirst(results)) {
    if (present.some(({ folder }) => folder === null || folder === result.folder)) continue;
    present.push(result);
  }
  return present;
}

export function newestFirst(results: readonly VerifyResult[]): VerifyResult[] {
  return results.toSorted((a, b) => Date.parse(b.started) - Date.parse(a.started));
}

/** Since when all contents of a target have been read, in one go or share by share; null if they were not. */
export function allReadSince(results: readonly VerifyResult[]): string | null {
  const missing = new Map<number, Set<number>>();
  for (const { folder, subset, started } of newestFirst(results)) {
    if (folder !== null) continue;
    if (subset === null) return started;
    const { denominator, day } = subset;
    const all = () => Array.from({ length: denominator }, (_, slot) => slot);
    const rest = missing.get(denominator) ?? new Set(all());
    for (const slot of slotsOf(subset, day)) rest.delete(slot);
    if (rest.size === 0) return started;
    missing.set(denominator, rest);
  }
  return null;
}
