/**
 * How things are written for people. Pure.
 *
 * @module
 */

import { format as formatBytes } from "@std/fmt/bytes";

/** A size in binary units: "1.5 GiB". */
export function size(sizeBytes: number): string {
  return formatBytes(sizeBytes, { binary: true });
}

/** A time left: "1:02:03", "4:05". */
export function clock(seconds: number): string {
  const whole = Math.round(seconds);
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const shown = parts[0] === 0 ? parts.slice(1) : parts;
  return shown.map((part, i) => i === 0 ? String(part) : String(part).padStart(2, "0")).join(":");
}

/**
 * What a terminal would obey: control characters, line ends, and what turns a line's direction
 * (Unicode's `Bidi_Control`).
 */
const OBEYED = /[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu;

/** Takes from a text what a terminal would obey: it becomes visible. */
export function printable(text: string): string {
  return text.replace(OBEYED, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
}

/** JSON in which nothing can drive a terminal. It means the same: these characters stand in strings. */
export function printableJson(value: unknown, indent = 0): string {
  return JSON.stringify(value, null, indent).replace(
    OBEYED,
    (c) => c === "\n" ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Columns as wide as their widest cell. The last one is not padded. */
export function table(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map(printable));
  const widths: number[] = [];
  for (const row of cells) {
    row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, [...cell].length));
  }
  const pad = (cell: string, i: number) => cell + " ".repeat((widths[i] ?? 0) - [...cell].length);
  return cells.map((row) => row.map(pad).join("  ").trimEnd() + "\n").join("");
}
