/**
 * Which life it is, and what it was like.
 *
 * @module
 */

import type { Tally } from "./world.ts";

/** `QMPBACKUP_TEST_SEED`, or a new one. */
export function seedOf(): number {
  const [random = 0] = crypto.getRandomValues(new Uint32Array(1));
  return numberOf("QMPBACKUP_TEST_SEED", random % 1_000_000);
}

/** A whole number from the environment. */
export function numberOf(name: string, otherwise: number): number {
  const text = Deno.env.get(name);
  const number = text === undefined ? otherwise : Number(text);
  if (!Number.isInteger(number)) throw new Error(`${name}="${text}" is no whole number`);
  return number;
}

/** What was done and looked at. */
export function describeTally({ steps, runs, taken, compared }: Tally): string {
  const each = [...runs].sort(([a], [b]) => a < b ? -1 : 1).map(([run, n]) => `  ${n} × ${run}`);
  return `${steps} steps, ${taken} restore points taken, ${compared} times one compared\n` +
    each.join("\n");
}
