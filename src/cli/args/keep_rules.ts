/**
 * What is to be kept, from the flags. Pure.
 *
 * @module
 */

import { UsageError } from "../../errors.ts";
import { parseDuration } from "../../duration.ts";
import { type KeepRules, keepsAnything } from "../../prune/policy.ts";
import type { Values } from "./parse.ts";

/**
 * Reads the `--keep-…` flags.
 *
 * @returns Null where none was given.
 * @throws {UsageError} If they keep nothing, or one can't be read.
 */
export function keepRules(values: Values): KeepRules | null {
  const counts = {
    last: values["keep-last"],
    hourly: values["keep-hourly"],
    daily: values["keep-daily"],
    weekly: values["keep-weekly"],
    monthly: values["keep-monthly"],
    yearly: values["keep-yearly"],
  };
  const given = Object.entries(counts).filter(([, count]) => count !== undefined);
  const text = values["keep-within"];
  if (given.length === 0 && text === undefined) return null;
  const within = text === undefined ? null : parseDuration(text);
  if (text !== undefined && within === null) {
    throw new UsageError(
      `--keep-within takes years, months, days and hours, such as 30d or 1y6m, not "${text}"`,
    );
  }
  const rules: KeepRules = { ...Object.fromEntries(given), ...(within ? { within } : {}) };
  if (keepsAnything(rules)) return rules;
  throw new UsageError("These --keep flags keep nothing: give one of them a number above 0");
}
