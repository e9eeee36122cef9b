/**
 * Finds out how a target takes many data fastest. That is looked for once in a while, and kept with the target.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { Failure, messageOf } from "../errors.ts";
import { createFile } from "../fs/create.ts";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { removeFile, syncPath } from "../fs/durable.ts";
import { freeBytes } from "../fs/files.ts";
import { MEASURED_FROM_BYTES } from "../plan/writing.ts";
import type { BackupRequest } from "../plan/request.ts";
import { SAMPLE_BYTES, sampleWrites } from "../qemu_img/sample_writes.ts";
import { reserve } from "../qemu_img/reserve.ts";
import { SPEED_SAMPLE } from "../repo/layout.ts";
import { readSpeed, type TargetSpeed, writeSpeed } from "../repo/target_speed.ts";
import type { Disk } from "../vm/disks.ts";

const log = getLogger(["qmpbackup", "backup"]);

/**
 * How fast a target takes a sample, measured in half a second at most, or as it is kept.
 *
 * @returns Null if that is not needed, or can't be told.
 */
export async function measureTarget(
  deadline: Deadline,
  { target, mode, directTarget, digest }: BackupRequest,
  disks: readonly Disk[],
): Promise<TargetSpeed | null> {
  const allocated = disks.reduce((sum, { allocatedBytes }) => sum + allocatedBytes, 0);
  if (directTarget !== null || digest || allocated < MEASURED_FROM_BYTES) return null;
  try {
    const known = await readSpeed(deadline, target);
    if (known) return known;
    // Where there is so little room, the backup will say so.
    if (await freeBytes(deadline, target) < 4 * SAMPLE_BYTES) return null;
    return await writeSpeed(deadline, target, await measure(deadline, target, mode), mode);
  } catch (error) {
    if (error instanceof HangingError) throw error;
    log.debug("The speed of {target} was not measured: {words}", {
      target,
      words: messageOf(error),
    });
    return null;
  }
}

/** The target is locked, so nobody else measures it. */
async function measure(
  deadline: Deadline,
  target: string,
  mode: number,
): Promise<Pick<TargetSpeed, "directMs" | "cachedMs">> {
  const path = join(target, SPEED_SAMPLE);
  await removeFile(deadline, path);
  await createFile(deadline, path, mode);
  try {
    // As QEMU's `preallocate` has it.
    await reserve(deadline, path, SAMPLE_BYTES);
    const directMs = await sampleWrites(deadline, path, "none").catch((error) => {
      if (error instanceof Failure && !(error instanceof HangingError)) return null;
      throw error;
    });
    // What takes so long without the page cache would only wait in it.
    if (typeof directMs !== "number") return { directMs, cachedMs: null };
    const cachedMs = await sampleWrites(deadline, path, "writeback");
    if (cachedMs === "slow") return { directMs, cachedMs };
    const start = performance.now();
    await syncPath(deadline, path, SAMPLE_BYTES);
    return { directMs, cachedMs: Math.round(cachedMs + performance.now() - start) };
  } finally {
    await removeFile(deadline, path);
  }
}
