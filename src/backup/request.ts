/**
 * What a user asks of a backup.
 *
 * @module
 */

export type Level = "copy" | "full" | "inc" | "auto";

export interface BackupRequest {
  level: Level;
  /** Absolute. */
  target: string;
  /** Names of disks to take, by node or device; all where it is empty. */
  include: string[];
  exclude: string[];
  /** Raw disks too, whose bitmap lives only as long as QEMU does. */
  includeRaw: boolean;
  /** The chain's id for a new target. */
  uuid: string | null;
  /** 0 is no limit. */
  speedLimitBytesPerSecond: number;
  compress: boolean;
  /** Absolute; null is beside each disk. */
  fleeceDir: string | null;
}
