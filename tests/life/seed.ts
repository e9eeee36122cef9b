/**
 * Which life it is, and what it was like.
 *
 * @module
 */

import type { Tally } from "./world.ts";

/** `QMPBACKUP_TEST_SEED`, or a new one. */
export function seedOf(): number {
  const given = Deno.env.get("QMPBACKUP_TEST_SEED");
  if (given === undefined) return crypto.getRandomValues(new Uint32Array(1))[0]! >>> 1;
  const seed = Number(given);
  if (!Number.isInteger(seed)) throw new Error(`QMPBACKUP_TEST_SEED="${given}" is no whole number`);
  return seed;
}

/** What was done and looked at. */
export function describeTally({ steps, runs, taken, compared }: Tally): string {
  const each = [...runs].sort(([a], [b]) => a < b ? -1 : 1).map(([run, n]) => `  ${n} × ${run}`);
  return `${steps} steps, ${taken} restore points taken, ${compared} times one compared\n` +
    each.join("\n");
}
