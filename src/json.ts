/**
 * JSON from outside. Pure.
 *
 * @module
 */

/** Nothing that we read is nested nearly so deep: a chain of images is some hundred. */
export const MAX_DEPTH = 1_000;

/**
 * As `JSON.parse()`, but what is nested deep is refused at once: V8 takes half a minute, and 700 MB, for
 * 15 MB of "[".
 *
 * @throws {SyntaxError} If it is not JSON, or nested too deep.
 */
export function parseJson(text: string): unknown {
  if (isTooDeep(text)) throw new SyntaxError(`Nested deeper than ${MAX_DEPTH}`);
  return JSON.parse(text);
}

function isTooDeep(text: string): boolean {
  let depth = 0, inString = false;
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (inString) {
      if (c === 0x5c) i++;
      else if (c === 0x22) inString = false;
    } else if (c === 0x22) inString = true;
    else if (c === 0x5b || c === 0x7b) {
      if (++depth > MAX_DEPTH) return true;
    } else if (c === 0x5d || c === 0x7d) depth--;
  }
  return false;
}
