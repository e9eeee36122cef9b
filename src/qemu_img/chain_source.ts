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
  backing: ImageOptions | null;
}

/** `json:{…}` of a chain, whose links in the headers don't matter then. */
export function chainSource(layers: string[], encrypted = NONE): string {
  const options = layers.reduce<ImageOptions | null>(
    (backing, filename) => ({
      driver: "qcow2",
      ...(encrypted.has(filename) ? LUKS : {}),
      file: { driver: "file", filename },
      backing,
    }),
    null,
  );
  return `json:${JSON.stringify(options)}`;
}
