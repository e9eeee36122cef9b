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

/** Increments that become one image first. Two times so many take QEMU six times as long to open. */
export const GROUP_LIMITS: Limits = { layers: 50, bytes: 100_000 };

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

/**
 * Cuts the increments of a chain that does not fit into groups, each of which becomes one image. So each increment
 * is copied twice, and the full backup once, where a pass after the other would copy it each time.
 *
 * @param layers Paths of qcow2 images, the full backup first.
 * @returns The groups in order; none where the chain fits as it is.
 */
export function planGroups(
  layers: string[],
  encrypted: Encrypted = new Set(),
  limits = LIMITS,
  groupLimits = GROUP_LIMITS,
): string[][] {
  if (layers.length < 3 || fits(layers, limits, encrypted)) return [];
  const groups: string[][] = [];
  for (const layer of layers.slice(1)) {
    const open = groups.at(-1);
    if (open && (open.length < 2 || fits([...open, layer], groupLimits, encrypted))) {
      open.push(layer);
    } else groups.push([layer]);
  }
  return groups;
}

function fits(layers: string[], limits: Limits, encrypted: Encrypted): boolean {
  return layers.length <= limits.layers &&
    new TextEncoder().encode(chainSource(layers, encrypted)).length <= limits.bytes;
}

/** `json:{…}` of a raw image, whatever its first bytes look like. */
export function rawSource(filename: string): string {
  return `json:${JSON.stringify({ driver: "raw", file: { driver: "file", filename } })}`;
}
