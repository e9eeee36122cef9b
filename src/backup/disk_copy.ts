/**
 * The contract of the ways to copy one disk: `fleeced.ts`, `direct.ts` and `compared.ts`. A run (`run.ts`) goes
 * through these steps for each of its disks and knows nothing of how a way takes them; `ways.ts` says which way
 * a disk goes.
 *
 * @module
 */

import type { BlockNode } from "../qmp/queries.ts";
import type { DiskPlan } from "../plan/plan.ts";
import type { SentinelRecord } from "../vm/sentinel.ts";
import type { ImageFile } from "./image_file.ts";

export interface CopyOptions {
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
  /** All nodes of QEMU, asked for once for all disks, after the point in time. */
  nodes(): Promise<BlockNode[]>;
}

export interface DiskCopy {
  readonly disk: DiskPlan;
  readonly file: ImageFile;

  /** Makes the image. All disks share the target: what fails here is the failure of the run. */
  openImage(): Promise<void>;

  /**
   * Makes what lies on the storage of the disk itself, or beside it.
   *
   * @param warn Gets a sentence if something can't be had that the backup does not need.
   * @returns The sentinel that the disk has from now on; null where it could not be made.
   */
  prepare(warn: (sentence: string) => void): Promise<SentinelRecord | null>;

  /** Right before the point in time: the guest's writes still go as they did. */
  beforeMoment(): Promise<void>;
  /** The point in time is the next thing that QEMU is told. */
  atMoment(): void;
  /** Right after it. */
  afterMoment(): Promise<void>;

  /**
   * Copies the disk, or what of it has changed; frees the guest, and closes and checks the image.
   *
   * @throws {Failure} If the copy failed, or the image can't be closed or does not pass its check.
   */
  copy(options: CopyOptions): Promise<void>;

  /** Instead of `copy()`, for a disk that has failed before: takes away all that was done for it. */
  giveUp(): Promise<void>;
  /** Stops reading the disk, before anything of any disk is taken away. */
  stop(): Promise<void>;

  /** The image's file and the next bitmap stay, whatever is taken away later. */
  keepResult(): void;
  /** Takes away all that is not to stay. May be called again. */
  unwind(): Promise<void>;
}

/** How all disks of a run are taken at one moment: QEMU does it for all of them, or for none. */
export interface Moment {
  take(disks: DiskPlan[]): Promise<unknown>;
  /** Asks QEMU the same for one disk, and changes nothing. */
  probe(disk: DiskPlan): Promise<unknown>;
}
