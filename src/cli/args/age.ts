import { UsageError } from "../../errors.ts";

const UNITS_MS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

/**
 * Reads how old something may be: "26h", "90m", "2d".
 *
 * @returns Milliseconds.
 * @throws {UsageError} If it is not one.
 */
export function parseAge(flag: string, text: string): number {
  const [, digits = "", unit = ""] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const ms = Number(digits) * UNITS_MS[(unit || "s") as keyof typeof UNITS_MS];
  if (ms > 0) return ms;
  throw new UsageError(`--${flag} takes a time such as 26h, 90m or 2d, not "${text}"`);
}
