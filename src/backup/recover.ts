/**
 * Cleans up behind a run that was killed: what it left in QEMU, on the target and beside the disks.
 *
 * All it left bears its tag, and that it is dead is proved by its file lock, which the kernel gave
 * back. Nothing without the tag is touched. The order is the one in which QEMU lets things go.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { basename, join } from "@std/path";
import { images } from "../catalog/chains.ts";
import { exists } from "../catalog/durable.ts";
import {
  isBackupBitmap,
  parseImageName,
  partialName,
  REPLACED_SUFFIX,
  tagOf,
} from "../catalog/names.ts";
import type { DiskRecord, RunRecord } from "../catalog/record.ts";
import { type Target, writeRun } from "../catalog/target.ts";
import { messageOf } from "../errors.ts";
import { type QmpClient } from "../qmp/client.ts";
import { endJob } from "../qmp/jobs.ts";
import { queryJobs, queryNodes } from "../qmp/queries.ts";
import { removeBitmap, removeNode, takeOffFilter } from "../vm/nodes.ts";

const log = getLogger(["qmpbackup", "recover"]);

/** The order in which nodes may go, by the end of their names. */
const NODE_ROLES = ["snap", "cbw", "target", "file", "fleece"];

/**
 * Takes away what a dead run left in QEMU: jobs, filters under disks, nodes. The guest's writes go
 * straight to its disks again.
 *
 * @param tag The dead run's tag.
 */
export async function recoverVm(qmp: QmpClient, tag: string): Promise<void> {
  for (const { id } of await queryJobs(qmp)) {
    if (!id.startsWith(`qmpbackup.${tag}.`)) continue;
    log.warn("Ending the job {id} of a run that died", { id });
    await endJob(qmp, id);
  }
  const names = (await queryNodes(qmp)).map((node) => node["node-name"])
    .filter((name) => name.startsWith(`qmpbackup-${tag}-`));
  for (const role of NODE_ROLES) {
    for (const name of names.filter((name) => name.endsWith(`-${role}`))) {
      log.warn("Removing the node {name} of a run that died", { name });
      if (role === "cbw") await takeOffFilter(qmp, name);
      await removeNode(qmp, name);
    }
  }
}

/** The tags of the runs that left jobs or nodes in QEMU. */
export async function tagsLeft(qmp: QmpClient): Promise<Set<string>> {
  const names = [
    ...(await queryJobs(qmp)).map(({ id }) => id),
    ...(await queryNodes(qmp)).map((node) => node["node-name"]),
  ];
  return new Set(names.flatMap((name) => /^qmpbackup[.-]([0-9a-f]{8})[.-]/.exec(name)?.[1] ?? []));
}

/**
 * Removes the bitmaps that a dead run added and that no finished backup counts on.
 *
 * @param isFinished Whether the run's record says that it is done.
 */
export async function recoverBitmaps(
  qmp: QmpClient,
  tag: string,
  isFinished: (bitmap: string) => boolean,
): Promise<void> {
  for (const node of await queryNodes(qmp)) {
    for (const { name = "" } of node["dirty-bitmaps"]) {
      if (!isBackupBitmap(name) || !name.includes(`-${tag}-`) || isFinished(name)) continue;
      log.warn("Removing the bitmap {name} of a run that died", { name });
      // One on a node that is read-only now stays: it counts for nothing.
      await removeBitmap(qmp, node["node-name"], name).catch((error) =>
        log.warn("It could not be removed: {words}", { words: messageOf(error) })
      );
    }
  }
}

/**
 * Removes the files of the runs that died on this target and closes their records. The target is
 * locked by the caller, so that a record that says "running" is a dead run's.
 */
export async function recoverTarget(target: Target): Promise<void> {
  await recoverReplaced(target);
  const kept = new Set(images(target.runs).map(({ disk }) => join(target.path, disk.file)));
  for (const run of target.runs.filter(({ state }) => state !== "done")) {
    // A run that failed may have had to leave its files too: QEMU still had them open.
    for (const disk of run.disks.filter(({ result }) => !["done", "superseded"].includes(result))) {
      await recoverFiles(target.path, run, disk, kept);
      if (run.state !== "running") continue;
      disk.result = "failed";
      disk.error = "The run was killed";
    }
    if (run.state !== "running") continue;
    run.state = "failed";
    run.finished = new Date().toISOString();
    await writeRun(target.path, run);
  }
}

/**
 * An image that was set aside for a new one of its name goes if the new one counts, and comes back if
 * not: the last run that named it tells.
 */
async function recoverReplaced({ path, runs }: Target): Promise<void> {
  const lastOf = new Map(runs.flatMap(({ disks }) => disks).map((disk) => [disk.file, disk]));
  for (const { file, result } of lastOf.values()) {
    // With a time in its name an image is never replaced.
    if (parseImageName(basename(file))) continue;
    const image = join(path, file);
    const aside = image + REPLACED_SUFFIX;
    if (!await exists(aside)) continue;
    if (result === "done") {
      log.warn("Removing {aside}, which a run that died had replaced", { aside });
      await Deno.remove(aside);
    } else {
      log.warn("Putting {image} back, which a run that died was about to replace", { image });
      await Deno.rename(aside, image);
    }
  }
}

async function recoverFiles(
  target: string,
  run: RunRecord,
  disk: DiskRecord,
  kept: Set<string>,
): Promise<void> {
  for (const path of leftoversOf(target, run, disk)) {
    if (kept.has(path) || !await exists(path)) continue;
    log.warn("Removing {path} of a run that died", { path });
    await Deno.remove(path);
  }
}

/** The files a run may have left; from its fleece's name only one that it can have made. */
function leftoversOf(target: string, run: RunRecord, disk: DiskRecord): string[] {
  const image = join(target, disk.file);
  const isFleece = basename(disk.fleece).startsWith(`qmpbackup-${tagOf(run.id)}-`) &&
    disk.fleece.endsWith(".fleece");
  return [image, partialName(image, run.id), ...(isFleece ? [disk.fleece] : [])];
}
