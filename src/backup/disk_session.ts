/**
 * One disk on its way through a backup: what is put into QEMU and on the target for it, in the order
 * that loses nothing, and how it is taken away again.
 *
 * Three stacks, for three moments: what stands between the guest and its disk goes first, whatever
 * happens; then the target is closed; the image and the bitmap of the future stay if they are done.
 *
 * Source: QEMU's "Dirty Bitmaps and Incremental Backup" and the `copy-before-write` and
 * `snapshot-access` block drivers of the QMP Reference Manual.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { basename, dirname, join, relative } from "@std/path";
import { exists, removeFile, renameDurably, replaceSymlink, syncPath } from "../catalog/durable.ts";
import { partialName, REPLACED_SUFFIX } from "../catalog/names.ts";
import { createFolder } from "../catalog/target.ts";
import { Failure } from "../errors.ts";
import { checkImage, createQcow2 } from "../image/qemu_img.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { endJob, waitForJob } from "../qmp/jobs.ts";
import { type Job, queryNodes } from "../qmp/queries.ts";
import { removeBitmap, removeNode, setDrive, takeOffFilter } from "../vm/nodes.ts";
import { backupJob, fileNode, filterNode, fleeceNode, readOnlyTarget } from "./nodes.ts";
import { snapshotNode, targetNode } from "./nodes.ts";
import type { DiskPlan, Plan } from "./plan.ts";
import { UndoStack } from "./undo.ts";

/** Closing a target may have to write much. We flush it before, so this is never used up. */
const CLOSE_TIMEOUT_MS = 300_000;

export class DiskSession {
  /** Absolute. */
  readonly image: string;
  readonly partial: string;
  readonly #guest: UndoStack;
  readonly #target: UndoStack;
  readonly #result: UndoStack;

  constructor(
    readonly qmp: QmpClient,
    readonly plan: Plan,
    readonly disk: DiskPlan,
    leftovers: string[],
  ) {
    this.image = join(plan.request.target, disk.file);
    this.partial = partialName(this.image, plan.runId);
    this.#guest = new UndoStack(leftovers);
    this.#target = new UndoStack(leftovers);
    this.#result = new UndoStack(leftovers);
  }

  /** Puts everything in place. The guest's writes don't go through it yet. */
  async prepare(): Promise<void> {
    await this.#openTarget();
    await this.#addNextBitmap();
    await this.#addFilter();
  }

  /** Switches the guest's writes over to the filter: the disk's contents at this moment are kept. */
  async switchOver(): Promise<void> {
    const { filter } = this.disk.nodes;
    this.#guest.push(
      `take the filter off the disk "${this.disk.disk.name}"`,
      () => takeOffFilter(this.qmp, filter),
    );
    await setDrive(this.qmp, this.disk.disk.id, filter);
  }

  /** Starts to copy the contents of that moment. */
  async startJob(): Promise<void> {
    const { nodes, job } = this.disk;
    await this.#addNode(this.#guest, snapshotNode(nodes.snapshot, nodes.filter));
    this.#guest.push(`end the job "${job}"`, () => endJob(this.qmp, job));
    await this.qmp.execute("transaction", backupJob(this.plan, this.disk));
  }

  /**
   * Waits until all is copied, frees the guest, and closes the image.
   *
   * @throws {Failure} If the job failed, or the image can't be closed or does not pass its check.
   */
  async finish(options: { signal: AbortSignal; onProgress: (job: Job) => void }): Promise<void> {
    const { error } = await waitForJob(this.qmp, this.disk.job, options);
    await this.#guest.unwind();
    if (error !== undefined) {
      throw new Failure(`The disk "${this.disk.disk.name}" could not be copied: ${error}`);
    }
    const { request } = this.plan;
    await delay(request.removeDelayMs, { signal: options.signal });
    // Flushed by us first: QEMU would do it in its main loop, and the guest would stand still.
    await syncPath(this.partial);
    await this.qmp.execute("blockdev-reopen", readOnlyTarget(this.disk.nodes, request), {
      timeoutMs: CLOSE_TIMEOUT_MS,
    });
    await this.#target.unwind();
    await checkImage(this.partial);
    await syncPath(this.partial);
  }

  /** Gives the finished image its name. It does not count before the run's record says so. */
  async publish(): Promise<void> {
    const { replaces, link } = this.disk;
    if (replaces) await this.#setAside();
    if (await exists(this.image)) throw new Failure(`"${this.image}" exists already`);
    this.#result.push(`remove "${this.image}"`, () => removeFile(this.image));
    await renameDurably(this.partial, this.image);
    if (link === null) return;
    const path = join(dirname(this.image), link);
    this.#result.push(`remove "${path}"`, () => removeFile(path));
    await replaceSymlink(path, basename(this.image));
  }

  /** The record is written: the image and the next bitmap stay, the spent bitmaps go. */
  async keep(): Promise<void> {
    this.#result.keep();
    if (this.disk.replaces) await removeFile(this.#aside);
    for (const name of this.disk.spentBitmaps) {
      await removeBitmap(this.qmp, this.disk.disk.node, name);
    }
  }

  /** Takes away all that is not to stay: the guest's side first. */
  async unwind(): Promise<void> {
    await this.#guest.unwind();
    await this.#target.unwind();
    await this.#result.unwind();
  }

  /** The image that the new one replaces, until that counts. */
  get #aside(): string {
    return this.image + REPLACED_SUFFIX;
  }

  async #setAside() {
    await Deno.rename(this.image, this.#aside);
    this.#result.push(`put "${this.image}" back`, () => Deno.rename(this.#aside, this.image));
  }

  async #openTarget() {
    const { disk, nodes, folder, parent } = this.disk;
    const { request } = this.plan;
    await createFolder(request.target, folder);
    this.#result.push(
      `remove "${this.partial}"`,
      () => this.#removeClosed(nodes.file, this.partial),
    );
    await createQcow2(this.partial, {
      virtualSizeBytes: disk.virtualSizeBytes,
      ...(disk.clusterSizeBytes ? { clusterSizeBytes: disk.clusterSizeBytes } : {}),
      lazyRefcounts: disk.lazyRefcounts,
      backing: parent && relative(folder, parent),
    });
    try {
      await this.#addNode(this.#target, fileNode(nodes.file, this.partial, request));
      await this.#addNode(this.#target, targetNode(nodes.target, nodes.file, request));
    } catch (error) {
      throw explainOpen(error, this.partial, "target", "--target");
    }
  }

  async #addNextBitmap() {
    const { disk, nextBitmap, granularityBytes } = this.disk;
    if (nextBitmap === null) return;
    this.#result.push(
      `remove the bitmap "${nextBitmap}" of the disk "${disk.name}"`,
      () => removeBitmap(this.qmp, disk.node, nextBitmap),
    );
    await this.qmp.execute("block-dirty-bitmap-add", {
      node: disk.node,
      name: nextBitmap,
      granularity: granularityBytes,
      persistent: disk.holdsBitmaps,
    });
  }

  async #addFilter() {
    const { disk, nodes, fleeceFile, cbwTimeoutSeconds } = this.disk;
    this.#guest.push(`remove "${fleeceFile}"`, () => this.#removeClosed(nodes.fleece, fleeceFile));
    await createQcow2(fleeceFile, { virtualSizeBytes: disk.virtualSizeBytes });
    try {
      await this.#addNode(this.#guest, fleeceNode(nodes.fleece, fleeceFile));
    } catch (error) {
      throw explainOpen(error, fleeceFile, "fleece", "--fleece-dir");
    }
    const filter = filterNode(nodes.filter, disk.rootNode, nodes.fleece, cbwTimeoutSeconds);
    await this.#addNode(this.#guest, filter);
  }

  /** Removes a file, but not under a QEMU that still writes to it: there it would grow unseen. */
  async #removeClosed(node: string, path: string) {
    const nodes = await queryNodes(this.qmp);
    if (nodes.some((other) => other["node-name"] === node)) {
      throw new Failure("QEMU still has it open; the next run tries again");
    }
    await removeFile(path);
  }

  async #addNode(stack: UndoStack, options: { "node-name": string }) {
    const name = options["node-name"];
    stack.push(`remove the node "${name}"`, () => removeNode(this.qmp, name));
    await this.qmp.execute("blockdev-add", options);
  }
}

function explainOpen(error: unknown, path: string, what: string, option: string): unknown {
  if (!(error instanceof QmpCommandError)) return error;
  return new Failure(
    `QEMU can't open the ${what} "${path}": ${error.desc}. QEMU may run as another user, or see ` +
      `other folders than we do: run qmpbackup as QEMU's user, or name another folder with ${option}`,
    { cause: error },
  );
}
