/**
 * What every fuzz test is made of: many inputs, a seed to repeat them by, and bounds.
 *
 * fast-check draws the inputs, and makes one that fails smaller. Where that is too slow for a hundred
 * thousand, it draws the seed of `Dice` alone.
 *
 * @module
 */

import fc from "fast-check";
import { assertEquals, AssertionError, assertLess } from "@std/assert";
import type { Watched } from "./_watchdog.ts";

/** How often each parser gets something to parse. */
export const INPUTS = 100_000;

/** No input may take longer: a pause of the machine's is far shorter, a parser that hangs is not. */
const MAX_INPUT_MS = 90_000;

/** A test that takes longer hangs in one input, where nothing but the end of the process helps. */
const MAX_TEST_MS = 900_000;

const watchdog = new Worker(new URL("./_watchdog.ts", import.meta.url), { type: "module" });
const watch = (watched: Watched) => watchdog.postMessage(watched);
addEventListener("unload", () => watchdog.terminate());

/** Another one each time, unless one is to be repeated. */
const SEED = Number(Deno.env.get("QMPBACKUP_TEST_SEED") ?? Math.trunc(Math.random() * 2 ** 31));

export interface FuzzOptions {
  inputs?: number;
  /** A parser is pure, and needs none. */
  permissions?: Deno.PermissionOptions;
}

/**
 * Registers a test that shows many inputs to `look`, which throws at what must not be. The test's name
 * bears the seed, so that it is known even if the test hangs.
 */
export function fuzz<T>(
  name: string,
  inputs: fc.Arbitrary<T>,
  look: (input: T) => void | Promise<void>,
  { inputs: numRuns = INPUTS, permissions = "none" }: FuzzOptions = {},
) {
  const testName = `${name} (QMPBACKUP_TEST_SEED=${SEED})`;
  const fn = async () => {
    watch({ name: testName, limitMs: MAX_TEST_MS });
    const unhandled: unknown[] = [];
    const listener = (event: PromiseRejectionEvent) => {
      event.preventDefault();
      unhandled.push(event.reason);
    };
    addEventListener("unhandledrejection", listener);
    const timed = async (input: T) => {
      const startMs = performance.now();
      await look(input);
      assertLess(performance.now() - startMs, MAX_INPUT_MS, "An input took too long");
    };
    try {
      await fc.assert(fc.asyncProperty(inputs, timed), { numRuns, seed: SEED });
      // The event of a promise comes after the turn it was rejected in.
      await new Promise((resolve) => setTimeout(resolve));
      assertEquals(unhandled, []);
    } finally {
      watch(null);
      removeEventListener("unhandledrejection", listener);
    }
  };
  Deno.test({ name: testName, permissions, fn });
}

/**
 * Does what may fail in one way only.
 *
 * @returns What `act` returns; undefined where it failed as it may.
 * @throws {AssertionError} If it throws anything else.
 */
export function mayThrow<T, E extends Error>(
  // deno-lint-ignore no-explicit-any
  errorClass: abstract new (...args: any[]) => E,
  act: () => T,
): T | undefined {
  try {
    return act();
  } catch (error) {
    refuseOther(errorClass, error);
    return undefined;
  }
}

/** As `mayThrow()`, of a promise. */
export async function mayReject<T, E extends Error>(
  // deno-lint-ignore no-explicit-any
  errorClass: abstract new (...args: any[]) => E,
  promise: Promise<T>,
): Promise<T | undefined> {
  try {
    return await promise;
  } catch (error) {
    refuseOther(errorClass, error);
    return undefined;
  }
}

function refuseOther(
  // deno-lint-ignore no-explicit-any
  errorClass: abstract new (...args: any[]) => Error,
  error: unknown,
) {
  // Its stack is slow to come by.
  if (error instanceof errorClass) return;
  const words = error instanceof Error ? error.stack : String(error);
  throw new AssertionError(`Expected ${errorClass.name}, got ${words}`, { cause: error });
}

/** Random numbers that a seed repeats: xorshift, since it is called millions of times. */
export class Dice {
  #state: number;

  constructor(seed: number) {
    // Seeds side by side must not begin alike, and xorshift stays at 0.
    this.#state = Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) || 1;
    for (let i = 0; i < 4; i++) this.#next();
  }

  #next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** A whole number from 0 up to, but not including, `end`. */
  below(end: number): number {
    return this.#next() % end;
  }

  /** True once in `times`. */
  once(times: number): boolean {
    return this.below(times) === 0;
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)] as T;
  }

  /** An array of up to `maxLength` things. */
  some<T>(maxLength: number, make: () => T): T[] {
    return Array.from({ length: this.below(maxLength + 1) }, make);
  }
}

/** Dice, thrown anew for each input; a seed can't be made smaller. */
export const dice: fc.Arbitrary<number> = fc.noShrink(fc.integer());
