/**
 * How the new images are written, and why so. Pure.
 *
 * Through the page cache of the host, the time for many data is that of the kernel's writing it back, with the
 * memory of all programs pushed out meanwhile. Past it (O_DIRECT), with blocks set aside ahead of the writes
 * (QEMU's `preallocate`), storage that takes many writes at once is several times as fast.
 *
 * @module
 */

import type { Features } from "../qmp/schema.ts";
import type { TargetSpeed } from "../repo/target_speed.ts";
import type { BackupRequest } from "./request.ts";

export interface Writing {
  /** Past the page cache of the host (O_DIRECT). */
  direct: boolean;
  /** Blocks that QEMU sets aside at once, and gives back when it closes the image; 0 is none. */
  preallocBytes: number;
  aio: BackupRequest["targetAio"];
  /** For the log. */
  reason: string;
}

/** Less than this is in the page cache, and on the storage, before it matters. */
const MANY_BYTES = 256 << 20;
const PREALLOC_BYTES = 128 << 20;

/** What is preferred even if it takes a little longer: it leaves the page cache to others. */
const DIRECT_BONUS = 1.25;

/** @param estimateBytes What all disks together will store. */
export function chooseWriting(
  { directTarget, targetAio, compress, digest }: BackupRequest,
  { fleecing, preallocate }: Pick<Features, "fleecing" | "preallocate">,
  estimateBytes: number,
  speed: TargetSpeed | null,
): Writing {
  const isMuch = estimateBytes >= MANY_BYTES;
  const preallocBytes = preallocate && fleecing && isMuch ? PREALLOC_BYTES : 0;
  const direct = (reason: string) => ({ direct: true, preallocBytes, aio: targetAio, reason });
  const cached = (reason: string) => (
    { direct: false, preallocBytes: 0, aio: targetAio, reason }
  );
  if (directTarget !== null) {
    return directTarget ? direct("asked for") : cached("asked for");
  }
  if (!isMuch) return cached("it is little");
  // Compressed clusters end within blocks, which would be read again to be written.
  if (compress !== null) return cached("the image is compressed");
  // Read from the storage, the digests of a gigabyte took longer than what was saved (8.2 s, 4.2 s through it).
  if (digest) return cached("its digests are read from there");
  if (!fleecing) return cached("guest writes wait for the target");
  if (speed === null) return cached("the target was not measured");
  const { directMs, cachedMs } = speed;
  if (directMs === null) return cached("the target's file system has no O_DIRECT");
  const words = `a sample takes ${describe(directMs)} past the page cache`;
  if (directMs === "slow") return direct(words);
  const both = `${words}, ${describe(cachedMs)} through it`;
  const isFaster = typeof cachedMs === "number" && cachedMs * DIRECT_BONUS < directMs;
  return isFaster ? cached(both) : direct(both);
}

function describe(ms: TargetSpeed["cachedMs"]): string {
  return typeof ms === "number" ? `${ms} ms` : "too long";
}

/** From so much on that the disks have allocated, a target is measured. */
export const MEASURED_FROM_BYTES = 1 << 30;
