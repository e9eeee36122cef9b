/**
 * What a graph tells of a device of the guest: the node at its root, and whether others may write to it. Pure.
 *
 * In a graph, the backend of a device has its own name, or else the device's id, or else the device's path (QEMU's
 * block.c, `bdrv_get_xdbg_block_graph()`). If two have the same name, neither can be told.
 *
 * @module
 */

import type { BlockGraph } from "../qmp/queries.ts";

export interface Backend {
  /** The node at the device. */
  root: string;
  /** Whether others may write to that node; null where the graph does not say it. */
  isShared: boolean | null;
}

/**
 * Finds the backend of a device; null where the graph can't tell it.
 *
 * @param device `id` is the path of the device, `device` the name of its backend or "".
 */
export function backendOf(
  { nodes, edges }: BlockGraph,
  { id, device }: { id: string; device: string },
): Backend | null {
  const name = device || id;
  const names = [name, name.replace(/^\/machine\/peripheral\/([^/]+)$/, "$1")];
  const found = nodes.filter((node) => node.type === "block-backend" && names.includes(node.name));
  const [backend, ...others] = found;
  const edge = backend && edges.find(({ parent }) => parent === backend.id);
  const root = edge && nodes.find((node) => node.id === edge.child);
  if (!root || others.length > 0) return null;
  return { root: root.name, isShared: edge["shared-perm"]?.includes("write") ?? null };
}
