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
import { createFile } from "../catalog/create.ts";
import { exists, removeFile, renameDurably, replaceSymlink, syncPath } from "../catalog/durable.ts";
import { backingLink, PARTIAL_SUFFIX, REPLACED_SUFFIX } from "../catalog/names.ts";
import { createFolder } from "../catalog/target.ts";
import { Failure } from "../errors.ts";
import { storeDifference } from "../image/difference.ts";
import { checkImage, createQcow2 } from "../image/qemu_img.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { endJob, waitForJob } from "../qmp/jobs.ts";
import { queryNodes } from "../qmp/queries.ts";
import type { Disk } from "../vm/disks.ts";
import { addExport, exportName, removeExport } from "../vm/exports.ts";
import { gateNode, removeBitmap, removeNode, setDrive, takeOffGate } from "../vm/nodes.ts";
import { backupJob, fileNode, filterNode, fleeceNode, readOnlyTarget } from "./nodes.ts";
import { snapshotNode, targetNode } from "./nodes.ts";
import type { DiskPlan, Plan } from "./plan.ts";
import { UndoStack } from "./undo.ts";

/** Closing a target may have to write much. We flush it before, so this is never used up. */
const CLOSE_TIMEOUT_MS = 300_000;

export interface CopyOptions {
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
}

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
    this.partial = this.image + PARTIAL_SUFFIX;
    this.#guest = new UndoStack(leftovers);
    this.#target = new UndoStack(leftovers);
    this.#result = new UndoStack(leftovers);
  }

  /** Puts everything in place that does not touch the disk's own nodes. */
  async prepare(): Promise<void> {
    await this.#openTarget();
    await this.#addNextBitmap();
    await this.#openFleece();
  }

  /** Puts a gate under the device, and a filter beside it. The gate still leads to the image. */
  async addGate(): Promise<void> {
    const { disk, nodes, cbwTimeoutSeconds } = this.disk;
    const filter = filterNode(nodes.filter, disk.rootNode, nodes.fleece, cbwTimeoutSeconds);
    await this.#addNode(this.#guest, filter);
    await this.#addNode(this.#guest, gateNode(nodes.gate, disk.rootNode));
    this.#guest.push(
      `take the gate off the disk "${disk.name}"`,
      () => takeOffGate(this.qmp, nodes.gate),
    );
    await setDrive(this.qmp, disk.id, nodes.gate);
  }

  /** Makes the contents of the moment at which the gate was led to the filter readable. */
  async addSnapshot(): Promise<void> {
    const { nodes } = this.disk;
    await this.#addNode(this.#guest, snapshotNode(nodes.snapshot, nodes.filter));
  }

  /**
   * Copies them, or what of them has changed; frees the guest, and closes the image.
   *
   * @throws {Failure} If the copy failed, or the image can't be closed or does not pass its check.
   */
  async copy(options: CopyOptions): Promise<void> {
    if (this.disk.compare) await this.#compare(options);
    else await this.#runJob(options);
    await this.#guest.unwind();
    await delay(this.plan.request.removeDelayMs, { signal: options.signal });
    await this.#closeTarget();
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
    // One that is there leads to an image of this name already.
    const isNew = !await exists(path);
    await replaceSymlink(path, basename(this.image));
    if (isNew) this.#result.push(`remove "${path}"`, () => removeFile(path));
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

  async #runJob(options: CopyOptions) {
    const { job, disk } = this.disk;
    this.#guest.push(`end the job "${job}"`, () => endJob(this.qmp, job));
    await this.qmp.execute("transaction", backupJob(this.plan, this.disk));
    const { error } = await waitForJob(this.qmp, job, {
      ...options,
      onProgress: (job) => options.onProgress(job["current-progress"], job["total-progress"]),
    });
    if (error === undefined) return;
    await this.#guest.unwind();
    throw new Failure(`The disk "${disk.name}" could not be copied: ${error}`);
  }

  async #compare({ signal, onProgress }: CopyOptions) {
    const { disk, exportId, nodes, folder, parent } = this.disk;
    this.#guest.push(`remove the export "${exportId}"`, () => removeExport(this.qmp, exportId));
    await addExport(this.qmp, exportId, nodes.snapshot);
    await storeDifference(this.partial, {
      contents: exportName(this.plan.nbdSocket as string, nodes.snapshot),
      parent: join(this.plan.request.target, parent as string),
      backing: backingLink(relative(folder, parent as string)),
      image: imageOptions(disk),
      signal,
      onPercent: (percent) =>
        onProgress(percent / 100 * disk.virtualSizeBytes, disk.virtualSizeBytes),
    });
  }

  async #closeTarget() {
    // Flushed by us first: QEMU would do it in its main loop, and the guest would stand still.
    await syncPath(this.partial);
    if (this.disk.compare) return;
    const options = readOnlyTarget(this.disk.nodes, this.plan.request);
    await this.qmp.execute("blockdev-reopen", options, { timeoutMs: CLOSE_TIMEOUT_MS });
    await this.#target.unwind();
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
    await createFolder(request.target, folder, request.mode);
    // By us, since QEMU's tools would make it for all to read, and through any link.
    await createFile(this.partial, request.mode);
    this.#result.push(
      `remove "${this.partial}"`,
      () => this.#removeClosed(nodes.file, this.partial),
    );
    // What is compared is written by `qemu-img`, not by QEMU.
    if (this.disk.compare) return;
    await createQcow2(this.partial, {
      ...imageOptions(disk),
      backing: parent && backingLink(relative(folder, parent)),
    });
    try {
      await this.#addNode(this.#target, fileNode(nodes.file, this.partial, request));
      await this.#addNode(this.#target, targetNode(nodes.target, nodes.file, request));
    } catch (error) {
      const folders = new Set([request.target, dirname(this.partial)]);
      throw explainOpen(
        error,
        this.partial,
        `let that user's group write there ${shareCommands(...folders)}`,
      );
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

  async #openFleece() {
    const { disk, nodes, fleeceFile } = this.disk;
    await createFile(fleeceFile, this.plan.request.mode);
    this.#guest.push(`remove "${fleeceFile}"`, () => this.#removeClosed(nodes.fleece, fleeceFile));
    await createQcow2(fleeceFile, { virtualSizeBytes: disk.virtualSizeBytes });
    try {
      await this.#addNode(this.#guest, fleeceNode(nodes.fleece, fleeceFile));
    } catch (error) {
      throw explainOpen(
        error,
        fleeceFile,
        "name a folder that user's group may write to with --fleece-dir DIR " +
          shareCommands("DIR"),
      );
    }
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

/** A new image is as the disk's own. */
function imageOptions({ virtualSizeBytes, clusterSizeBytes, lazyRefcounts }: Disk) {
  return {
    virtualSizeBytes,
    lazyRefcounts,
    ...(clusterSizeBytes ? { clusterSizeBytes } : {}),
  };
}

function explainOpen(error: unknown, path: string, remedy: string): unknown {
  if (!(error instanceof QmpCommandError)) return error;
  return new Failure(
    `QEMU can't open "${path}": ${error.desc}. If QEMU runs as another user, ${remedy}, and use ` +
      "--mode 0660; or run qmpbackup as QEMU's user. If QEMU sees other folders than we do (a " +
      "container), name one that both see",
    { cause: error },
  );
}

/** The commands that let a group make files in folders, which then belong to the group too. */
function shareCommands(...folders: string[]): string {
  const names = folders.map((folder) => `"${folder}"`).join(" ");
  return `(chgrp GROUP ${names}; chmod 2770 ${names})`;
}
