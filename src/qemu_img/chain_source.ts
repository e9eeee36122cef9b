/**
 * A chain as `qemu-img` is told to open it. Pure.
 *
 * @module
 */

import { LUKS } from "./key.ts";

/** The paths of the images that are encrypted. */
export type Encrypted = ReadonlySet<string>;
const NONE: Encrypted = new Set();

interface ImageOptions {
  driver: "qcow2";
  encrypt?: typeof LUKS.encrypt;
  file: { driver: "file"; filename: string };
  backing: ImageOptions | null | undefined;
}

/** `json:{…}` of a chain, whose links in the headers don't matter then. */
export function chainSource(layers: string[], encrypted = NONE): string {
  return sourceOf(layers, null, encrypted);
}

/** As `chainSource()`, but what lies below the first image is told by its own header. */
export function linkedSource(layers: string[], encrypted = NONE): string {
  return sourceOf(layers, undefined, encrypted);
}

function sourceOf(layers: string[], below: null | undefined, encrypted: Encrypted): string {
  const options = layers.reduce<ImageOptions | null | undefined>(
    (backing, filename) => ({
      driver: "qcow2",
      ...(encrypted.has(filename) ? LUKS : {}),
      file: { driver: "file", filename },
      backing,
    }),
    below,
  );
  return `json:${JSON.stringify(options)}`;
}

/** The source of data that nobody reads, and that QEMU does not take for zeroes. */
export function notZeroes(size: number): string {
  return `json:${JSON.stringify({ driver: "null-co", size, "read-zeroes": false })}`;
}
