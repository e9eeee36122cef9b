/**
 * Whether another program's backup in pull mode is at work on a disk. Pure.
 *
 * @module
 */

import type { BlockGraph } from "../qmp/queries.ts";

/**
 * Whether something below a node can be reached in two ways. It is so during a backup in pull mode
 * (`virsh backup-begin`): its job keeps the old data in an image whose backing file is the disk itself. If a
 * node above that is reopened, QEMU 7.2 ends ("bdrv_parent_drained_end_single_no_poll: Assertion
 * `c->parent_quiesce_counter > 0' failed"); 10.0 and 11.1 do not.
 */
export function isReadTwice({ nodes, edges }: BlockGraph, rootNode: string): boolean {
  const seen = new Set<number>();
  const next = nodes.filter(({ name, type }) => name === rootNode && type === "block-driver")
    .map(({ id }) => id);
  for (let id = next.pop(); id !== undefined; id = next.pop()) {
    if (seen.has(id)) return true;
    seen.add(id);
    next.push(...edges.filter(({ parent }) => parent === id).map(({ child }) => child));
  }
  return false;
}
