/**
 * Carries out what `in_place.ts` has planned, and keeps the records in step with the images.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { dirname, relative } from "@std/path";
import { removeFile, syncPath } from "../catalog/durable.ts";
import type { DiskRecord, RunRecord } from "../catalog/record.ts";
import { readTarget, type Target, writeRun } from "../catalog/target.ts";
import { qemuImg } from "../image/qemu_img.ts";
import { commandOf, shellText, type Step } from "./in_place.ts";

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

async function applyStep(step: Step, argv: string[], target: string | null, signal: AbortSignal) {
  switch (step.kind) {
    case "commit":
      if (target) await updateRecords(target, (row, name) => supersede(row, name(step.base)));
      await qemuImg(argv.slice(1), { signal });
      return await syncPath(step.base);
    case "link":
    case "snapshot":
      await qemuImg(argv.slice(1), { signal });
      return await syncPath(step.path);
    case "record":
      if (!target) return;
      return await updateRecords(
        target,
        (row, name) => moveInto(row, name(step.path), name(step.base)),
      );
    case "remove":
      await removeFile(step.path);
      return await syncPath(dirname(step.path));
    case "symlink":
      return await replaceSymlink(step.path, step.to);
  }
}

/** The full backup is about to hold more than its point in time. */
function supersede(row: DiskRecord, base: string): boolean {
  if (row.file !== base || row.result !== "done") return false;
  row.result = "superseded";
  return true;
}

/** The full backup holds an increment's contents now: its point lies there, and so does what builds on it. */
function moveInto(row: DiskRecord, file: string, base: string): boolean {
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

/**
 * Changes rows of the records, the later runs' first: then an interruption leaves no row whose parent
 * is not recorded.
 *
 * @param change Returns whether it changed the row; gets the function that makes a path relative to
 * the target.
 */
async function updateRecords(
  target: string,
  change: (row: DiskRecord, name: (path: string) => string) => boolean,
): Promise<void> {
  const { runs }: Target = await readTarget(target);
  const name = (path: string) => relative(target, path);
  for (const run of runs.toReversed()) {
    if (changeRows(run, (row) => change(row, name))) await writeRun(target, run);
  }
}

function changeRows(run: RunRecord, change: (row: DiskRecord) => boolean): boolean {
  return run.disks.map(change).includes(true);
}

async function replaceSymlink(path: string, to: string) {
  const fresh = `${path}.new`;
  await removeFile(fresh);
  await Deno.symlink(to, fresh);
  await Deno.rename(fresh, path);
  await syncPath(dirname(path));
}
