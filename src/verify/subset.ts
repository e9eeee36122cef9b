/**
 * Which share of the contents a verification reads. Pure.
 *
 * Each part of each image has a number, and belongs to one of so many slots; the day tells which slots are
 * read. So the share of a day does not depend on what other images there are, and on seven days in a row 1/7
 * reads everything.
 *
 * @module
 */

import { UsageError } from "../errors.ts";

/** "1/7" or "10%". */
export interface Subset {
  numerator: number;
  denominator: number;
}

export const MAX_DENOMINATOR = 10_000;
/** That of the year 9999 is less. */
export const MAX_DAY = 3_000_000;

/**
 * Reads "1/7" or "10%".
 *
 * @throws {UsageError} If it is neither, nothing, or more than all.
 */
export function parseSubset(text: string): Subset {
  const [, percent, fraction = ""] = /^(\d{1,3})(?:\.(\d{1,2}))?%$/.exec(text) ?? [];
  const [, above, below] = /^(\d{1,5})\/(\d{1,5})$/.exec(text) ?? [];
  const [numerator, denominator] = percent === undefined
    ? [Number(above), Number(below)]
    : [Number(percent + fraction), 100 * 10 ** fraction.length];
  if (numerator >= 1 && numerator <= denominator && denominator <= MAX_DENOMINATOR) {
    const common = commonDivisor(numerator, denominator);
    return { numerator: numerator / common, denominator: denominator / common };
  }
  throw new UsageError(`--subset takes a share such as 10% or 1/7, not "${text}"`);
}

function commonDivisor(a: number, b: number): number {
  return b === 0 ? a : commonDivisor(b, a % b);
}

/** As `parseSubset()` reads it. */
export function subsetText({ numerator, denominator }: Subset): string {
  return `${numerator}/${denominator}`;
}

/** The number of a day in local time: it grows by one from each to the next, summer time or not. */
export function dayOf(date: Date): number {
  return Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) / 86_400_000;
}

function firstSlot({ numerator, denominator }: Subset, day: number): number {
  return (day * numerator) % denominator;
}

/** The slots that are read on a day. Those of the next day follow. */
export function slotsOf({ numerator, denominator }: Subset, day: number): number[] {
  const first = firstSlot({ numerator, denominator }, day);
  return Array.from({ length: numerator }, (_, i) => (first + i) % denominator);
}

/** Whether a part of an image is read on a day. */
export function isInShare(subset: Subset, day: number, image: string, part: number): boolean {
  const { numerator, denominator } = subset;
  const slot = (hashOf(image) + part) % denominator;
  const first = firstSlot(subset, day);
  return (slot - first + denominator) % denominator < numerator;
}

/** FNV-1a: of small images, which have one part, each day has its share as well. */
function hashOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) {
    hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  }
  return hash;
}
