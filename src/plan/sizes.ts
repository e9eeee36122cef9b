/**
 * How large images become. Pure.
 *
 * @module
 */

import type { DiskLevel } from "../repo/layout.ts";
import type { Disk } from "../vm/disks.ts";

/**
 * qcow2's own tables: 8 bytes for a cluster and 2 for its reference count, for the smallest cluster
 * in common use, and some for the header.
 */
export function metadataBytes(disk: Disk): number {
  const clusters = Math.ceil(disk.virtualSizeBytes / (disk.clusterSizeBytes ?? 65536));
  return clusters * 10 + (1 << 20);
}

/** What a full image, or one with so much of the disk in it, takes at most. */
export function neededBytes(disk: Disk, changedBytes = disk.virtualSizeBytes): number {
  // A change of one byte of what a bitmap tells apart (64 KiB) copies a whole cluster.
  const spread = Math.max(1, (disk.clusterSizeBytes ?? 65536) / 65536);
  return Math.min(disk.virtualSizeBytes, changedBytes * spread) + metadataBytes(disk);
}

/** What is reserved for an increment beyond what has changed so far: the guest goes on writing. */
const RESERVE_FACTOR = 2;
const RESERVE_BYTES = 256 << 20;

/** What to reserve for a backup that reads from the disk itself. */
export function reserveBytes(disk: Disk, level: DiskLevel, changedBytes: number): number {
  if (level !== "inc") return neededBytes(disk);
  return neededBytes(disk, changedBytes * RESERVE_FACTOR + RESERVE_BYTES);
}
