/**
 * Takes nodes, filters and bitmaps out of QEMU again, one at a time, in whatever state it left them.
 *
 * What is not there (any more, or because it could not be made) is no error. QEMU's words for that differ
 * between releases, so each function looks where QEMU refuses. It looks at the graph, since
 * `query-named-block-nodes` asks the file system of every image: where one hangs, QEMU and the guest would
 * hang with it.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { type BlockGraph, queryGraph, queryNodes } from "../qmp/queries.ts";
import { backendOf } from "./backend.ts";
import { type Disk, queryDrive } from "./disks.ts";
import { isOurNode } from "./names.ts";
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

/** Puts a node right under a device (`qom-set drive`): the devices' writes go there from now on. */
export async function setDrive(qmp: QmpClient, devicePath: string, node: string): Promise<void> {
  await qmp.execute("qom-set", { path: devicePath, property: "drive", value: node });
}

/**
 * A gate: a node right under a device that passes everything on to its one child, and whose child can be
 * changed (`blockdev-reopen`), as that of a device can't in one step with others.
 *
 * Of the drivers that can do that `raw` alone is safe: adding a `throttle` above a disk in an iothread
 * ends QEMU (7.2, 10.0, 11.1).
 */
export function gateNode(name: string, child: string) {
  return { driver: "raw", "node-name": name, file: child, discard: "unmap" };
}

/**
 * Leads gates to other nodes, all of them at one moment (`blockdev-reopen`): QEMU holds the writes of
 * all these disks while it does so, and no write falls between two of them.
 */
export async function leadGates(qmp: QmpClient, gates: [name: string, to: string][]) {
  await qmp.execute("blockdev-reopen", { options: gates.map(([name, to]) => gateNode(name, to)) });
}

/**
 * Takes a gate away from under its device, if it is there, so that the guest writes to its image again,
 * past the filter that the gate may lead to.
 *
 * @param disk The device that it was put under, if that is known.
 * @throws {Failure} If the gate has a parent but is not the device's root: somebody put something on
 * top of it, which is not ours to change.
 */
export async function takeOffGate(
  qmp: QmpClient,
  gate: string,
  disk?: Pick<Disk, "id" | "device">,
): Promise<void> {
  const graph = await queryGraph(qmp);
  const { nodes, edges } = graph;
  const id = nodes.find(({ name }) => name === gate)?.id;
  if (id === undefined) return;
  const isThere = disk !== undefined && backendOf(graph, disk)?.root === gate;
  const device = isThere ? disk.id : await queryDrive(qmp, gate);
  if (device === null) {
    if (!edges.some(({ child }) => child === id)) return;
    throw new Failure(
      `The node "${gate}" is in use, but not by a device: another program has put a node on top ` +
        "of it (an external snapshot, an export). Remove that, and run again",
    );
  }
  // Their present children, not those of old: an external snapshot may have been taken below.
  const below = (parent: number) => {
    const child = edges.find((edge) => edge.parent === parent && edge.name === "file")?.child;
    return nodes.find((node) => node.id === child);
  };
  const next = below(id);
  const image = next && isOurNode(next.name) ? below(next.id) : next;
  if (!next || !image) throw new Failure(`The node "${gate}" has no image below it`);
  // The filter lets nobody write to its image but itself, for as long as something stands on it.
  if (next !== image && !await leadsTo(qmp, gate, image.name)) {
    await setDrive(qmp, device, next.name);
    await removeNode(qmp, gate);
    await takeOffFilter(qmp, next.name);
    return;
  }
  try {
    await setDrive(qmp, device, image.name);
  } catch (error) {
    // A device that is being unplugged has no name any more, but its drive for some moments yet.
    if (!(error instanceof QmpCommandError) || !await isReleased(qmp, gate)) throw error;
  }
}

/**
 * Leads a gate to its image again, unless QEMU refuses since the image can't be flushed: the disk's storage
 * has failed. There is a way without a flush, that changes the device's root twice.
 */
async function leadsTo(qmp: QmpClient, gate: string, image: string): Promise<boolean> {
  try {
    await leadGates(qmp, [[gate, image]]);
    return true;
  } catch (error) {
    if (error instanceof QmpCommandError) return false;
    throw error;
  }
}

/** Takes a filter away from right under a device, where `takeOffGate()` may have been cut off. */
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
