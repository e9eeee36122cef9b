/**
 * When a chain that could go on begins again with a full backup (`--full-every`). Pure.
 *
 * @module
 */

import { before, type Duration, parseDuration } from "../duration.ts";
import type { Point } from "../repo/chains.ts";

/** What makes a new full backup due. */
export type FullEvery =
  /** The last one is so old. */
  | { kind: "age"; text: string; duration: Duration }
  /** So many increments build on it. */
  | { kind: "count"; count: number }
  /** They have so many times its bytes. */
  | { kind: "ratio"; ratio: number };

/** Reads "30d", "20" or "ratio:1.0"; null if the text is none of these. */
export function parseFullEvery(text: string): FullEvery | null {
  if (/^\d{1,6}$/.test(text)) {
    const count = Number(text);
    return count > 0 ? { kind: "count", count } : null;
  }
  const [, digits] = /^ratio:(\d{1,6}(?:\.\d{1,6})?)$/.exec(text) ?? [];
  if (digits !== undefined) {
    const ratio = Number(digits);
    return ratio > 0 ? { kind: "ratio", ratio } : null;
  }
  const duration = parseDuration(text);
  return duration && { kind: "age", text, duration };
}

/**
 * Says why a full backup is due.
 *
 * @param chain What the next increment would build on, the full backup first.
 * @returns Null if none is.
 */
export function dueFull(chain: readonly Point[], rule: FullEvery, nowMs: number): string | null {
  const [full, ...increments] = chain;
  if (!full) return null;
  switch (rule.kind) {
    case "age": {
      const timeMs = Date.parse(full.run.pointInTime ?? full.run.started);
      const isOld = timeMs <= before(nowMs, rule.duration);
      return isOld ? `the last full backup is older than ${rule.text} (--full-every)` : null;
    }
    case "count":
      return increments.length >= rule.count
        ? `the last full backup has ${increments.length} increments (--full-every ${rule.count})`
        : null;
    case "ratio": {
      const bytes = increments.reduce((sum, { disk }) => sum + disk.bytesWritten, 0);
      return bytes >= full.disk.bytesWritten * rule.ratio
        ? `the increments have ${rule.ratio} times the bytes of the last full backup (--full-every)`
        : null;
    }
  }
}
