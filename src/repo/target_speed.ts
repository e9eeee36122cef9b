/**
 * How fast a target takes a sample of data, kept with it.
 *
 * @module
 */

import { join } from "@std/path";
import * as v from "valibot";
import type { Deadline } from "../fs/deadline.ts";
import { writeDurably } from "../fs/durable.ts";
import { stat } from "../fs/files.ts";
import { readUpTo } from "../fs/open.ts";
import { parseJson } from "../json.ts";
import { SPEED_FILE } from "./layout.ts";

const Ms = v.pipe(v.number(), v.minValue(0));

const TargetSpeed = v.object({
  /** When it was measured, UTC. */
  measured: v.pipe(v.string(), v.isoTimestamp()),
  /** The number of its file system: on another one it is measured again. */
  device: v.number(),
  /** Past the page cache (O_DIRECT); null if its file system can't do that, "slow" if it took too long. */
  directMs: v.union([Ms, v.literal("slow"), v.null()]),
  /** Through the page cache, and flushed; null if that was not measured. */
  cachedMs: v.union([Ms, v.literal("slow"), v.null()]),
});
export type TargetSpeed = v.InferOutput<typeof TargetSpeed>;

/** Longer than any of ours. */
const MAX_BYTES = 4096;
const KEPT_MS = 30 * 24 * 3600 * 1000;

/** Reads what is kept of a target's speed; null if it is not a speed, or an old one. Pure. */
export function parseSpeed(text: string | null, now: Date, device: number): TargetSpeed | null {
  if (text === null) return null;
  try {
    const speed = v.parse(TargetSpeed, parseJson(text));
    const age = now.getTime() - Date.parse(speed.measured);
    return age >= 0 && age < KEPT_MS && speed.device === device ? speed : null;
  } catch {
    return null;
  }
}

/** What is known of a target's speed; null if it has to be measured. */
export async function readSpeed(deadline: Deadline, target: string): Promise<TargetSpeed | null> {
  try {
    const { dev } = await stat(deadline, target);
    const text = await readUpTo(deadline, join(target, SPEED_FILE), MAX_BYTES);
    return parseSpeed(text, new Date(), dev);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}

/** Keeps what was measured. */
export async function writeSpeed(
  deadline: Deadline,
  target: string,
  measured: Pick<TargetSpeed, "directMs" | "cachedMs">,
  mode: number,
): Promise<TargetSpeed> {
  const { dev: device } = await stat(deadline, target);
  const speed = { measured: new Date().toISOString(), device, ...measured };
  const text = JSON.stringify(speed, null, 2) + "\n";
  await writeDurably(deadline, join(target, SPEED_FILE), text, { mode });
  return speed;
}
