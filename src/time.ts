/**
 * How times are written for people: local, with the offset, everywhere. Pure.
 *
 * @module
 */

/** Local time with its zone: "2026-11-22 23:11:35 +0100". */
export function localTime(date: Date): string {
  const two = (value: number) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-");
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(":");
  const offset = -date.getTimezoneOffset();
  const zone = two(Math.floor(Math.abs(offset) / 60)) + two(Math.abs(offset) % 60);
  return `${day} ${time} ${offset < 0 ? "-" : "+"}${zone}`;
}

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

/** How long something lasted, or how old it is, in one unit: "40 s", "90 min", "26 h", "3 days". */
export function span(ms: number): string {
  const [unitMs, name] = ms < 2 * MINUTE_MS
    ? [1000, "s"]
    : ms < 2 * HOUR_MS
    ? [MINUTE_MS, "min"]
    : ms < 2 * DAY_MS
    ? [HOUR_MS, "h"]
    : [DAY_MS, "days"];
  return `${Math.floor(ms / unitMs)} ${name}`;
}
