/**
 * Why QEMU does not let us put anything under a disk: a job of another program works on it, or an export lets
 * others write to it. QEMU's own words name neither.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import {
  type BlockExport,
  type BlockGraph,
  type Job,
  queryBlockExports,
  queryGraph,
  queryJobs,
} from "../qmp/queries.ts";
import type { Disk } from "../vm/disks.ts";
import { isOurJob } from "../vm/names.ts";

/** What QEMU refused, with what is in the way and what to do; the error itself if nothing is. */
export async function explainUse(qmp: QmpClient, disk: Disk, error: unknown): Promise<unknown> {
  if (!(error instanceof QmpCommandError) || !qmp.isOpen) return error;
  const graph = await queryGraph(qmp);
  const users = usersOf(disk, graph, await queryJobs(qmp), await queryBlockExports(qmp));
  if (users.length === 0) return error;
  return new Failure(`${sentence(disk, users)} (QEMU: ${error.desc})`, { cause: error });
}

/**
 * Refuses a disk that an export lets others write to, after QEMU has refused it together with others.
 *
 * @throws {Failure} With the export and what to do.
 */
export async function refuseWritable(qmp: QmpClient, disk: Disk): Promise<void> {
  const writers = writersOf(disk, await queryGraph(qmp), await queryBlockExports(qmp));
  if (writers.length > 0) throw new Failure(sentence(disk, writers));
}

function sentence({ name }: Disk, users: string[]): string {
  return `The disk "${name}" can't be backed up now: ${users.join("; ")}. Then run again`;
}

/** A disk's nodes. */
type DiskNodes = Pick<Disk, "rootNode" | "node">;

/**
 * Names who else is at work on a disk, each with what to do. Pure.
 *
 * @param jobs All jobs of QEMU; ours are left out.
 */
export function usersOf(
  disk: DiskNodes,
  graph: BlockGraph,
  jobs: Job[],
  exports: BlockExport[],
): string[] {
  const below = idsBelow(disk, graph);
  const atWork = graph.nodes.filter(({ id, type, name }) =>
    type === "block-job" && !isOurJob(name) &&
    graph.edges.some(({ parent, child }) => parent === id && below.has(child))
  );
  const users = atWork.map(({ name }) => {
    const kind = jobs.find(({ id }) => id === name)?.type ?? "unknown";
    return `another program's job "${name}" (${kind}) is at work on it: wait for its end, or end it ` +
      "(QMP command job-cancel)";
  });
  return [...users, ...writersOf(disk, graph, exports)];
}

/** Names the exports that let others write to a disk, each with what to do. Pure. */
function writersOf(disk: DiskNodes, graph: BlockGraph, exports: BlockExport[]): string[] {
  const below = idsBelow(disk, graph);
  // An export has no name there, as a device has.
  const nameless = new Set(
    graph.nodes.filter(({ type, name }) => type === "block-backend" && name === "")
      .map(({ id }) => id),
  );
  const written = new Set(
    graph.edges.filter(({ parent, perm }) => nameless.has(parent) && perm?.includes("write"))
      .map(({ child }) => child),
  );
  const isWritten = (name: string) =>
    graph.nodes.some((node) => node.name === name && below.has(node.id) && written.has(node.id));
  return exports.filter(({ node }) => isWritten(node)).map(({ id, type, node }) =>
    `the export "${id}" (${type}) lets others write to its node "${node}": remove it (QMP command ` +
    "block-export-del)"
  );
}

/** The disk's nodes, and all that they are made of. */
function idsBelow({ rootNode, node }: DiskNodes, { nodes, edges }: BlockGraph): Set<number> {
  const found = new Set(
    nodes.filter(({ name }) => [rootNode, node].includes(name)).map(({ id }) => id),
  );
  // The loop also gets what is added to the set meanwhile.
  for (const id of found) {
    for (const { parent, child } of edges) if (parent === id) found.add(child);
  }
  return found;
}
