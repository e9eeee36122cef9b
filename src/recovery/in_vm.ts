/**
 * Finds what dead runs have left in QEMU's block layer.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { dirname } from "@std/path";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { messageOf } from "../errors.ts";
import { bitmapsOfRow } from "../plan/last_backup.ts";
import type { QmpClient } from "../qmp/client.ts";
import { endJob } from "../qmp/jobs.ts";
import { type BlockGraph, queryExports, queryNodes } from "../qmp/queries.ts";
import { restorePoints } from "../repo/chains.ts";
import { tagOf, targetOfLock } from "../repo/layout.ts";
import { knowsDisks, readTarget } from "../repo/repository.ts";
import type { VmHolder } from "../vm/lock.ts";
import { removeMark } from "../vm/marks.ts";
import {
  inRemovalOrder,
  isBitmapOfRun,
  isOurJob,
  isOurNode,
  isOurObject,
  nodeRole,
  tagIn,
} from "../vm/names.ts";
import { findNbdServer, removeExport, stopNbdServer } from "../vm/nbd_server.ts";
import {
  jobsIn,
  nodesIn,
  removeBitmap,
  removeNode,
  takeOffFilter,
  takeOffSwitchNode,
} from "../vm/switch_node.ts";
import { takeOffStandIn } from "../vm/stand_in.ts";
import type { Leftover } from "./leftover.ts";

const log = getLogger(["qmpbackup", "recover"]);

/**
 * Asks the storage of dead runs whether it answers, before QEMU is told to remove anything of theirs: if the
 * storage hangs, QEMU would hang with it, and so would the guest. What stays in QEMU harms nobody.
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
    // That the records can't be read is said elsewhere. They can't tell where the fleeces are.
    return [];
  });
  const disks = runs.filter(({ id }) => tags.has(tagOf(id))).flatMap(({ disks }) => disks);
  for (const folder of new Set([target, ...disks.map(({ fleece }) => dirname(fleece))])) {
    await deadline.probe(folder);
  }
}

/**
 * Finds what dead runs left in QEMU's block layer: jobs, exports, filters under disks, nodes. With them
 * gone the guest's writes go straight to its disks again. The caller holds the VM's lock: so all that has our
 * names is a dead run's.
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
  // What a node needed of it, it needed when it was opened.
  for (const id of marks.filter(isOurObject)) {
    found(`Removing the key ${id} from QEMU`, () => removeMark(qmp, id));
  }
  for (const name of inRemovalOrder(nodesIn(graph))) {
    found(`Removing the node ${name}`, async () => {
      const role = nodeRole(name);
      if (role === "stand") await takeOffStandIn(qmp, name);
      if (role === "gate") await takeOffSwitchNode(qmp, name);
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

/** Removes what told a job on a disk what to copy. The bitmap of a job on a snapshot went with the snapshot. */
async function removeJobBitmaps(qmp: QmpClient): Promise<void> {
  for (const { node, name } of await queryBitmaps(qmp)) {
    if (isOurNode(name)) await removeBitmap(qmp, node, name);
  }
}

/**
 * Finds the bitmaps that a dead run added and that no finished backup needs. Only the records of the target that it
 * wrote to tell which are needed: if that target is not there (not mounted), all of them stay.
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
      // On a node that is read-only now it stays. No run uses it.
      repair: () =>
        removeBitmap(qmp, node, name).catch((error) =>
          log.warn("It could not be removed: {words}", { words: messageOf(error) })
        ),
    }));
}

async function queryBitmaps(qmp: QmpClient): Promise<{ node: string; name: string }[]> {
  return (await queryNodes(qmp)).flatMap((node) =>
    node["dirty-bitmaps"].map(({ name }) => ({ node: node["node-name"], name }))
  );
}
