/**
 * Spans of time as restic writes them: "30d", "2y5m7d3h". Pure.
 *
 * @module
 */

/** A number of calendar years, months and days, and of hours. */
export interface Duration {
  years: number;
  months: number;
  days: number;
  hours: number;
}

/** More than that would lead before any date that there is. */
const MAX_COUNT = 9_999;

/** Reads a duration; null if the text is not one, or lasts for nothing. */
export function parseDuration(text: string): Duration | null {
  const match = /^(?:(\d{1,5})y)?(?:(\d{1,5})m)?(?:(\d{1,5})d)?(?:(\d{1,5})h)?$/.exec(text);
  if (!match) return null;
  const [years, months, days, hours] = match.slice(1).map((digits) => Number(digits ?? 0)) as [
    number,
    number,
    number,
    number,
  ];
  const counts = [years, months, days, hours];
  if (counts.every((count) => count === 0) || counts.some((count) => count > MAX_COUNT)) {
    return null;
  }
  return { years, months, days, hours };
}

/** The moment so long before another, by the local calendar: a month before October 31 is October 1. */
export function before(timeMs: number, { years, months, days, hours }: Duration): number {
  const date = new Date(timeMs);
  date.setFullYear(date.getFullYear() - years, date.getMonth() - months, date.getDate() - days);
  return date.getTime() - hours * 3_600_000;
}
