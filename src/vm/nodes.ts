/**
 * Takes nodes, filters and bitmaps out of QEMU again, one at a time, in whatever state it left them.
 *
 * Each function looks first, so that what is not there (any more, or because its making failed) is no
 * error: QEMU's words for that differ between releases. They look at the graph, since
 * `query-named-block-nodes` asks the file system of every image: where one hangs, QEMU and the guest
 * would hang with it.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { queryGraph, queryNodes } from "../qmp/queries.ts";
import { queryDrive } from "./disks.ts";

/** Removes a block node (`blockdev-del`), if it is there. */
export async function removeNode(qmp: QmpClient, name: string): Promise<void> {
  if (!await isNode(qmp, name)) return;
  await qmp.execute("blockdev-del", { "node-name": name });
}

/** Whether there is a block node of this name. */
export async function isNode(qmp: QmpClient, name: string): Promise<boolean> {
  return (await nodeNames(qmp)).includes(name);
}

/** The names of all block nodes. */
export async function nodeNames(qmp: QmpClient): Promise<string[]> {
  const { nodes } = await queryGraph(qmp);
  return nodes.filter(({ type }) => type === "block-driver").map(({ name }) => name);
}

/** Removes a dirty bitmap (`block-dirty-bitmap-remove`), if it is there. */
export async function removeBitmap(qmp: QmpClient, node: string, name: string): Promise<void> {
  try {
    await qmp.execute("block-dirty-bitmap-remove", { node, name });
  } catch (error) {
    // Tried first: which bitmaps there are is told by `query-named-block-nodes` alone.
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
 * Takes a filter away from under its device, if it is there, so that the guest writes to its image
 * again.
 *
 * @throws {Failure} If the filter has a parent but is not the device's root: somebody put something on
 * top of it, which is not ours to change.
 */
export async function takeOffFilter(qmp: QmpClient, filter: string): Promise<void> {
  const { nodes, edges } = await queryGraph(qmp);
  const id = nodes.find(({ name }) => name === filter)?.id;
  if (id === undefined) return;
  const device = await queryDrive(qmp, filter);
  if (device === null) {
    if (!edges.some(({ child }) => child === id)) return;
    throw new Failure(
      `The filter "${filter}" is in use, but not by a device: another program has put a node on top ` +
        "of it (an external snapshot, an export). Remove that, and run again",
    );
  }
  // Its present child, not the one of old: an external snapshot may have been taken under it.
  const below = edges.find(({ parent, name }) => parent === id && name === "file")?.child;
  const image = nodes.find((node) => node.id === below)?.name;
  if (!image) throw new Failure(`The filter "${filter}" has no image below it`);
  await setDrive(qmp, device, image);
}
