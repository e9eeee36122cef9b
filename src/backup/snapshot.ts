/**
 * The contents of a disk at the point in time, for as long as it takes to read them: a switch node under the
 * device, a filter that keeps in a file (the fleece) what the guest overwrites, and a node that reads both.
 *
 * Source: the `copy-before-write` and `snapshot-access` block drivers of the QMP Reference Manual.
 *
 * @module
 */

import { createFile } from "../fs/create.ts";
import { removeFile } from "../fs/durable.ts";
import { Failure } from "../errors.ts";
import { emptyQcow2 } from "../qcow2/empty.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import type { DiskPlan } from "../plan/plan.ts";
import { repoint, setDrive, switchNode, takeOffSwitchNode } from "../vm/switch_node.ts";
import { filterNode, fleeceClusterBytes, fleeceNode, snapshotNode } from "./block_options.ts";
import type { Moment } from "./disk_copy.ts";
import type { DiskWork } from "./disk_work.ts";
import { refuseWritable } from "./explain_use.ts";
import { explainOpen, shareCommands } from "./permission_hint.ts";

/** Makes the fleece's file, which QEMU opens with the filter. */
export async function createFleece(work: DiskWork): Promise<void> {
  const { disk: { disk, nodes, fleeceFile }, plan: { request, features } } = work;
  // Its folder may be the disk's, and its owner's: nobody but QEMU opens it by its name, who has no more
  // rights there than before.
  const { virtualSizeBytes } = disk;
  const clusterSizeBytes = fleeceClusterBytes(disk, features);
  const empty = emptyQcow2({ virtualSizeBytes, clusterSizeBytes });
  await createFile(work.deadline, fleeceFile, request.mode, empty);
  work.guest.push(`remove "${fleeceFile}"`, async () => {
    await work.refuseOpen(nodes.fleece, nodes.filter);
    await removeFile(work.deadline, fleeceFile);
  });
}

/** Puts the switch node under the device, and the filter beside it. The guest still writes past the filter. */
export async function addSwitchNode(work: DiskWork): Promise<void> {
  const { qmp, disk: { disk, nodes } } = work;
  await addFilter(work);
  await work.addNode(work.guest, switchNode(nodes.switchNode, disk.rootNode));
  work.push(
    work.guest,
    `take the switch node off the disk "${disk.name}"`,
    () => takeOffSwitchNode(qmp, nodes.switchNode, disk),
  );
  await setDrive(qmp, disk.id, nodes.switchNode);
}

async function addFilter(work: DiskWork): Promise<void> {
  const { disk: { disk, nodes, fleeceFile, cbwTimeoutSeconds } } = work;
  const fleece = fleeceNode(nodes.fleece, fleeceFile);
  try {
    const filter = filterNode(nodes.filter, disk.rootNode, fleece, cbwTimeoutSeconds);
    await work.addNode(work.guest, filter);
  } catch (error) {
    throw explainOpen(
      error,
      fleeceFile,
      "name a folder that user's group may write to with --fleece-dir DIR " + shareCommands("DIR"),
    );
  }
}

/** Makes the contents of the point in time readable: the guest writes through the filter by now. */
export async function addSnapshot(work: DiskWork): Promise<void> {
  const { nodes } = work.disk;
  await work.addNode(work.guest, snapshotNode(nodes.snapshot, nodes.filter));
}

/** The point in time: all switch nodes lead to their filters from one moment on. */
export function switchToFilters(qmp: QmpClient): Moment {
  return {
    take: (disks) => repoint(qmp, disks.map(({ nodes }) => [nodes.switchNode, nodes.filter])),
    probe: (disk) => probeSwitch(qmp, disk),
  };
}

/** Leads a switch node to where it leads: what QEMU does besides, with any of them, is to flush the disk. */
async function probeSwitch(qmp: QmpClient, { disk, nodes }: DiskPlan): Promise<void> {
  await refuseWritable(qmp, disk);
  try {
    await repoint(qmp, [[nodes.switchNode, disk.rootNode]]);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    throw new Failure(
      `The storage of the disk "${disk.name}" fails: ${error.desc}. Check "${disk.source}"`,
      { cause: error },
    );
  }
}
