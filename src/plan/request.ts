/**
 * What a user asks of a backup.
 *
 * @module
 */

import type { FullEvery } from "./full_every.ts";
import type { SavedFile } from "../repo/saved.ts";

export type Level = "copy" | "full" | "inc" | "auto";

export interface BackupRequest {
  level: Level;
  /** When `auto` takes a full backup though an increment could be taken; null is never. */
  fullEvery: FullEvery | null;
  /** Of new files; folders can be entered by those who may read. */
  mode: number;
  /** Absolute. */
  target: string;
  /** The target is that of a month, beside those of other months. */
  monthly: boolean;
  /** Names of disks to take, by node or device; all where it is empty. */
  include: string[];
  exclude: string[];
  /** Raw disks too. Their bitmaps are lost when QEMU ends. */
  includeRaw: boolean;
  /** The chain's id for a new target. */
  uuid: string | null;
  /** 0 is no limit. */
  speedLimitBytesPerSecond: number;
  /** Files to keep beside the run. */
  save: SavedFile[];
  /** How the images are compressed; null is not at all. zlib stands in where QEMU has no zstd. */
  compress: "zstd" | "zlib" | null;
  /** Encrypt the images. In a plan: whether that is done. */
  encrypt: boolean;
  /** The file with the key of encrypted images, absolute; null where none is given. In a plan: null if not used. */
  keyFile: string | null;
  /** What `auto` and `inc` do about a disk whose bitmap was lost: back up all of it, or find what changed. */
  onLostBitmap: "full" | "compare";
  /** Absolute; null is beside each disk. */
  fleeceDir: string | null;
  /** Freeze the guest's file systems: "try" goes on with a warning where that can't be done. */
  quiesce: "no" | "try" | "require";
  /** Stop the guest for the point in time, even for a single disk. */
  pause: boolean;
  /** How long a guest's write may wait for the fleece before the snapshot is given up; null is for ever. */
  cbwTimeoutSeconds: number | null;
  /** Write the image past the host's page cache (O_DIRECT); null is as it is faster. */
  directTarget: boolean | null;
  /** How QEMU writes the target's file; null is its default. */
  targetAio: "threads" | "io_uring" | null;
  /** A folder for each disk. */
  subdir: boolean;
  /** Full backups and copies have level and time in their names, not just the name of the disk's file. */
  timestamp: boolean;
  /** Beside a full backup without a time, a link `FULL-<name>`. */
  symlink: boolean;
  /** Compare each new image with the point in time before that is given up. */
  verify: boolean;
  /** Record the digests of each new image. */
  digest: boolean;
  /** How long a job, or a file system, may make no progress before it is given up. */
  stallTimeoutMs: number;
  /** Between a disk's last byte and the closing of its image. */
  removeDelayMs: number;
}
