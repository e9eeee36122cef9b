/**
 * Rolls one disk back: QEMU itself copies, from the images of the point in time into the disk, only where the two can
 * differ (`blockdev-backup`, `sync: bitmap`). The disk's own bitmaps record what is written to it, so that the next
 * increment holds it.
 *
 * ```
 * prepare()   the point's images opened; a bitmap of where the disk can differ. The disk is not touched
 * putAside()  a stand-in at the device, see `vm/stand_in.ts`
 * write()     the job; then all is flushed
 * putBack()   the disk at its device again
 * ```
 *
 * @module
 */

import { Failure, messageOf } from "../errors.ts";
import type { DiskPlan } from "../plan/plan.ts";
import { endJob, waitForJob } from "../qmp/jobs.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { queryNodes } from "../qmp/queries.ts";
import { explainOpen } from "../backup/permission_hint.ts";
import type { UndoStack } from "../backup/undo.ts";
import { addAllocated } from "../vm/allocation.ts";
import { nodeName, type NodeRole } from "../vm/names.ts";
import { addAnchor, putStandIn, takeOffStandIn } from "../vm/stand_in.ts";
import { removeNode, repoint } from "../vm/switch_node.ts";
import type { ChainImage } from "./images.ts";

/** What is to be done with a disk. */
export interface DiskTask {
  plan: DiskPlan;
  /** The number that its nodes have. */
  index: number;
  /** The images of the point in time, the full backup first. */
  point: ChainImage[];
  /** The images that tell where the disk can differ. */
  differing: ChainImage[];
  /** The bitmap that has recorded since the newest of them. */
  bitmap: string;
}

export interface WriteOptions {
  bytesPerSecond: number;
  stallTimeoutMs: number;
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
}

/** A chain of more than 100 images takes QEMU seconds to open. */
const OPEN_TIMEOUT_MS = 300_000;

export class DiskRollback {
  /** How much of the disk can differ, in whole clusters of the bitmap. */
  changedBytes = 0;
  readonly #node: (role: NodeRole) => string;

  constructor(
    readonly qmp: QmpClient,
    tag: string,
    readonly task: DiskTask,
    readonly undo: UndoStack,
  ) {
    this.#node = (role) => nodeName(tag, task.index, role);
  }

  async prepare(signal: AbortSignal): Promise<void> {
    const { qmp, task: { plan: { disk, granularityBytes, jobBitmap }, bitmap } } = this;
    const point = this.#node("point");
    await this.#open("point", this.task.point);
    await qmp.execute("block-dirty-bitmap-add", {
      node: point,
      name: jobBitmap,
      granularity: granularityBytes,
    });
    for (const image of this.task.differing) {
      signal.throwIfAborted();
      await this.#markImage(image);
    }
    await this.#mark(disk.node, bitmap);
    const node = (await queryNodes(qmp)).find((node) => node["node-name"] === point);
    const marked = node?.["dirty-bitmaps"].find(({ name }) => name === jobBitmap);
    this.changedBytes = marked?.countBytes ?? 0;
  }

  /** From here on the guest must not run. */
  async putAside(): Promise<void> {
    const { qmp, undo, task: { plan: { disk } } } = this;
    const [anchor, standIn] = [this.#node("gate"), this.#node("stand")];
    undo.push(`remove the node "${anchor}"`, () => removeNode(qmp, anchor));
    await addAnchor(qmp, disk, anchor);
    undo.push(`put the disk "${disk.name}" back at its device`, async () => {
      await takeOffStandIn(qmp, standIn);
      await removeNode(qmp, standIn);
    });
    try {
      await putStandIn(qmp, disk, standIn);
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      throw new Failure(
        `QEMU does not let go of the disk "${disk.name}" while the VM is there (${error.desc}): end QEMU, ` +
          "and restore into new files (restore merge)",
        { cause: error },
      );
    }
  }

  async write({ bytesPerSecond, stallTimeoutMs, signal, onProgress }: WriteOptions): Promise<void> {
    const { qmp, undo, task: { plan: { disk, job, jobBitmap } } } = this;
    const anchor = this.#node("gate");
    undo.push(`end the job "${job}"`, () => endJob(qmp, job));
    await qmp.execute("blockdev-backup", {
      "job-id": job,
      device: this.#node("point"),
      target: anchor,
      sync: "bitmap",
      bitmap: jobBitmap,
      "bitmap-mode": "never",
      speed: bytesPerSecond,
      "auto-dismiss": false,
    });
    const end = await waitForJob(qmp, job, {
      ...{ signal, stallTimeoutMs },
      onProgress: (job) => onProgress(job["current-progress"], job["total-progress"]),
    });
    if (end.error !== undefined) {
      throw new Failure(`The disk "${disk.name}" can't be written: ${end.error}`);
    }
    await this.#flush(anchor);
  }

  /** QEMU flushes a node and what is below it before it reopens it, and says if that fails. */
  async #flush(anchor: string): Promise<void> {
    const { disk } = this.task.plan;
    try {
      await repoint(this.qmp, [[anchor, disk.rootNode]]);
    } catch (error) {
      throw new Failure(`The disk "${disk.name}" can't be flushed: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** Marks what an image has of its own. */
  async #markImage(image: ChainImage): Promise<void> {
    const { qmp, task: { plan: { disk, granularityBytes, jobBitmap, nodes, lookJob } } } = this;
    const since = this.#node("since");
    await this.#open("since", [image]);
    await addAllocated(qmp, {
      ...{ disk: since, virtualSizeBytes: disk.virtualSizeBytes, granularityBytes },
      ...{ bitmap: jobBitmap, node: nodes.empty, job: lookJob },
    });
    await this.#mark(since, jobBitmap);
    await removeNode(qmp, since);
  }

  /** Adds what a bitmap of another node marks. */
  async #mark(node: string, name: string): Promise<void> {
    await this.qmp.execute("block-dirty-bitmap-merge", {
      node: this.#node("point"),
      target: this.task.plan.jobBitmap,
      bitmaps: [{ node, name }],
    });
  }

  /** Opens images, each on the one before, to be read only. */
  async #open(role: NodeRole, images: ChainImage[]): Promise<void> {
    const name = this.#node(role);
    const chain = images.reduce<Record<string, unknown> | null>((backing, { path }) => ({
      ...{ driver: "qcow2", "read-only": true, backing },
      file: { driver: "file", filename: path, "read-only": true },
    }), null);
    this.undo.push(`remove the node "${name}"`, () => removeNode(this.qmp, name));
    const options = { ...chain, "node-name": name };
    try {
      await this.qmp.execute("blockdev-add", options, { timeoutMs: OPEN_TIMEOUT_MS });
    } catch (error) {
      const { path } = images.at(-1) as ChainImage;
      throw explainOpen(error, path, "let QEMU's user read the images of the backup directory");
    }
  }
}
