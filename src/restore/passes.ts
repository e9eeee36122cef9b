/**
 * How a chain becomes one image: in one pass, or in several where QEMU can't open it well at once.
 * Pure.
 *
 * The chain is spelled out as `json:` options, so that the order is ours and not that of the links, and
 * names are never read as protocols. QEMU's time to open such a chain grows with the square of its
 * length (100 layers 0.4 s, 400 layers 32 s), and the kernel ends an argument at 128 KiB.
 *
 * @module
 */

import { chainSource, type Encrypted } from "../qemu_img/chain_source.ts";

export interface Limits {
  layers: number;
  /** Of the `json:` text. */
  bytes: number;
}

export const LIMITS: Limits = { layers: 100, bytes: 100_000 };

/** One run of `qemu-img convert`: a source in `json:` options, and whether it is the last. */
export interface Pass {
  source: string;
  isLast: boolean;
}

/**
 * Cuts a chain into passes; each but the first builds on what the one before made.
 *
 * @param layers Paths of qcow2 images, the full backup first.
 * @param between Names the image that a pass leaves for the next one.
 */
export function planPasses(
  layers: string[],
  between: (pass: number) => string,
  limits = LIMITS,
  encrypted: Encrypted = new Set(),
): Pass[] {
  const passes: Pass[] = [];
  let open: string[] = [];
  for (const layer of layers) {
    if (open.length > 1 && !fits([...open, layer], limits, encrypted)) {
      passes.push({ source: chainSource(open, encrypted), isLast: false });
      open = [between(passes.length)];
    }
    open.push(layer);
  }
  return [...passes, { source: chainSource(open, encrypted), isLast: true }];
}

function fits(layers: string[], limits: Limits, encrypted: Encrypted): boolean {
  return layers.length <= limits.layers &&
    new TextEncoder().encode(chainSource(layers, encrypted)).length <= limits.bytes;
}

/** `json:{…}` of a raw image, whatever its first bytes look like. */
export function rawSource(filename: string): string {
  return `json:${JSON.stringify({ driver: "raw", file: { driver: "file", filename } })}`;
}
