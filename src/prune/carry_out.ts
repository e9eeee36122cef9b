/**
 * Carries out the steps of a prune, and keeps the records in step with the images. Killed anywhere, every point
 * that is kept can be restored, and the next prune goes on.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { basename, dirname, join } from "@std/path";
import { Failure, messageOf } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { lookAt, makeWritable, tryMode } from "../fs/create.ts";
import {
  exists,
  linkTarget,
  removeFile,
  replaceSymlink,
  setFileTime,
  syncPath,
} from "../fs/durable.ts";
import { sealImage } from "../repo/fingerprint.ts";
import { NEWEST_LINK } from "../repo/layout.ts";
import { type DiskRecord, isAdopted, type RunRecord } from "../repo/record.ts";
import { removeRun, writeRun } from "../repo/repository.ts";
import { NO_MARK, writeMark } from "../repo/run_mark.ts";
import { removeSaved } from "../repo/saved.ts";
import { requireImage } from "../restore/require_image.ts";
import { digestFile } from "../digest/digest.ts";
import { digestsFile, forgetDigest, readDigests, recordDigest } from "../digest/store.ts";
import { link, type MergeContext, MergeError, mergeImages } from "./merge_images.ts";
import { nextStep, type Step } from "./next_step.ts";

const log = getLogger(["qmpbackup", "prune"]);

/** A target whose lock is held: nobody else writes its records. */
export interface HeldTarget {
  /** Absolute. */
  path: string;
  /** In their order; changed along with the files. */
  runs: RunRecord[];
}

/**
 * Gives up points: from now on they are not points any more.
 *
 * @param files Their images, relative to the target; what else such a run has recorded goes too.
 */
export async function giveUp(
  deadline: Deadline,
  target: HeldTarget,
  run: RunRecord,
  files: ReadonlySet<string>,
): Promise<void> {
  run.disks = run.disks.filter(({ file, result }) => files.has(file) || result === "superseded");
  for (const row of run.disks) row.result = "superseded";
  await writeOrRemove(deadline, target, run);
}

/** Removes the records of runs that hold nothing. */
export async function dropRuns(
  deadline: Deadline,
  target: HeldTarget,
  runs: RunRecord[],
): Promise<void> {
  for (const run of runs.toReversed()) {
    run.disks = [];
    await writeOrRemove(deadline, target, run);
  }
}

/**
 * Merges and removes what was given up.
 *
 * @param inUse Asked before each step, for the images that stay as they are: somebody may open one meanwhile.
 * @returns A sentence for each image that could not be merged: all that is kept can be restored as before.
 */
export async function mergeGivenUp(
  target: HeldTarget,
  context: MergeContext,
  inUse: () => Promise<ReadonlySet<string>>,
): Promise<string[]> {
  const problems: string[] = [];
  const skip = new Set<string>();
  const next = async () => nextStep(target.runs, skip, await inUse());
  for (let step = await next(); step; step = await next()) {
    context.signal.throwIfAborted();
    try {
      await carryOut(step, target, context);
    } catch (error) {
      context.signal.throwIfAborted();
      if (!(error instanceof Failure) || (step.kind !== "merge" && step.kind !== "roll")) {
        throw error;
      }
      problems.push(messageOf(error));
      skip.add(topOf(target.runs, step.into.disk).file);
    }
  }
  return problems;
}

/** The kept image that a step was for: a long chain is merged in parts. */
function topOf(runs: RunRecord[], row: DiskRecord): DiskRecord {
  const rows = runs.flatMap(({ disks }) => disks);
  let top = row;
  while (top.result === "superseded") {
    const child = rows.find(({ parent }) => parent === top.file);
    if (!child) break;
    top = child;
  }
  return top;
}

async function carryOut(step: Step, target: HeldTarget, context: MergeContext): Promise<void> {
  switch (step.kind) {
    case "relink":
      return await relink(step, target, context);
    case "merge":
      return await merge(step, target, context);
    case "roll":
      return await roll(step, target, context);
    case "remove":
      return await remove(context.deadline, step, target);
  }
}

/**
 * The new image takes the place of the last one. On top of those before it, it reads the same as that one did, and
 * without them too.
 */
export async function merge(
  { layers, parent, into }: Omit<Step & { kind: "merge" }, "kind">,
  target: HeldTarget,
  context: MergeContext,
) {
  const { run, disk: row } = into;
  log.info("Merging {count} images into {file}", { count: layers.length, file: row.file });
  const keepsDigest = await refuseSpoiled(layers, target, context);
  const { deadline } = context;
  await using image = await mergeImages(layers, parent, context);
  // Between here and the next record nobody can say how it is told.
  delete row.fingerprint;
  await writeRun(deadline, target.path, run);
  await image.publish(join(target.path, row.file));
  row.parent = parent.file;
  row.bytesWritten = image.bytesWritten;
  row.fingerprint = image.fingerprint;
  await writeRun(deadline, target.path, run);
  if (keepsDigest) await recordDigest(deadline, target.path, row.file, context);
}

/**
 * The new full backup comes beside the increment that it is made of, since its name says what it is. It is
 * recorded before it is there, so that no other program seems to have made it.
 */
async function roll(
  { layers, into, file }: Step & { kind: "roll" },
  target: HeldTarget,
  context: MergeContext,
) {
  const { run, disk: row } = into;
  const { deadline } = context;
  log.info("Merging {count} images into {file}", { count: layers.length, file });
  const known = run.disks.find((other) => other.file === file);
  if (!known && await exists(deadline, join(target.path, file))) {
    throw new Failure(
      `"${
        join(target.path, file)
      }" is in the place of the full backup that increments are to be merged into: ` +
        "move it away",
    );
  }
  const keepsDigest = await refuseSpoiled(layers, target, context);
  await using image = await mergeImages(layers, null, context);
  const full: DiskRecord = {
    ...row,
    file,
    level: "full",
    parent: null,
    bytesWritten: image.bytesWritten,
    fingerprint: image.fingerprint,
    result: "superseded",
  };
  run.disks = [...run.disks.filter((other) => other.file !== file), full];
  await writeRun(deadline, target.path, run);
  await image.publish(join(target.path, file));
  full.result = "done";
  row.result = "superseded";
  await writeRun(deadline, target.path, run);
  if (keepsDigest) await recordDigest(deadline, target.path, file, context);
}

/**
 * Compares images with their digests: what is damaged would be merged without a sign of it, and get digests of its
 * own.
 *
 * @returns Whether the last one, whose place the new image takes, has digests.
 * @throws {MergeError} If one is not what it was.
 */
async function refuseSpoiled(
  layers: readonly DiskRecord[],
  target: HeldTarget,
  { deadline, signal }: MergeContext,
): Promise<boolean> {
  let isKept = false;
  for (const { file, fingerprint } of layers) {
    const recorded = await readDigests(deadline, target.path, file);
    isKept = recorded !== null;
    // Of an earlier state they say nothing of this one.
    if (!recorded || recorded.fingerprint?.digest !== fingerprint?.digest) continue;
    const { parts } = await digestFile(deadline, join(target.path, file), { signal });
    if (parts.every((part, index) => part === recorded.parts[index])) continue;
    throw new MergeError(
      `"${
        join(target.path, file)
      }" is damaged: its contents do not match its digests. It is not merged, and ` +
        "stays as it is. Run restore verify, which says where the damage is and what is spoiled",
    );
  }
  return isKept;
}

/** The increment that a full backup was made of goes when what builds on it is linked to the full backup. */
async function relink(
  { child, parent }: Step & { kind: "relink" },
  target: HeldTarget,
  { deadline, signal, keyFile }: MergeContext,
) {
  const { run, disk: row } = child;
  const path = join(target.path, row.file);
  const known = row.fingerprint;
  await requireImage(deadline, path, known);
  const present = await lookAt(deadline, path);
  delete row.fingerprint;
  await writeRun(deadline, target.path, run);
  const mode = await makeWritable(deadline, path);
  try {
    await link(deadline, path, join(target.path, parent.file), dirname(path), {
      signal,
      keyFile: row.encrypted ? keyFile : null,
    });
    await sealImage(deadline, path);
    await setFileTime(deadline, path, present?.mtime ?? null);
    await syncPath(deadline, path);
  } finally {
    await tryMode(deadline, path, mode);
  }
  row.parent = parent.file;
  row.fingerprint = (await requireImage(deadline, path)).fingerprint;
  await writeRun(deadline, target.path, run);
  if (await exists(deadline, digestsFile(target.path, row.file))) {
    await recordDigest(deadline, target.path, row.file, { signal });
  }
}

/** The images first: what is recorded and gone is looked for again, what is not recorded would be a stranger's. */
async function remove(
  deadline: Deadline,
  { points }: Step & { kind: "remove" },
  target: HeldTarget,
) {
  const going = new Set(points.map(({ disk }) => disk));
  const staying = target.runs.flatMap(({ disks }) => disks).filter((disk) => !going.has(disk));
  const kept = new Set(staying.map(({ file }) => file));
  const files = [...going].map(({ file }) => file).filter((file) => !kept.has(file));
  for (const file of files) {
    await leadLinksOn(deadline, join(target.path, file), twinFile(points, staying, file));
    await removeFile(deadline, join(target.path, file));
    await forgetDigest(deadline, target.path, file);
  }
  for (const folder of new Set(files.map((file) => dirname(join(target.path, file))))) {
    await syncPath(deadline, folder);
  }
  for (const { run, disk } of points) {
    run.disks = run.disks.filter((row) => row !== disk);
  }
  for (const run of new Set(points.map(({ run }) => run))) {
    await writeOrRemove(deadline, target, run);
  }
}

/** The image that has taken the place of one that goes, if there is one. */
function twinFile(
  points: { run: RunRecord }[],
  staying: DiskRecord[],
  file: string,
): string | null {
  const rows = points.flatMap(({ run }) => run.disks);
  const row = rows.find((row) => row.file === file);
  const run = points.find(({ run }) => run.disks.some((row) => row.file === file))?.run;
  const twin = run?.disks.find((other) => other.id === row?.id && staying.includes(other));
  return twin ? basename(twin.file) : null;
}

/** `image`, which `restore rebase` makes, and `FULL-<name>` of a full backup without a time. */
async function leadLinksOn(deadline: Deadline, path: string, twin: string | null) {
  for (const name of [NEWEST_LINK, `FULL-${basename(path)}`]) {
    const symlink = join(dirname(path), name);
    if (await linkTarget(deadline, symlink) !== basename(path)) continue;
    if (twin !== null) await replaceSymlink(deadline, symlink, twin);
    else await removeFile(deadline, symlink);
  }
}

/** A record without disks goes, and with it what was said of its run. */
async function writeOrRemove(deadline: Deadline, target: HeldTarget, run: RunRecord) {
  // Without the first one, those of an adoption would seem to be of one that was interrupted.
  const isProof = isAdopted(run) && run.sequence === 1;
  if (run.disks.length > 0 || isProof) {
    await writeRun(deadline, target.path, run);
    return;
  }
  await removeRun(deadline, target.path, run);
  await writeMark(deadline, target.path, run.id, NO_MARK);
  await removeSaved(deadline, target.path, run.id);
  target.runs.splice(target.runs.indexOf(run), 1);
}
