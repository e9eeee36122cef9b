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

/** "1 image", "3 images". */
export function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
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

/** A column that would be narrower than this goes to a line of its own. */
const NARROWEST = 24;
/** How far the second line of a row is indented. */
const INDENT = 4;

/**
 * Columns as wide as their widest cell. The last one is not padded.
 *
 * @param columns The terminal's width: what does not fit goes on in the next line, below its column, or
 * indented if there is no room for it.
 */
export function table(rows: readonly (readonly string[])[], columns = Infinity): string {
  const cells = rows.map((row) => row.map(printable));
  const widths: number[] = [];
  for (const row of cells) {
    row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, lengthOf(cell)));
  }
  const lines = linesOf(widths, columns);
  return cells.map((row) => {
    const parts = lines.map((line, n) => drawLine(line.map((i) => row[i] ?? ""), line, n));
    return parts.filter((text) => text !== "").join("");
  }).join("");

  function drawLine(words: string[], line: number[], n: number): string {
    if (words.every((word) => word === "")) return n === 0 ? "\n" : "";
    const start = n === 0 ? 0 : INDENT;
    const last = words.pop() ?? "";
    const head = " ".repeat(start) +
      words.map((word, i) => word + " ".repeat((widths[line[i] ?? 0] ?? 0) - lengthOf(word) + 2))
        .join("");
    const below = "\n" + " ".repeat(lengthOf(head));
    return (head + wrapped(last, columns - lengthOf(head)).join(below)).trimEnd() + "\n";
  }
}

/** Which columns stand in which line of a row. */
function linesOf(widths: number[], columns: number): number[][] {
  const lines: number[][] = [[]];
  let used = 0;
  widths.forEach((width, i) => {
    const isLast = i === widths.length - 1;
    const needed = isLast ? Math.min(width, NARROWEST) : width;
    if (used + needed > columns && lines.at(-1)?.length) {
      lines.push([]);
      used = INDENT;
    }
    lines.at(-1)?.push(i);
    used += width + 2;
  });
  return lines;
}

/** A text in lines of so many letters, cut between words where that is possible. */
export function wrapped(text: string, columns: number): string[] {
  if (lengthOf(text) <= columns || columns < 1) return [text];
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && lengthOf(line) + 1 + lengthOf(word) > columns) {
      lines.push(line);
      line = "";
    }
    line = line === "" ? word : `${line} ${word}`;
    for (let letters = [...line]; letters.length > columns; letters = [...line]) {
      lines.push(letters.slice(0, columns).join(""));
      line = letters.slice(columns).join("");
    }
  }
  return line === "" ? lines : [...lines, line];
}

/** A text of so many letters at most; a cut is marked. */
export function cut(text: string, columns: number): string {
  const letters = [...text];
  return letters.length <= columns
    ? text
    : letters.slice(0, Math.max(0, columns - 1)).join("") + "…";
}

const lengthOf = (text: string) => [...text].length;
