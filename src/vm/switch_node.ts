/**
 * Takes nodes, filters and bitmaps out of QEMU again, one at a time, in whatever state it left them.
 *
 * A thing that is not there (any more, or because it could not be made) is fine. QEMU's words for that differ between
 * releases, so each function looks if QEMU refuses. It looks at the graph: `query-named-block-nodes` asks the file
 * system of every image, and if one hangs, QEMU and the guest hang with it.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { type BlockGraph, queryGraph, queryNodes } from "../qmp/queries.ts";
import { backendOf } from "./backend.ts";
import { type Disk, queryDrive } from "./disks.ts";
import { isOurNode } from "./names.ts";
import { isReadTwice } from "./read_twice.ts";
import { comesTrue } from "./wait.ts";

/** Removes a block node (`blockdev-del`), if it is there. */
export async function removeNode(qmp: QmpClient, name: string): Promise<void> {
  try {
    await qmp.execute("blockdev-del", { "node-name": name });
  } catch (error) {
    if (!(error instanceof QmpCommandError) || await isNode(qmp, name)) throw error;
  }
}

/** Whether there is a block node of this name. */
export async function isNode(qmp: QmpClient, name: string): Promise<boolean> {
  return (await nodeNames(qmp)).includes(name);
}

/** The names of all block nodes. */
export async function nodeNames(qmp: QmpClient): Promise<string[]> {
  return nodesIn(await queryGraph(qmp));
}

/** The names of all block nodes in a graph. */
export function nodesIn({ nodes }: BlockGraph): string[] {
  return nodes.filter(({ type }) => type === "block-driver").map(({ name }) => name);
}

/** The ids of all block jobs in a graph, those that have concluded too. */
export function jobsIn({ nodes }: BlockGraph): string[] {
  return nodes.filter(({ type }) => type === "block-job").map(({ name }) => name);
}

/** Removes a dirty bitmap (`block-dirty-bitmap-remove`), if it is there. */
export async function removeBitmap(qmp: QmpClient, node: string, name: string): Promise<void> {
  try {
    await qmp.execute("block-dirty-bitmap-remove", { node, name });
  } catch (error) {
    // Which bitmaps there are is told by `query-named-block-nodes` alone.
    if (!(error instanceof QmpCommandError)) throw error;
    const nodes = await queryNodes(qmp);
    const bitmaps = nodes.find((other) => other["node-name"] === node)?.["dirty-bitmaps"] ?? [];
    if (bitmaps.some((bitmap) => bitmap.name === name)) throw error;
  }
}

/** Puts a node at a device (`qom-set drive`): the device's writes go there from now on. */
export async function setDrive(qmp: QmpClient, devicePath: string, node: string): Promise<void> {
  await qmp.execute("qom-set", { path: devicePath, property: "drive", value: node });
}

/**
 * The options of a switch node (its role is "gate"): a node at a device that passes everything on to its one child.
 * `blockdev-reopen` changes the children of many such nodes in one step, which can't be done with devices.
 *
 * Only the driver `raw` can be used for it: adding a `throttle` above a disk in an iothread ends QEMU (7.2, 10.0,
 * 11.1).
 */
export function switchNode(name: string, child: string) {
  return { driver: "raw", "node-name": name, file: child, discard: "unmap" };
}

/**
 * Points switch nodes to other nodes, all of them at one moment (`blockdev-reopen`): QEMU holds the writes to
 * all these disks while it does so, and no write falls between two of them.
 */
export async function repoint(qmp: QmpClient, switches: [name: string, to: string][]) {
  const options = switches.map(([name, to]) => switchNode(name, to));
  await qmp.execute("blockdev-reopen", { options });
}

/**
 * Takes a switch node off its device, if it is there: the guest writes to its image again, past the filter.
 *
 * @param disk The device that it was put under, if that is known.
 * @throws {Failure} If something stands on the switch node and it is not at the device: another program has put
 * that there, and we don't change it.
 */
export async function takeOffSwitchNode(
  qmp: QmpClient,
  switchName: string,
  disk?: Pick<Disk, "id" | "device">,
): Promise<void> {
  const graph = await queryGraph(qmp);
  const { nodes, edges } = graph;
  const id = nodes.find(({ name }) => name === switchName)?.id;
  if (id === undefined) return;
  const isThere = disk !== undefined && backendOf(graph, disk)?.root === switchName;
  const device = isThere ? disk.id : await queryDrive(qmp, switchName);
  if (device === null) {
    if (!edges.some(({ child }) => child === id)) return;
    throw new Failure(
      `The node "${switchName}" is in use, but not by a device: another program has put a node on top ` +
        "of it (an external snapshot, an export). Remove that, and run again",
    );
  }
  // The children that they have now: an external snapshot may have been taken below.
  const below = (parent: number) => {
    const child = edges.find((edge) => edge.parent === parent && edge.name === "file")?.child;
    return nodes.find((node) => node.id === child);
  };
  const next = below(id);
  const image = next && isOurNode(next.name) ? below(next.id) : next;
  if (!next || !image) throw new Failure(`The node "${switchName}" has no image below it`);
  // As long as something stands on the filter, only the filter may write to the image.
  if (
    next !== image &&
    (isReadTwice(graph, image.name) || !await tryRepoint(qmp, switchName, image.name))
  ) {
    await setDrive(qmp, device, next.name);
    await removeNode(qmp, switchName);
    await takeOffFilter(qmp, next.name);
    return;
  }
  try {
    await setDrive(qmp, device, image.name);
  } catch (error) {
    // A device that is being unplugged has lost its name, and keeps its drive for some moments.
    if (!(error instanceof QmpCommandError) || !await isReleased(qmp, switchName)) throw error;
  }
}

/**
 * Points a switch node to its image again.
 *
 * @returns False if QEMU refuses, since it can't flush the image: the disk's storage has failed. Then there is a way
 * without a flush and without a reopening, which changes the device's root twice.
 */
async function tryRepoint(qmp: QmpClient, switchName: string, image: string): Promise<boolean> {
  try {
    await repoint(qmp, [[switchName, image]]);
    return true;
  } catch (error) {
    if (error instanceof QmpCommandError) return false;
    throw error;
  }
}

/** Takes a filter off a device: `takeOffSwitchNode()` may have been cut off in between. */
export async function takeOffFilter(qmp: QmpClient, filter: string): Promise<void> {
  const device = await queryDrive(qmp, filter);
  if (device === null) return;
  const { nodes, edges } = await queryGraph(qmp);
  const id = nodes.find(({ name }) => name === filter)?.id;
  const child = edges.find((edge) => edge.parent === id && edge.name === "file")?.child;
  const image = nodes.find((node) => node.id === child);
  if (image) await setDrive(qmp, device, image.name);
}

const RELEASE_TIMEOUT_MS = 5_000;

/** Waits for a node to have no parent any more. */
function isReleased(qmp: QmpClient, name: string): Promise<boolean> {
  return comesTrue(async () => {
    const { nodes, edges } = await queryGraph(qmp);
    const id = nodes.find((node) => node.name === name)?.id;
    return !edges.some(({ child }) => child === id);
  }, RELEASE_TIMEOUT_MS);
}
