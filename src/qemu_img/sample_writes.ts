/**
 * Writes a sample of data as QEMU's jobs do, to see how fast a file system takes it.
 *
 * Source: qemu-img(1), `bench`.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { qemuImg } from "./qemu_img.ts";

export const SAMPLE_BYTES = 16 << 20;
const CHUNK_BYTES = 256 << 10;
/** What is written at once. */
const DEPTH = 16;
const MAX_MS = 200;

/**
 * Writes a sample to a file of that size.
 *
 * @param cache `none` is past the page cache of the host.
 * @returns How long that took; "slow" if it was not done in time.
 * @throws {QemuImgError} If it can't be written so.
 */
export async function sampleWrites(
  deadline: Deadline,
  path: string,
  cache: "none" | "writeback",
): Promise<number | "slow"> {
  const late = AbortSignal.timeout(MAX_MS);
  const count = SAMPLE_BYTES / CHUNK_BYTES;
  const args = [
    ...["bench", "-w", "-f", "raw", "-t", cache],
    ...["-c", String(count), "-s", String(CHUNK_BYTES), "-d", String(DEPTH), path],
  ];
  try {
    const printed = await qemuImg(deadline, [path], args, { signal: late });
    return Math.round(parseBench(printed) ?? MAX_MS);
  } catch (error) {
    if (late.aborted && error === late.reason) return "slow";
    throw error;
  }
}

/** The milliseconds in what `qemu-img bench` prints. Pure. */
export function parseBench(printed: string): number | null {
  const seconds = /^Run completed in (\d+(?:\.\d+)?) seconds\.$/m.exec(printed)?.[1];
  return seconds === undefined ? null : Number(seconds) * 1000;
}
