/**
 * Nonsense to parse: what is almost right, and what is not right at all.
 *
 * @module
 */

import type { Dice } from "./_fuzz.ts";

const encoder = new TextEncoder();

/** Names that mean something to JavaScript, to a file system, to a terminal or to us. */
const WORDS = [
  ...["", ".", "..", "/", "//", "../../etc/passwd", "a/b", "/a/b/", "a\0b", "a\nb", "\x1b[2J"],
  ...["__proto__", "constructor", "toString", "length", "then", "hasOwnProperty"],
  ...["null", "0", "-1", "1e999", "NaN", "disk0", "id", "return", "error", "name", "json:{}"],
  ...["json:", 'json:{"file":{"filename":"/vm/a.qcow2"}}', "rbd:pool/image:id=a", "nbd://h/e"],
  ...["Ünïcode €𝄞", "\ud800", "\udfff\ud800", "\u202e", "\ufeff", "\ufffd", "e\u0301"],
  ...["2026-01-01T00:00:00Z", "2026-02-31T00:00:00.000Z", "2026-01-01T00:00:00+99:99"],
  ...["FULL-1-a", "INC-999999999999-a.qcow2", "COPY-0-.partial", "uuid", "_qmpbackup", "image"],
  ...["x".repeat(300), "€".repeat(100), "a.".repeat(200), "/".repeat(500) + "a", "(".repeat(500)],
];
const NUMBERS = [
  ...[0, -0, 1, -1, 2, 4096, 65536, 0.5, -1.5, 2 ** 31, 2 ** 32, 2 ** 53, 2 ** 53 + 2, 2 ** 63],
  ...[1e21, 1e308, -1e308, 5e-324, Infinity, -Infinity],
];

/** Any word: one with a meaning, or letters. */
export function word(dice: Dice): string {
  if (!dice.once(3)) return dice.pick(WORDS);
  return String.fromCodePoint(...dice.some(8, () => dice.below(dice.pick([0x80, 0x800, 0xd800]))));
}

/** Any value that JSON can give; too large numbers are Infinity, as `JSON.parse()` makes them. */
export function anyJson(dice: Dice, depth = 3): unknown {
  switch (dice.below(depth > 0 ? 8 : 5)) {
    case 0:
      return null;
    case 1:
      return dice.once(2);
    case 2:
    case 3:
      return word(dice);
    case 4:
      return dice.pick(NUMBERS);
    case 5:
      return dice.some(4, () => anyJson(dice, depth - 1));
    default:
      return Object.fromEntries(dice.some(4, () => [word(dice), anyJson(dice, depth - 1)]));
  }
}

/** A copy of a value in which one place, chosen on the way down, was changed. */
export function distort(dice: Dice, value: unknown): unknown {
  const isInside = typeof value === "object" && value !== null;
  const keys = isInside ? Object.keys(value) : [];
  if (!isInside || keys.length === 0 || dice.once(12)) return anyJson(dice);
  const entries = Object.entries(value);
  const at = dice.below(entries.length);
  const [key, inner] = entries[at] as [string, unknown];
  const changed: [string, unknown][] = dice.once(4)
    ? dice.pick([[], [[word(dice), inner]], [[key, inner], [word(dice), anyJson(dice)]]])
    : [[key, distort(dice, inner)]];
  entries.splice(at, 1, ...changed);
  return Array.isArray(value) ? entries.map(([, item]) => item) : Object.fromEntries(entries);
}

/** JSON that is almost right: up to three places of it were changed. */
export function nearlyRight(dice: Dice, value: unknown): unknown {
  let result = value;
  for (let n = dice.below(4); n > 0; n--) result = distort(dice, result);
  return result;
}

/** The text of a value, in which Infinity is what `JSON.parse()` reads as that. */
export function jsonText(value: unknown, space?: number): string {
  const text = JSON.stringify(
    value,
    (_, item) => item === Infinity ? "\0+" : item === -Infinity ? "\0-" : item,
    space,
  ) ?? "null";
  return text.replaceAll('"\\u0000+"', "1e999").replaceAll('"\\u0000-"', "-1e999");
}

const SCRAPS = [
  ...["{", "}", "[", "]", '"', "\\", ":", ",", "\n", "\0", "1e999", "-", "\\u", "\\ud800", "true"],
  ...['{"', '"}', "{}", "[]", '{"return":{}}', '{"id":1}', "[".repeat(500), '{"a":'.repeat(500)],
].map((text) => encoder.encode(text));
const STRAY_BYTES = [[0xff], [0x80], [0xc3], [0xed, 0xa0, 0x80], [0xf4, 0x90, 0x80, 0x80], [0]]
  .map((bytes) => new Uint8Array(bytes));

/** Bytes with some places flipped, cut out, doubled or filled with scraps; or cut off. */
export function mutate(dice: Dice, bytes: Uint8Array): Uint8Array {
  let result = bytes;
  for (let n = 1 + dice.below(4); n > 0; n--) {
    const at = dice.below(result.length + 1);
    const to = Math.min(result.length, at + dice.below(16));
    const before = result.subarray(0, at), after = result.subarray(at);
    switch (dice.below(7)) {
      case 0:
        result = result.slice();
        if (at < result.length) result[at] = dice.below(256);
        break;
      case 1:
        result = before;
        break;
      case 2:
        result = join(before, result.subarray(to));
        break;
      case 3:
        result = join(before, result.subarray(at, to), after);
        break;
      case 4:
        result = join(before, dice.pick(STRAY_BYTES), after);
        break;
      default:
        result = join(before, dice.pick(SCRAPS), after);
    }
  }
  return result;
}

/** Bytes that were never right. */
export function anyBytes(dice: Dice, maxLength = 40): Uint8Array {
  if (dice.once(2)) return join(...dice.some(6, () => dice.pick(SCRAPS.slice(0, -2))));
  return new Uint8Array(dice.some(maxLength, () => dice.below(256)));
}

/** Text with such places. */
export function mutateText(dice: Dice, text: string): string {
  return new TextDecoder().decode(mutate(dice, encoder.encode(text)));
}

export function join(...parts: Uint8Array[]): Uint8Array {
  const result = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    result.set(part, at);
    at += part.length;
  }
  return result;
}

/** Cuts bytes into pieces, wherever. */
export function pieces(dice: Dice, bytes: Uint8Array): Uint8Array[] {
  const result: Uint8Array[] = [];
  const longest = Math.max(dice.pick([1, 3, 20, 1000]), bytes.length >> 5);
  for (let at = 0; at < bytes.length;) {
    const end = at + 1 + dice.below(longest);
    result.push(bytes.subarray(at, end));
    at = end;
  }
  return result;
}
