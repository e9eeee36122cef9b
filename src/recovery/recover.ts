/**
 * Cleans up behind a run that died: what it left in QEMU, on the target and beside the disks.
 *
 * All it left bears its tag, and that it is dead is proved by its file lock, which the kernel gave
 * back. Nothing else is touched. First it is found, then cleaned up: so that it can be looked at before. The
 * order stands in `order.ts`.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { basename, dirname, join } from "@std/path";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { rename } from "../fs/files.ts";
import { images, restorePoints } from "../repo/chains.ts";
import { lookAt } from "../fs/create.ts";
import { exists, removeFile } from "../fs/durable.ts";
import { removeSaved, savedFolder } from "../repo/saved.ts";
import {
  isFleeceOf,
  parseImageName,
  partialName,
  REPLACED_SUFFIX,
  tagOf,
  targetOfLock,
} from "../repo/layout.ts";
import { takeDeadLock } from "../fs/flock.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import {
  knowsDisks,
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
import { messageOf } from "../errors.ts";
import { type QmpClient } from "../qmp/client.ts";
import { endJob } from "../qmp/jobs.ts";
import { type BlockGraph, queryExports, queryNodes, queryStatus } from "../qmp/queries.ts";
import {
  inRemovalOrder,
  isBitmapOfRun,
  isOurJob,
  isOurNode,
  nodeRole,
  tagIn,
} from "../vm/names.ts";
import { findNbdServer, removeExport, stopNbdServer } from "../vm/nbd_server.ts";
import { clearIoErrorMark, findIoErrorMark, resumeAfterIoError } from "../vm/io_error.ts";
import {
  findFreeze,
  findPause,
  markNames,
  resumeIfMarked,
  thawIfMarked,
  type VmHolder,
} from "../vm/marks.ts";
import {
  jobsIn,
  nodesIn,
  removeBitmap,
  removeNode,
  takeOffFilter,
  takeOffGate,
} from "../vm/switch_node.ts";
import { bitmapsOfRow } from "../plan/last_backup.ts";

const log = getLogger(["qmpbackup", "recover"]);

/** Something that a dead run left. */
export interface Leftover {
  /** What is done about it, as a sentence. */
  description: string;
  repair(): Promise<unknown>;
}

/** Cleans up a leftover, and says so. */
export async function repair(leftover: Leftover): Promise<void> {
  log.warn("{description}", { description: leftover.description });
  await leftover.repair();
}

/**
 * Finds a guest that a dead run has stopped or frozen.
 *
 * @param marks The names of all marks there are.
 * @param thaw Thaws it through its agent; null where no agent is known.
 */
export async function findHeldGuest(
  qmp: QmpClient,
  marks: string[],
  thaw: (() => Promise<void>) | null,
): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  const paused = await findPause(qmp, marks);
  if (paused !== null) {
    const { running, status } = await queryStatus(qmp);
    const now = running ? "which runs" : `which has the state ${status} by now`;
    leftovers.push({
      description: status === "paused"
        ? `The VM stands still since ${paused}, stopped by a run that died: resuming it`
        : `A run that died meant to stop the VM at ${paused}, ${now}: removing its mark`,
      repair: () => resumeIfMarked(qmp),
    });
  }
  const stood = await findIoErrorMark(qmp, marks);
  if (stood !== null && (await queryStatus(qmp)).status !== "io-error") {
    leftovers.push({
      description:
        `The VM had the state io-error before a run that died, at ${stood}: removing its mark`,
      repair: () => clearIoErrorMark(qmp),
    });
  }
  const frozen = await findFreeze(qmp, marks);
  if (frozen !== null) {
    leftovers.push({
      description:
        `The guest's file systems may be frozen since ${frozen}, by a run that died: thawing them`,
      repair: () => thawIfMarked(qmp, thaw),
    });
  }
  return leftovers;
}

/**
 * Asks the storage of dead runs whether it answers, before QEMU is told to take anything of theirs away:
 * where that hangs, QEMU would hang with it, and the guest. What is left alone harms nobody.
 *
 * @param dead Whose target holds their records; null where the VM does not know of one.
 * @param named The target that is used otherwise; null where there is none.
 * @throws {HangingError} If it does not.
 */
export async function refuseHangingRuns(
  deadline: Deadline,
  graph: BlockGraph,
  dead: VmHolder | null,
  named: string | null,
): Promise<void> {
  const target = dead ? targetOfLock(dead.lockFile) : named;
  if (target === null) return;
  const ours = [...nodesIn(graph), ...jobsIn(graph)];
  const tags = new Set(ours.flatMap((name) => tagIn(name) ?? []));
  if (tags.size === 0) return;
  const runs = await readTarget(deadline, target).then(({ runs }) => runs, (error) => {
    if (error instanceof HangingError) throw error;
    // What can't be read is said elsewhere, and tells nothing of fleeces.
    return [];
  });
  const disks = runs.filter(({ id }) => tags.has(tagOf(id))).flatMap(({ disks }) => disks);
  for (const folder of new Set([target, ...disks.map(({ fleece }) => dirname(fleece))])) {
    await deadline.probe(folder);
  }
}

/**
 * Finds what dead runs left in QEMU's block layer: jobs, exports, filters under disks, nodes. With them
 * gone the guest's writes go straight to its disks again. The caller holds the VM's lock, so that all
 * that bears our names is a dead run's.
 */
export async function findInVm(
  deadline: Deadline,
  qmp: QmpClient,
  marks: string[],
  graph: BlockGraph,
): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  const found = (what: string, repair: Leftover["repair"]) =>
    leftovers.push({ description: `${what} of a run that died`, repair });
  for (const id of jobsIn(graph)) {
    if (isOurJob(id)) found(`Ending the job ${id}`, () => endJob(qmp, id));
  }
  const server = await findNbdServer(qmp, marks);
  if (server !== null) {
    // Exports need a server, and are asked for where ours may run.
    found(`Stopping the NBD server on ${server}`, () => stopNbdServer(deadline, qmp));
    for (const id of await queryExports(qmp)) {
      if (isOurNode(id)) found(`Removing the export ${id}`, () => removeExport(qmp, id));
    }
  }
  for (const name of inRemovalOrder(nodesIn(graph))) {
    found(`Removing the node ${name}`, async () => {
      const role = nodeRole(name);
      if (role === "gate") await takeOffGate(qmp, name);
      if (role === "cbw") await takeOffFilter(qmp, name);
      await removeNode(qmp, name);
    });
  }
  if (leftovers.length > 0) {
    // Not looked for before: see `order.ts`.
    found("Removing the bitmaps of the jobs", () => removeJobBitmaps(qmp));
  }
  return leftovers;
}

/** What told a job on the disk itself what to copy; that of a snapshot has gone with it. */
async function removeJobBitmaps(qmp: QmpClient): Promise<void> {
  for (const { node, name } of await queryBitmaps(qmp)) {
    if (isOurNode(name)) await removeBitmap(qmp, node, name);
  }
}

/**
 * Finds the bitmaps that a dead run added and that no finished backup counts on. Which do stands in the
 * target that it wrote to, and in no other: where that is not there (unmounted), all of them stay.
 */
export async function findBitmaps(
  deadline: Deadline,
  qmp: QmpClient,
  dead: VmHolder,
): Promise<Leftover[]> {
  const target = await readTarget(deadline, targetOfLock(dead.lockFile)).catch(() => null);
  if (!target || !knowsDisks(target)) return [];
  const finished = new Set(restorePoints(target.runs).flatMap(({ disk }) => bitmapsOfRow(disk)));
  return (await queryBitmaps(qmp))
    .filter(({ name }) => isBitmapOfRun(name, tagOf(dead.run)) && !finished.has(name))
    .map(({ node, name }): Leftover => ({
      description: `Removing the bitmap ${name} of a run that died`,
      // One on a node that is read-only now stays: it counts for nothing.
      repair: () =>
        removeBitmap(qmp, node, name).catch((error) =>
          log.warn("It could not be removed: {words}", { words: messageOf(error) })
        ),
    }));
}

/**
 * Finds a guest that stands still since a write of its own failed: files of a dead run, which are gone
 * by now, may have taken the room; without a fleece it is the job's full target that fails a write.
 */
export async function findIoError(qmp: QmpClient): Promise<Leftover[]> {
  if ((await queryStatus(qmp)).status !== "io-error") return [];
  const stood = await findIoErrorMark(qmp, await markNames(qmp));
  if (stood !== null) {
    return [{
      description:
        `The VM had the state io-error before the run that died, at ${stood}, and is left so: ` +
        "mend its storage, and resume it with the QMP command cont",
      repair: () => clearIoErrorMark(qmp),
    }];
  }
  return [{
    description:
      "Letting the VM go on, which has the state io-error since a run that died was at work",
    repair: () => resumeAfterIoError(qmp),
  }];
}

async function queryBitmaps(qmp: QmpClient): Promise<{ node: string; name: string }[]> {
  return (await queryNodes(qmp)).flatMap((node) =>
    node["dirty-bitmaps"].map(({ name }) => ({ node: node["node-name"], name }))
  );
}

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
  // Two runs of one second may have died with one file's name.
  const settled = new Set(images(target.runs).map(({ disk }) => join(target.path, disk.file)));
  for (const run of target.runs.filter(({ state }) => state !== "done")) {
    // A run that failed may have had to leave its files too: QEMU still had them open. Even of a disk
    // that is done the fleece may be left.
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
 * Locks the target of the dead run whose place was taken in the VM, if it is another one than ours (with
 * `--monthly` it is, at each turn of the month): nobody else is going to look there.
 *
 * @param own Whose lock we hold.
 * @returns Null where there is none, where somebody is at work on it, or where it can't be reached.
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

/** What our own writes leave where they are interrupted: they count for nothing. */
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

/** Its next run adopts that chain anew. */
function findHalfAdopted(deadline: Deadline, { path, halfAdopted }: Target): Leftover[] {
  return halfAdopted.map((run) => ({
    description: `Removing the record of ${run.id}, of a run that died before it had adopted all`,
    repair: () => removeFile(deadline, recordFile(path, run)),
  }));
}

/**
 * An image that was set aside for a new one of its name goes if the new one counts, and comes back if
 * not: the last run that named it tells.
 */
async function findReplaced(deadline: Deadline, { path, runs }: Target): Promise<Leftover[]> {
  const leftovers: Leftover[] = [];
  const lastOf = new Map(runs.flatMap(({ disks }) => disks).map((disk) => [disk.file, disk]));
  for (const { file, result } of lastOf.values()) {
    // With a time in its name an image is never replaced.
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
 * The files a run may have left, and no other, whatever its record says: an image under its name only if
 * the name tells that it is no older than the run.
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
