/**
 * Cuts names to a length in bytes, as file systems count it. Pure.
 *
 * @module
 */

/** Cuts a name to so many bytes, from its start: the end is what tells names apart. */
export function shortName(name: string, maxBytes: number): string {
  const letters = [...name];
  let first = 0;
  for (let left = sizeBytes(name); left > maxBytes; first++) {
    left -= sizeBytes(letters[first] ?? "");
  }
  return letters.slice(first).join("");
}

/** The length of a text in bytes (UTF-8). */
export function sizeBytes(text: string): number {
  return new TextEncoder().encode(text).length;
}
