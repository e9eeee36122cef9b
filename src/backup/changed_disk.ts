/**
 * Looks whether a disk is still what it was when the run was planned: other programs may change it meanwhile.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { type BlockNode, queryGraph } from "../qmp/queries.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { backendOf } from "../vm/backend.ts";
import { type Disk, queryDisks } from "../vm/disks.ts";
import { sentinelProblem } from "../vm/sentinel.ts";

/** Which nodes a device has now: the one at its root, and that of its image. */
type DiskNodes = Pick<Disk, "id" | "rootNode" | "node">;

/**
 * Asks which nodes the devices have now.
 *
 * The graph alone tells that a disk with its image right at the device is as it was. Of all others the nodes are
 * asked for: only `query-block` passes over the filters that other programs' jobs have put there.
 */
export async function lookAtDisks(qmp: QmpClient, plan: Plan): Promise<DiskNodes[]> {
  const graph = await queryGraph(qmp);
  const disks = plan.disks.map(({ disk }) => disk);
  const isAsItWas = (disk: Disk) =>
    disk.rootNode === disk.node && backendOf(graph, disk)?.root === disk.rootNode;
  return disks.every(isAsItWas) ? disks : (await queryDisks(qmp)).disks;
}

/** Refuses a device that no longer has the node that its filter stands on, or another image below it. */
export function refuseChanged(
  { disk: { id, name, rootNode, node } }: DiskPlan,
  now: DiskNodes[],
): void {
  const present = now.find((disk) => disk.id === id);
  if (present?.rootNode === rootNode && present.node === node) return;
  throw new Failure(`The disk "${name}" was changed by another program meanwhile: run again`);
}

/**
 * Refuses a disk that is not as large as it was planned for, or was cut since its last backup. Once it is
 * switched to its filter nobody can resize it; before that, image and filter were made, and the guest could not
 * write to what lies beyond those.
 */
export function refuseResized({ disk, previousSentinel }: DiskPlan, nodes: BlockNode[]): void {
  const node = nodes.find((node) => node["node-name"] === disk.node);
  const isCut = node && previousSentinel &&
    sentinelProblem(node["dirty-bitmaps"], previousSentinel) !== null;
  if (node?.image["virtual-size"] === disk.virtualSizeBytes && !isCut) return;
  throw new Failure(`The disk "${disk.name}" was resized meanwhile: run again`);
}
