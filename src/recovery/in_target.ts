/**
 * Finds what dead runs have left on a target, and beside the disks.
 *
 * @module
 */

import { basename, join } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { lookAt } from "../fs/create.ts";
import { exists, removeFile } from "../fs/durable.ts";
import { rename } from "../fs/files.ts";
import { takeDeadLock } from "../fs/flock.ts";
import { images } from "../repo/chains.ts";
import {
  isFleeceOf,
  parseImageName,
  partialName,
  REPLACED_SUFFIX,
  targetOfLock,
} from "../repo/layout.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import {
  pruneLeftovers,
  readTarget,
  recordFile,
  refuseLinks,
  refuseShared,
  removePruneFolder,
  type Target,
  temporaries,
  writeRun,
} from "../repo/repository.ts";
import { removeSaved, savedFolder } from "../repo/saved.ts";
import type { VmHolder } from "../vm/lock.ts";
import type { Leftover } from "./leftover.ts";

/**
 * Finds the files of the runs that died on this target, and their records, which are still open. The
 * target is locked by the caller, so that a record that says "running" is a dead run's.
 *
 * @param mode Of files that are made there; see `refuseShared()`.
 */
export async function findInTarget(
  deadline: Deadline,
  target: Target,
  mode?: number,
): Promise<Leftover[]> {
  await refuseLinks(deadline, target);
  await refuseShared(deadline, target, mode);
  const leftovers = [
    ...await findTemporaries(deadline, target),
    ...await findUnmerged(deadline, target),
    ...findHalfAdopted(deadline, target),
    ...await findReplaced(deadline, target),
  ];
  // Two dead runs of the same second may have the same file.
  const settled = new Set(images(target.runs).map(({ disk }) => join(target.path, disk.file)));
  for (const run of target.runs.filter(({ state }) => state !== "done")) {
    // A run that failed may have left files, too: QEMU still had them open. The fleece of a disk that is done may
    // also be left.
    for (const disk of run.disks) {
      leftovers.push(...await findFiles(deadline, target.path, run, disk, settled));
    }
    if (run.state !== "running") continue;
    if (await exists(deadline, savedFolder(target.path, run.id))) {
      leftovers.push({
        description: `Removing the files saved by the run ${run.id}, which died`,
        repair: () => removeSaved(deadline, target.path, run.id),
      });
    }
    leftovers.push({
      description: `Closing the record of the run ${run.id}, which died`,
      repair: () => writeRun(deadline, target.path, failed(run)),
    });
  }
  return leftovers;
}

/**
 * Locks the target of the dead run that had locked the VM, if it is not ours: nobody else would look there. With
 * `--monthly` it is another one whenever a new month begins.
 *
 * @param own Whose lock we hold.
 * @returns Null if there is none, if another run is at work on it, or if it can't be reached.
 */
export async function lockTargetOf(
  deadline: Deadline,
  dead: VmHolder | null,
  own: string | null,
): Promise<Disposable & { target: string } | null> {
  const target = dead && targetOfLock(dead.lockFile);
  if (!dead || target === null || target === own) return null;
  if (!(await readTarget(deadline, target)).hasRecords) return null;
  const lock = await takeDeadLock(deadline, dead.lockFile).catch(() => null);
  return lock && { target, [Symbol.dispose]: () => lock[Symbol.dispose]() };
}

function failed(run: RunRecord): RunRecord {
  const disks = run.disks.map((disk): DiskRecord =>
    ["done", "superseded"].includes(disk.result)
      ? disk
      : { ...disk, result: "failed", error: "The run was killed" }
  );
  return { ...run, state: "failed", finished: new Date().toISOString(), disks };
}

/** Finds what our own writes leave if they are interrupted: nobody reads it. */
async function findTemporaries(deadline: Deadline, { path }: Target): Promise<Leftover[]> {
  return (await temporaries(deadline, path)).map((file) => ({
    description: `Removing ${file} of a run that died`,
    repair: () => removeFile(deadline, file),
  }));
}

/** Images that a prune was making: what they were made of is still there. */
async function findUnmerged(deadline: Deadline, target: Target): Promise<Leftover[]> {
  return (await pruneLeftovers(deadline, target)).map((folder) => ({
    description: `Removing ${folder} of a prune that was killed`,
    repair: () => removePruneFolder(deadline, folder),
  }));
}

/** The next run adopts that chain again. */
function findHalfAdopted(deadline: Deadline, { path, halfAdopted }: Target): Leftover[] {
  return halfAdopted.map((run) => ({
    description: `Removing the record ${run.id}: a run died before it had taken over the chain`,
    repair: () => removeFile(deadline, recordFile(path, run)),
  }));
}

/**
 * An image that was set aside for a new one of its name: it is removed if the new one is done, and put back if not.
 * The last run that named it tells.
 */
async function findReplaced(deadline: Deadline, { path, runs }: Target): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  const lastOf = new Map(runs.flatMap(({ disks }) => disks).map((disk) => [disk.file, disk]));
  for (const { file, result } of lastOf.values()) {
    // An image with a time in its name is never replaced.
    if (parseImageName(basename(file))) continue;
    const image = join(path, file);
    const aside = image + REPLACED_SUFFIX;
    if (!(await lookAt(deadline, aside))?.isFile) continue;
    leftovers.push(
      result === "done"
        ? {
          description: `Removing ${aside}, which a run that died had replaced`,
          repair: () => removeFile(deadline, aside),
        }
        : {
          description: `Putting ${image} back, which a run that died was about to replace`,
          repair: () => rename(deadline, aside, image),
        },
    );
  }
  return leftovers;
}

async function findFiles(
  deadline: Deadline,
  target: string,
  run: RunRecord,
  disk: DiskRecord,
  settled: Set<string>,
): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  for (const path of filesOf(target, run, disk)) {
    if (settled.has(path) || !(await lookAt(deadline, path))?.isFile) continue;
    settled.add(path);
    leftovers.push({
      description: `Removing ${path} of a run that died`,
      repair: () => removeFile(deadline, path),
    });
  }
  return leftovers;
}

/**
 * The files that a run may have left, and no others, whatever its record says. An image that has its final name
 * is one only if the time in the name is not before the run.
 */
function filesOf(target: string, run: RunRecord, disk: DiskRecord): string[] {
  const image = join(target, disk.file);
  const named = parseImageName(basename(disk.file));
  const isOfRun = named !== null && named.unixSeconds * 1000 > Date.parse(run.started) - 1000;
  return [
    ...(isOfRun ? [image] : []),
    partialName(image, run.id),
    ...(isFleeceOf(run.id, disk.fleece) ? [disk.fleece] : []),
  ];
}
