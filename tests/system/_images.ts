/**
 * Images made with QEMU's tools alone, and what a guest would read from them.
 *
 * @module
 */

import { qemuImg, qemuIo } from "../support/qemu_img.ts";

/** A write of one byte's value: offset, length, value. */
export type Write = readonly [offset: number, length: number, value: number];

export const KIB = 1024;

/**
 * Makes a qcow2 image that holds just these writes, as the reference leaves one: without a link.
 *
 * @param options.link What to write into its header as the parent, unseen.
 */
export async function makeLayer(
  path: string,
  sizeBytes: number,
  writes: readonly Write[],
  options: { link?: string; clusterBytes?: number; isCompressed?: boolean } = {},
): Promise<void> {
  const { link, clusterBytes = 64 * KIB, isCompressed = false } = options;
  const format = `compat=1.1,cluster_size=${clusterBytes}`;
  const how = isCompressed ? `${format},compression_type=zstd` : format;
  await qemuImg(["create", "-q", "-f", "qcow2", "-o", how, path, String(sizeBytes)]);
  for (const [offset, length, value] of writes) {
    // A zero is written as one that hides what lies below.
    const how = value === 0 ? "-z" : `${isCompressed ? "-c " : ""}-P ${value}`;
    await qemuIo(path, "qcow2", `write -q ${how} ${offset} ${length}`);
  }
  if (link) await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", link, path]);
}

/** What a guest reads when all writes were done in this order. */
export function contentsOf(sizeBytes: number, writes: readonly Write[]): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  for (const [offset, length, value] of writes) bytes.fill(value, offset, offset + length);
  return bytes;
}

/** What a guest reads from an image. */
export async function readImage(path: string, format: "qcow2" | "raw"): Promise<Uint8Array> {
  if (format === "raw") return await Deno.readFile(path);
  const raw = `${path}.read`;
  await qemuImg(["convert", "-f", format, "-O", "raw", path, raw]);
  try {
    return await Deno.readFile(raw);
  } finally {
    await Deno.remove(raw);
  }
}

/** Whether two contents are the same; a difference of megabytes is no use to anybody. */
export function firstDifference(a: Uint8Array, b: Uint8Array): string | null {
  if (a.length !== b.length) return `${a.length} bytes and ${b.length} bytes`;
  const at = a.findIndex((byte, i) => byte !== b[i]);
  return at < 0 ? null : `at ${at}: ${a[at]} and ${b[at]}`;
}

/** The names in a folder, sorted. */
export async function names(path: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name).sort();
}

/** Runs at most `width` at a time: as many as there are processors is quickest. */
export async function inParallel<T, R>(
  items: readonly T[],
  run: (item: T) => Promise<R>,
  width = Math.max(2, navigator.hardwareConcurrency),
): Promise<R[]> {
  const results: R[] = [];
  const queue = items.entries();
  const worker = async () => {
    for (const [index, item] of queue) results[index] = await run(item);
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}
