/**
 * Carries out what `in_place.ts` has planned, and keeps the records in step with the images.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { dirname, join, relative } from "@std/path";
import { images } from "../catalog/chains.ts";
import { removeFile, replaceSymlink, syncPath } from "../catalog/durable.ts";
import type { DiskRecord } from "../catalog/record.ts";
import { readTarget, updateRows } from "../catalog/target.ts";
import { qemuImg } from "../image/qemu_img.ts";
import { commandOf, type Step } from "./in_place.ts";
import { shellText } from "../shell.ts";

const log = getLogger(["qmpbackup", "restore"]);

export interface ApplyOptions {
  /** Of commits; 0 is no limit. */
  rateLimitBytesPerSecond: number;
  signal: AbortSignal;
}

/**
 * Carries out the steps, one after the other. Stopped anywhere, the chain can be restored, and the
 * whole can be run again.
 *
 * @param target Whose records name the images; null for a folder without records.
 * @throws {QemuImgError} If `qemu-img` fails.
 */
export async function applySteps(
  steps: Step[],
  target: string | null,
  options: ApplyOptions,
): Promise<void> {
  for (const step of steps) {
    options.signal.throwIfAborted();
    const argv = commandOf(step, options.rateLimitBytesPerSecond);
    if (argv) log.info("{command}", { command: shellText(argv) });
    await applyStep(step, argv ?? [], target, options.signal);
  }
}

/**
 * Removes what an interrupted `commit` had recorded as given up and not removed yet.
 *
 * @param dir The disk's folder.
 */
export async function removeGivenUp(target: string, dir: string): Promise<void> {
  const rows = images((await readTarget(target)).runs).map(({ disk }) => disk);
  const isNeeded = (file: string) =>
    rows.some(({ parent, file: other, result }) =>
      parent === file || (other === file && result === "done")
    );
  for (const { file, result } of rows) {
    const path = join(target, file);
    if (result === "superseded" && dirname(path) === dir && !isNeeded(file)) await removeFile(path);
  }
}

async function applyStep(step: Step, argv: string[], target: string | null, signal: AbortSignal) {
  switch (step.kind) {
    case "commit":
      // The full backup is about to hold more than its point in time.
      if (target) await updateRows(target, (row) => supersede(row, relative(target, step.base)));
      await qemuImg(argv.slice(1), { signal });
      return await syncPath(step.base);
    case "link":
    case "snapshot":
      await qemuImg(argv.slice(1), { signal });
      return await syncPath(step.path);
    case "record":
      if (!target) return;
      return await updateRows(
        target,
        (row) => moveInto(row, relative(target, step.path), relative(target, step.base)),
      );
    case "remove":
      await removeFile(step.path);
      return await syncPath(dirname(step.path));
    case "symlink": {
      const warning = await replaceSymlink(step.path, step.to);
      if (warning !== null) log.warn("{warning}", { warning });
    }
  }
}

function supersede(row: DiskRecord, base: string): boolean {
  if (row.file !== base || row.result !== "done") return false;
  row.result = "superseded";
  return true;
}

/** The full backup holds an increment's contents now: its point lies there, and so does what builds on it. */
function moveInto(row: DiskRecord, file: string, base: string): boolean {
  if (row.file === base && row.result === "superseded") {
    // The two change names: the increment's is what is no point any more, and may be removed.
    row.file = file;
    row.parent = null;
    return true;
  }
  if (row.file === file) {
    row.file = base;
    row.parent = null;
    row.level = "full";
    return true;
  }
  if (row.parent !== file) return false;
  row.parent = base;
  return true;
}
