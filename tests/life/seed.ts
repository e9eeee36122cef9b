/**
 * Which life it is, and what it was like.
 *
 * @module
 */

import type { Tally } from "./life.ts";

/** `QMPBACKUP_TEST_SEED`, or a new one. */
export function seedOf(): number {
  const given = Deno.env.get("QMPBACKUP_TEST_SEED");
  if (given === undefined) return crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
  const seed = Number(given);
  if (!Number.isInteger(seed)) throw new Error(`QMPBACKUP_TEST_SEED="${given}" is no whole number`);
  return seed;
}

/** One line: how many steps of which kind, and how many points were compared. */
export function describeTally({ steps, kinds, compared }: Tally): string {
  const each = [...kinds].sort(([a], [b]) => a < b ? -1 : 1).map(([kind, n]) => `${n} × ${kind}`);
  return `${steps} steps, ${compared} times a point compared (${each.join(" · ")})`;
}
