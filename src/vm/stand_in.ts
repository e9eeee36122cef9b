/**
 * A stand-in for a disk, at its device, while something else than the guest writes to the disk: as long as the disk
 * is at the device, QEMU lets nobody else write to it. The guest must be stopped: what it read would be zeroes.
 *
 * Two nodes are needed. The stand-in (its role is "stand") holds nothing. A switch node ("gate") stands on the disk
 * and is at no device: it keeps QEMU from closing a disk that was made with `-drive`, and it tells recovery which
 * disk belongs back in the stand-in's place.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { queryGraph, queryIothreads } from "../qmp/queries.ts";
import { type Disk, queryDrive } from "./disks.ts";
import { siblingNode } from "./names.ts";
import { setDrive, switchNode } from "./switch_node.ts";

/** Puts the switch node on a disk. It is not at the device. */
export async function addAnchor(qmp: QmpClient, disk: Disk, anchor: string): Promise<void> {
  await qmp.execute("blockdev-add", switchNode(anchor, disk.rootNode));
}

/** Adds a stand-in and puts it in a disk's place. */
export async function putStandIn(
  qmp: QmpClient,
  { id, virtualSizeBytes: size }: Disk,
  name: string,
): Promise<void> {
  await qmp.execute("blockdev-add", {
    ...{ driver: "null-co", "node-name": name, size },
    "read-zeroes": true,
  });
  await setDriveInThread(qmp, id, name);
}

/** Puts the disk back at its device, if the stand-in is there. */
export async function takeOffStandIn(qmp: QmpClient, name: string): Promise<void> {
  const device = await queryDrive(qmp, name);
  if (device === null) return;
  const anchor = siblingNode(name, "gate");
  const { nodes, edges } = await queryGraph(qmp);
  const id = nodes.find((node) => node.name === anchor)?.id;
  const child = edges.find((edge) => edge.parent === id && edge.name === "file")?.child;
  const disk = nodes.find((node) => node.id === child);
  if (!disk) {
    throw new Failure(
      `The node "${name}" stands in for a disk at the device "${device}", and the node "${anchor}" that ` +
        "knows which one is gone: end QEMU and start the VM again",
    );
  }
  await setDriveInThread(qmp, device, disk.name);
}

/**
 * Puts a node at a device that an iothread may serve: QEMU takes only a node of the same thread. Which thread that is
 * QEMU does not tell for every kind of device, so the node is moved into one after the other.
 *
 * @throws {QmpCommandError} If QEMU takes it in none.
 */
async function setDriveInThread(qmp: QmpClient, device: string, node: string): Promise<void> {
  let refusal: unknown;
  for (const thread of [null, ...await queryIothreads(qmp)]) {
    try {
      if (thread !== null) {
        await qmp.execute("x-blockdev-set-iothread", { "node-name": node, iothread: thread });
      }
      return await setDrive(qmp, device, node);
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      refusal ??= error;
    }
  }
  throw refusal;
}
