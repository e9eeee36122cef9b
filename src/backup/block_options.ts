/**
 * The arguments of the QMP commands that a backup is made of. Pure.
 *
 * Source: QEMU QMP Reference Manual: `blockdev-add` (`BlockdevOptions`), `transaction`,
 * `blockdev-backup`, `blockdev-reopen`.
 *
 * @module
 */

import type { QmpArguments } from "../qmp/client.ts";
import type { Features } from "../qmp/schema.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import type { Writing } from "../plan/writing.ts";

/**
 * For all jobs of a run. QEMU has 64 threads that wait for files, the guest's disks among them: a
 * target that hangs may hold half of them, and the guest goes on with the others.
 */
const MAX_WORKERS = 32;

/** Many workers make up for small chunks. */
function jobPerf({ disks, features }: Plan, { disk }: DiskPlan) {
  const workers = Math.max(1, Math.floor(MAX_WORKERS / disks.length));
  return { "max-workers": workers, "max-chunk": chunkBytes(disk, features) };
}

/** Larger ones are slower through the page cache, and find fewer zeroes. */
const CHUNK_BYTES = 256 << 10;

type Reads = Pick<Features, "wideReads">;

/**
 * What a job reads at once. A chunk can't be smaller than a cluster of the target. Where a snapshot can't be read
 * across the border of what is kept, it is just what the fleece keeps at once.
 */
export function chunkBytes(disk: DiskPlan["disk"], { wideReads }: Reads): number {
  return wideReads
    ? Math.max(CHUNK_BYTES, disk.clusterSizeBytes ?? 0)
    : fleeceClusterBytes(disk, { wideReads });
}

/** What the fleece keeps at once, and so what a guest's first write to it waits for. */
export function fleeceClusterBytes(
  { clusterSizeBytes }: DiskPlan["disk"],
  { wideReads }: Reads,
): number {
  return wideReads ? 65536 : Math.max(65536, clusterSizeBytes ?? 0);
}

/**
 * How long a job may make no progress. One that is held back by the speed limit moves a chunk at a
 * time: what that takes is allowed for.
 */
export function jobStallTimeoutMs(
  { request, features }: Pick<Plan, "request" | "features">,
  { disk }: DiskPlan,
): number {
  const { speedLimitBytesPerSecond: speed, stallTimeoutMs } = request;
  const chunkMs = speed > 0 ? Math.ceil(chunkBytes(disk, features) / speed * 1000) : 0;
  return stallTimeoutMs + 2 * chunkMs;
}

/**
 * The image's file, a part of the image's node. It has a name, so that the image can be reopened on top of it,
 * and stays as it is when the image is made read-only.
 */
export function fileNode(name: string, path: string, writing: Omit<Writing, "reason">) {
  const { direct, preallocBytes, aio } = writing;
  const common = {
    discard: "unmap",
    "read-only": false,
    ...(direct ? { cache: { direct: true } } : {}),
  };
  const file = { driver: "file", filename: path, ...common, ...(aio ? { aio } : {}) };
  if (preallocBytes === 0) return { "node-name": name, ...file };
  const size = { "prealloc-size": preallocBytes };
  return { "node-name": name, driver: "preallocate", ...size, ...common, file };
}

/**
 * The new image. `backing: null`: the parent in its header is for readers, the job must not see it.
 *
 * @param file Its node, or the name of that.
 * @param keyId What QEMU calls the key of an encrypted image; null for one that is not.
 */
export function targetNode<File>(
  name: string,
  file: File,
  { direct }: Pick<Writing, "direct">,
  keyId: string | null = null,
) {
  return {
    driver: "qcow2",
    "node-name": name,
    ...(keyId !== null ? { encrypt: { format: "luks", "key-secret": keyId } } : {}),
    file,
    backing: null,
    ...(direct ? { cache: { direct: true } } : {}),
    discard: "unmap",
    "detect-zeroes": "unmap",
  };
}

/**
 * `blockdev-reopen` of the target as read-only: the one command that flushes a node and says whether
 * that went well.
 */
export function readOnlyTarget(
  { target, file }: Pick<DiskPlan["nodes"], "target" | "file">,
  how: Pick<Writing, "direct">,
  command: Features["reopen"],
  keyId: string | null = null,
): QmpArguments {
  const { "detect-zeroes": _, ...options } = targetNode(target, file, how, keyId);
  const readOnly = { ...options, "read-only": true };
  return command === "blockdev-reopen" ? { options: [readOnly] } : readOnly;
}

/** Where the filter puts what the guest is about to overwrite. */
export function fleeceNode(name: string, path: string) {
  return {
    driver: "qcow2",
    "node-name": name,
    file: { driver: "file", filename: path, discard: "unmap" },
    discard: "unmap",
  };
}

/**
 * The filter between the guest and its disk, with the fleece as a part of it.
 *
 * `break-snapshot`: whatever is wrong with the fleece fails the backup, never the guest's write.
 * `discard`: without, QEMU keeps from the disk what the guest discards meanwhile, and says it is done.
 */
export function filterNode(
  name: string,
  disk: string,
  fleece: ReturnType<typeof fleeceNode>,
  timeoutSeconds: number | null,
) {
  return {
    ...(timeoutSeconds === null ? {} : { "cbw-timeout": timeoutSeconds }),
    driver: "copy-before-write",
    "node-name": name,
    file: disk,
    target: fleece,
    discard: "unmap",
    "on-cbw-error": "break-snapshot",
  };
}

/** The disk's contents at the moment when the filter was put under its device. */
export function snapshotNode(name: string, filter: string) {
  return { driver: "snapshot-access", "node-name": name, file: filter };
}

/**
 * The transaction that starts jobs, all at one moment. A job reads a merged copy of the bitmap and clears
 * nothing: the bitmap on the disk goes on counting whatever becomes of the job.
 */
export function backupJobs(plan: Plan, disks: DiskPlan[]): QmpArguments {
  return { actions: disks.flatMap((disk) => jobActions(plan, disk)) };
}

/**
 * No job ends by itself. When one does, QEMU (8 and newer) changes its graph of nodes, for which all that
 * is under way must come to an end, in its main loop: while the fleece hangs, the guest would hang with it.
 * So we ask the storage first.
 */
const WAITING = { "auto-finalize": false, "on-source-error": "stop" };

interface Action {
  type: string;
  data: QmpArguments;
}

/** What starts one disk's job, as a part of a transaction. */
export function jobActions(plan: Plan, disk: DiskPlan): Action[] {
  const { request, features, direct } = plan;
  const { jobBitmap, isThin } = disk;
  // The merged copy lies on the snapshot, and goes with it.
  const source = direct ? disk.disk.node : disk.nodes.snapshot;
  const backup = {
    "job-id": disk.job,
    device: source,
    target: disk.nodes.target,
    speed: request.speedLimitBytesPerSecond,
    compress: request.compress !== null,
    "auto-dismiss": false,
    ...(direct ? {} : WAITING),
    ...(features.backupPerf ? { "x-perf": jobPerf(plan, disk) } : {}),
  };
  const full = disk.level !== "inc" || disk.previousBitmap === null;
  if (full && direct) {
    return [{ type: "blockdev-backup", data: { ...backup, sync: isThin ? "top" : "full" } }];
  }
  // Of a thin disk, what is allocated: see `allocation.ts`.
  const changed = full ? isThin ? jobBitmap : null : disk.previousBitmap;
  const add = {
    node: source,
    name: jobBitmap,
    granularity: disk.granularityBytes,
    disabled: true,
  };
  // Of a snapshot it holds afterwards what was not copied: see `readAgain()`.
  const how = { bitmap: jobBitmap, "bitmap-mode": direct ? "never" : "always" };
  const copy = { ...backup, sync: changed === null ? "full" : "bitmap", ...how };
  const merge = {
    node: source,
    target: jobBitmap,
    bitmaps: [{ node: disk.disk.node, name: changed }],
  };
  return [
    { type: "block-dirty-bitmap-add", data: add },
    ...(changed === null ? [] : [{ type: "block-dirty-bitmap-merge", data: merge }]),
    { type: "blockdev-backup", data: copy },
  ];
}

/** A job that reads, one chunk after another, what a job could not copy from its snapshot. */
export function readAgain({ probeJob, jobBitmap, nodes }: DiskPlan): QmpArguments {
  return {
    "job-id": probeJob,
    device: nodes.snapshot,
    target: nodes.target,
    sync: "bitmap",
    bitmap: jobBitmap,
    "bitmap-mode": "never",
    "auto-dismiss": false,
    "x-perf": { "max-workers": 1 },
  };
}
