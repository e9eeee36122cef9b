/**
 * What is taken of a disk: everything, or what changed, and how that is known. Pure.
 *
 * @module
 */

import type { Point } from "../repo/chains.ts";
import type { DiskLevel } from "../repo/layout.ts";
import { Failure } from "../errors.ts";
import type { Disk } from "../vm/disks.ts";
import { incrementalBase } from "./incremental_base.ts";
import type { BackupRequest } from "./request.ts";

/** What is taken of a disk. */
export interface LevelPlan {
  level: DiskLevel;
  reason: string;
  /** The image it builds on, relative to the target and in the same folder. */
  parent: string | null;
  /** The bitmap that has recorded since the last backup: what an increment copies. */
  previousBitmap: string | null;
  /** No bitmap knows what changed: all of the disk is compared with the parent. */
  compare: boolean;
  /** How much is to be copied, as far as that is known. */
  estimateBytes: number;
}

/**
 * Decides.
 *
 * @param fault What is wrong with an image or with what it builds on; or null.
 * @param foreign An image in the disk's folder that no record knows.
 * @param due Why `auto` takes a full backup in any case; null where it does not.
 * @throws {Failure} If what was asked for can't be taken.
 */
export function levelOf(
  { level: asked, onLostBitmap, encrypt }: BackupRequest,
  disk: Disk,
  last: Point | undefined,
  fault: (file: string) => string | null,
  foreign: string | undefined,
  due: string | null = null,
): LevelPlan {
  const whole = {
    parent: null,
    previousBitmap: null,
    compare: false,
    estimateBytes: disk.allocatedBytes,
  };
  if (asked === "copy") return { ...whole, level: "copy", reason: "asked for" };
  if (disk.format === "qcow2" && !disk.holdsBitmaps) {
    throw new Failure(
      `The disk "${disk.name}" is a qcow2 image of version 2, which can't hold a bitmap: use ` +
        "--level copy, or upgrade it while the VM is off (qemu-img amend -o compat=1.1)",
    );
  }
  if (asked === "full") return { ...whole, level: "full", reason: "asked for" };
  if (asked === "auto" && due !== null) return { ...whole, level: "full", reason: due };
  const basis = incrementalBase(disk, last, fault, foreign);
  if (basis.usable) {
    return {
      level: "inc",
      reason: asked === "inc" ? "asked for" : "the last backup and its bitmap are there",
      parent: basis.last.disk.file,
      previousBitmap: basis.bitmap,
      compare: false,
      estimateBytes: basis.dirtyBytes,
    };
  }
  if (basis.last && onLostBitmap === "compare") {
    return {
      level: "inc",
      reason: `compared with the last backup: ${basis.reason}`,
      parent: basis.last.disk.file,
      previousBitmap: null,
      compare: true,
      // Not known before all is read.
      estimateBytes: 0,
    };
  }
  if (asked === "inc") {
    const orCompare = basis.last && !encrypt ? ", or add --on-lost-bitmap compare" : "";
    throw new Failure(
      `No increment can be taken of the disk "${disk.name}": ${basis.reason}. ` +
        `Use --level auto (a full backup of the disks that need one) or --level full${orCompare}`,
    );
  }
  return { ...whole, level: "full", reason: basis.reason };
}
