/**
 * Carries out what `in_place.ts` has planned, and keeps the records in step with the images.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { dirname, join, relative, resolve } from "@std/path";
import { images } from "../repo/chains.ts";
import { forgetDigest } from "../digest/store.ts";
import { makeWritable, tryMode } from "../fs/create.ts";
import { exists, removeFile, replaceSymlink, syncPath } from "../fs/durable.ts";
import { allocatedBytes } from "../fs/files.ts";
import { type Fingerprint, sealImage } from "../repo/fingerprint.ts";
import type { DiskRecord } from "../repo/record.ts";
import { readTarget, updateRows } from "../repo/repository.ts";
import { Failure } from "../errors.ts";
import { qemuImg } from "../qemu_img/qemu_img.ts";
import { commandOf, type Step } from "./in_place.ts";
import { renewDigests, takeDigests } from "./renew_digests.ts";
import { requireImage } from "./require_image.ts";
import { shellText } from "../shell.ts";

const log = getLogger(["qmpbackup", "restore"]);

export interface ApplyOptions {
  /** Of commits; 0 is no limit. */
  rateLimitBytesPerSecond: number;
  deadline: Deadline;
  signal: AbortSignal;
  /** Throws if one of the images is open elsewhere. Asked after the records say what is about to change. */
  refuseOpen?(): Promise<void>;
  /** What tells each image, by its path: it is looked at again when its turn comes. */
  known?: ReadonlyMap<string, Fingerprint>;
  /** Record the digests of what was changed. */
  digest: boolean;
}

/**
 * Carries out the steps, one after the other. Stopped anywhere, the chain can be restored, and the
 * whole can be run again.
 *
 * @param target Whose records name the images; null for a folder without records.
 * @throws {QemuImgError} If `qemu-img` fails.
 * @throws {Failure} If an image was changed by somebody else.
 */
export async function applySteps(
  steps: Step[],
  target: string | null,
  options: ApplyOptions,
): Promise<void> {
  const { deadline } = options;
  const written = new Set(steps.flatMap(writtenBy));
  const now = new Map(options.known);
  // Of what is stopped half way, nobody can say how it is told.
  if (target) {
    await updateRows(deadline, target, (row) => forget(row, written.has(join(target, row.file))));
  }
  await options.refuseOpen?.();
  const digests = await takeDigests(deadline, target, written);
  const modes = new Map<string, number>();
  try {
    for (const path of written) modes.set(path, await makeWritable(deadline, path));
    for (const step of steps) {
      options.signal.throwIfAborted();
      await requireOwn(deadline, step, now);
      const argv = commandOf(step, options.rateLimitBytesPerSecond);
      if (argv) log.info("{command}", { command: shellText(argv) });
      await applyStep(step, argv ?? [], target, options);
      for (const path of writtenBy(step)) {
        now.set(path, (await requireImage(deadline, path)).fingerprint);
      }
    }
    if (target) {
      const sealed = await sealAll(deadline, target, written);
      await updateRows(deadline, target, (row) => recordSealed(row, sealed.get(row.file)));
    }
    if (options.digest) {
      const linked = new Set(steps.flatMap((step) => step.kind === "link" ? [step.path] : []));
      const filled = new Set(steps.flatMap((step) => step.kind === "link" ? [] : writtenBy(step)));
      const warnings = await renewDigests(
        deadline,
        target,
        digests,
        linked.difference(filled),
        options.signal,
      );
      for (const warning of warnings) log.warn("{warning}", { warning });
    }
  } finally {
    for (const [path, mode] of modes) {
      if (await exists(deadline, path)) await tryMode(deadline, path, mode);
    }
  }
}

/**
 * Looks at the images that a step writes to: another one may have been put in the place of one, and lead to
 * any file of this machine.
 *
 * @throws {Failure} If that is so.
 */
async function requireOwn(deadline: Deadline, step: Step, known: ReadonlyMap<string, Fingerprint>) {
  for (const path of writtenBy(step)) {
    const { backing } = await requireImage(deadline, path, known.get(path));
    if (step.kind !== "commit") continue;
    const parent = backing === null ? null : resolve(dirname(path), backing);
    if (parent === (path === step.base ? null : step.base)) continue;
    throw new Failure(
      `"${path}" was linked to "${parent}" by another program meanwhile: make sure that no other ` +
        "program works in its folder, and run again",
    );
  }
}

/** The images that a step writes to; `qemu-img commit` opens the one that it reads for writing, too. */
export function writtenBy(step: Step): string[] {
  if (step.kind === "commit") return [step.path, step.base];
  return step.kind === "link" || step.kind === "snapshot" ? [step.path] : [];
}

function forget(row: DiskRecord, isWritten: boolean): boolean {
  if (!isWritten || row.fingerprint === undefined) return false;
  delete row.fingerprint;
  return true;
}

/** What the record of an image that was written to has to say. */
type Sealed = Required<Pick<DiskRecord, "fingerprint" | "bytesWritten">>;

/** @returns Those that are still there, by their paths in the target. */
async function sealAll(
  deadline: Deadline,
  target: string,
  paths: Iterable<string>,
): Promise<Map<string, Sealed>> {
  const sealed = new Map<string, Sealed>();
  for (const path of paths) {
    if (!await exists(deadline, path)) continue;
    await sealImage(deadline, path);
    const { fingerprint } = await requireImage(deadline, path);
    sealed.set(relative(target, path), {
      fingerprint,
      bytesWritten: await allocatedBytes(deadline, path),
    });
  }
  return sealed;
}

function recordSealed(row: DiskRecord, sealed: Sealed | undefined): boolean {
  if (!sealed || (row.result !== "done" && row.result !== "superseded")) return false;
  Object.assign(row, sealed);
  return true;
}

/**
 * Removes what an interrupted `commit` had recorded as given up and not removed yet.
 *
 * @param dir The disk's folder.
 */
export async function removeGivenUp(
  deadline: Deadline,
  target: string,
  dir: string,
): Promise<void> {
  const rows = images((await readTarget(deadline, target)).runs).map(({ disk }) => disk);
  const isNeeded = (file: string) =>
    rows.some(({ parent, file: other, result }) =>
      parent === file || (other === file && result === "done")
    );
  for (const { file, result } of rows) {
    const path = join(target, file);
    if (result === "superseded" && dirname(path) === dir && !isNeeded(file)) {
      await removeFile(deadline, path);
      await forgetDigest(deadline, target, file);
    }
  }
}

async function applyStep(
  step: Step,
  argv: string[],
  target: string | null,
  { deadline, signal }: ApplyOptions,
) {
  switch (step.kind) {
    case "commit":
      // The full backup is about to hold more than its point in time.
      if (target) {
        await updateRows(deadline, target, (row) => supersede(row, relative(target, step.base)));
      }
      await qemuImg(deadline, [step.path], argv.slice(1), { signal });
      return await syncPath(deadline, step.base);
    case "link":
    case "snapshot":
      await qemuImg(deadline, [step.path], argv.slice(1), { signal });
      return await syncPath(deadline, step.path);
    case "record":
      if (!target) return;
      return await updateRows(
        deadline,
        target,
        (row) => moveInto(row, relative(target, step.path), relative(target, step.base)),
      );
    case "remove":
      await removeFile(deadline, step.path);
      return await syncPath(deadline, dirname(step.path));
    case "symlink": {
      const warning = await replaceSymlink(deadline, step.path, step.to);
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
    // The two change names: the increment's is what is not a point any more, and may be removed.
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
