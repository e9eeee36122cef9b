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

import { getLogger } from "@logtape/logtape";
import { delay } from "@std/async/delay";
import { dirname, join } from "@std/path";
import { type Deadline, HangingError, watched } from "../fs/deadline.ts";
import { createFile } from "../fs/create.ts";
import { removeFile } from "../fs/durable.ts";
import { Failure, messageOf } from "../errors.ts";
import type { RunOptions } from "../qemu_img/qemu_img.ts";
import { firstDifference, storeDifference } from "../qemu_img/difference.ts";
import { emptyQcow2 } from "../qcow2/empty.ts";
import type { BlockErrors } from "../qmp/block_errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import {
  dismissJob,
  endJob,
  finalizeJob,
  JobError,
  JobEvents,
  StalledError,
  waitForJob,
  waitForWork,
} from "../qmp/jobs.ts";
import type { Job } from "../qmp/queries.ts";
import { addExport, exportName, removeExport } from "../vm/nbd_server.ts";
import { resumeAfterIoError, type StopEvents } from "../vm/io_error.ts";
import {
  gateNode,
  isNode,
  removeBitmap,
  removeNode,
  setDrive,
  takeOffGate,
} from "../vm/switch_node.ts";
import { backupJobs, chunkBytes, fileNode, filterNode, fleeceNode } from "./block_options.ts";
import {
  jobStallTimeoutMs,
  readAgain,
  readOnlyTarget,
  snapshotNode,
  targetNode,
} from "./block_options.ts";
import { explainCopy } from "./explain_copy.ts";
import { explainOpen, shareCommands } from "./permission_hint.ts";
import { ImageFile } from "./image_file.ts";
import { requireLinks } from "./backing_links.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { addFrom, addSentinel, SentinelError, type SentinelRecord } from "../vm/sentinel.ts";
import { explainFailure } from "./space.ts";
import { neededBytes } from "../plan/sizes.ts";
import { UndoStack } from "./undo.ts";

const log = getLogger(["qmpbackup", "backup"]);

/** Closing a target may have to write much. We flush it before, so this is never used up. */
const CLOSE_TIMEOUT_MS = 300_000;

/** It is to fail at its first read. */
const PROBE_TIMEOUT_MS = 10_000;

export interface CopyOptions {
  signal: AbortSignal;
  onProgress(doneBytes: number, totalBytes: number): void;
  /** Called when this disk's job has ended; resolves when those of all disks have. */
  allEnded(): Promise<void>;
}

export class DiskSession {
  readonly file: ImageFile;
  /** What tells later whether the disk was cut; null where it could not be had. */
  sentinel: SentinelRecord | null;
  readonly #guest: UndoStack;
  readonly #target: UndoStack;
  readonly #result: UndoStack;
  /** The nodes that QEMU has no more. */
  readonly #removed = new Set<string>();
  /** Made before the job is. */
  #events: JobEvents | null = null;
  #isConcluded = false;
  /** Storage that QEMU would wait for, and the guest with it. */
  #hanging: HangingError | null = null;

  constructor(
    readonly qmp: QmpClient,
    readonly deadline: Deadline,
    readonly plan: Plan,
    readonly disk: DiskPlan,
    readonly errors: BlockErrors,
    leftovers: string[],
    readonly stops: StopEvents,
  ) {
    this.sentinel = disk.sentinel;
    this.#guest = new UndoStack(leftovers);
    this.#target = new UndoStack(leftovers);
    this.#result = new UndoStack(leftovers);
    // Last of all, when our files are gone: see `watch_guest.ts`.
    for (const stack of [this.#guest, this.#result]) {
      stack.push("let the guest go on", async () => {
        if (qmp.isOpen && stops.heard) await resumeAfterIoError(qmp);
      });
    }
    this.file = new ImageFile(deadline, plan, disk, this.#result);
  }

  /** Makes the image, and lets QEMU open it. All disks share the target: what fails here is no disk's own. */
  async openTarget(): Promise<void> {
    const { request } = this.plan;
    const { nodes } = this.disk;
    const { partial } = this.file;
    await this.file.create(() => this.#refuseOpen(nodes.file));
    // What is compared is written by `qemu-img`, not by QEMU.
    if (this.disk.compare) return;
    await this.file.format();
    try {
      const file = fileNode(nodes.file, partial, request);
      await this.#addNode(this.#target, targetNode(nodes.target, file, request));
    } catch (error) {
      const folders = new Set([request.target, dirname(partial)]);
      throw explainOpen(
        error,
        partial,
        `let that user's group write there ${shareCommands(...folders)}`,
      );
    }
  }

  /**
   * Puts in place what lies on the storage of the disk itself, or beside it.
   *
   * @param warn Gets a sentence if something can't be had that the backup does not need.
   */
  async prepare(warn: (sentence: string) => void): Promise<void> {
    await this.#addNextBitmap(warn);
    if (!this.plan.direct) await this.#createFleece();
  }

  /** Puts a gate under the device, and a filter beside it. The gate still leads to the image. */
  async addGate(): Promise<void> {
    const { disk, nodes } = this.disk;
    await this.#addFilter();
    await this.#addNode(this.#guest, gateNode(nodes.gate, disk.rootNode));
    this.#pushInQemu(
      this.#guest,
      `take the gate off the disk "${disk.name}"`,
      () => takeOffGate(this.qmp, nodes.gate, disk),
    );
    await setDrive(this.qmp, disk.id, nodes.gate);
  }

  /** Makes the contents of the moment at which the gate was led to the filter readable. */
  async addSnapshot(): Promise<void> {
    const { nodes } = this.disk;
    await this.#addNode(this.#guest, snapshotNode(nodes.snapshot, nodes.filter));
  }

  /** The job is about to start; where there is no fleece, it is that of all disks at once. */
  expectJob(): void {
    const { job, jobBitmap, disk } = this.disk;
    if (this.plan.direct) {
      this.#guest.push(
        `remove the bitmap "${jobBitmap}"`,
        () => removeBitmap(this.qmp, disk.node, jobBitmap),
      );
    }
    this.#events = new JobEvents(this.qmp, job);
    this.#guest.push(`end the job "${job}"`, () => this.#endJob());
  }

  /**
   * Ends the job, if there is one. QEMU 5.2 crashes when it is asked for its nodes in the moment in which
   * a job takes its filter off a disk: without a fleece, all jobs end before anything else is put back.
   */
  async endJob(): Promise<void> {
    if (this.qmp.isOpen) await this.#endJob();
  }

  /**
   * Copies them, or what of them has changed; frees the guest, and closes the image.
   *
   * @throws {Failure} If the copy failed, or the image can't be closed or does not pass its check.
   */
  async copy(options: CopyOptions): Promise<void> {
    if (this.disk.compare) await this.#compare(options);
    else await this.#runJob(options);
    // What is stored by comparing was compared.
    const isVerified = this.plan.request.verify && !this.disk.compare;
    if (!isVerified) await this.#guest.unwind();
    await delay(this.plan.request.removeDelayMs, { signal: options.signal });
    if (isVerified) {
      // It is read from the file, as a restore would, and not from QEMU.
      await this.#endJob();
      await this.#closeTarget();
      await this.#verify(options);
      await this.#guest.unwind();
    } else await this.#closeTarget();
    await this.file.check();
    await this.file.digest(options.signal);
  }

  /** The record is written: the image and the next bitmap stay, the spent bitmaps go. */
  async keep(): Promise<void> {
    this.keepResult();
    await this.file.removeReplaced();
    for (const name of this.disk.spentBitmaps) {
      await removeBitmap(this.qmp, this.disk.disk.node, name);
    }
  }

  /** The image and the next bitmap stay. */
  keepResult(): void {
    this.#result.keep();
  }

  /** Takes away all that is not to stay: the guest's side first. */
  async unwind(): Promise<void> {
    await this.#guest.unwind();
    await this.#target.unwind();
    await this.#result.unwind();
  }

  async #runJob(options: CopyOptions) {
    if (!this.plan.direct) {
      this.expectJob();
      await this.qmp.execute("transaction", backupJobs(this.plan, [this.disk]));
    }
    const failure = await this.#waitForJob(options);
    if (!failure) return;
    await this.#guest.unwind();
    throw failure;
  }

  /** @returns Why the job failed; null if it did not. */
  async #waitForJob({ signal, onProgress, allEnded }: CopyOptions): Promise<Failure | null> {
    const stallTimeoutMs = jobStallTimeoutMs(this.plan, this.disk);
    // See `backupJobs()`: only a job that reads a snapshot waits for us.
    const wait = this.plan.direct ? waitForJob : waitForWork;
    try {
      let end = await wait(this.qmp, this.disk.job, {
        signal,
        stallTimeoutMs,
        ...(this.#events ? { events: this.#events } : {}),
        onProgress: (job) => {
          this.#refuseOutgrown(job["total-progress"]);
          onProgress(job["current-progress"], job["total-progress"]);
        },
      });
      if (end.status === "pending") {
        await this.#refuseHanging();
        end = await finalizeJob(this.qmp, this.disk.job, this.#events ?? undefined);
      }
      this.#isConcluded = end.status === "concluded";
      return await this.#failureOf(end);
    } catch (error) {
      throw error instanceof StalledError ? this.#stalled(stallTimeoutMs) : error;
    } finally {
      if (this.plan.direct) await this.endJob().catch(() => {}).finally(allEnded);
    }
  }

  async #failureOf(end: Job): Promise<Failure | null> {
    const isStopped = end.status === "paused";
    if (!isStopped && end.error === undefined) return null;
    const { job, nodes, disk } = this.disk;
    const restBytes = end["total-progress"] - end["current-progress"];
    const why = await explainFailure(this.deadline, this.plan, this.disk, restBytes);
    return new Failure(explainCopy(this.disk, this.file.partial, this.plan.direct, {
      operation: isStopped ? "read" : this.errors.ofJob(job),
      reason: isStopped ? await this.#readError() : end.error ?? null,
      guest: this.errors.ofGuest([nodes.gate, disk.rootNode, disk.node]),
      why,
    }));
  }

  /**
   * Why a job was stopped QEMU does not tell. So another one is to read what is left, and ends with the
   * system's words at the first of it.
   *
   * @returns Null where that can't be told either.
   */
  async #readError(): Promise<string | null> {
    const { probeJob } = this.disk;
    try {
      await this.#endJob();
      this.#guest.push(`end the job "${probeJob}"`, () => endJob(this.qmp, probeJob));
      await this.qmp.execute("blockdev-backup", readAgain(this.disk));
      const signal = AbortSignal.timeout(PROBE_TIMEOUT_MS);
      return (await waitForJob(this.qmp, probeJob, { signal })).error ?? null;
    } catch {
      return null;
    }
  }

  #stalled(stallTimeoutMs: number): Failure {
    return new Failure(
      `The copy of "${this.disk.disk.name}" to "${this.file.partial}" has made no progress for ` +
        `${
          stallTimeoutMs / 1000
        } s (--stall-timeout). Check whether the storage of the target is still there`,
    );
  }

  /** Between the plan and the point in time the guest may have written more than was reserved for. */
  #refuseOutgrown(changedBytes: number) {
    const { disk, reserveBytes } = this.disk;
    if (!this.plan.direct || neededBytes(disk, changedBytes) <= reserveBytes) return;
    throw new Failure(`The guest writes too much to "${disk.name}" just now: run again`);
  }

  /** Stores where the disk differs from its last backup. */
  async #compare(options: CopyOptions) {
    const { backing, ...image } = this.file.options;
    const parent = join(this.plan.request.target, this.disk.parent as string);
    await this.#withExport(options, async (contents, how) => {
      await requireLinks(this.deadline, parent, how.signal);
      await storeDifference(this.deadline, this.file.partial, {
        ...{ contents, parent, backing: backing as string, image },
        ...how,
      });
    });
  }

  /**
   * Compares the closed image with the point in time.
   *
   * @throws {Failure} If they differ.
   */
  async #verify(options: CopyOptions) {
    const { disk, parent } = this.disk;
    const { partial } = this.file;
    await this.#withExport(options, async (contents, how) => {
      if (parent !== null) {
        await requireLinks(this.deadline, join(this.plan.request.target, parent), how.signal);
      }
      const difference = await firstDifference(this.deadline, partial, contents, how);
      if (difference === null) {
        return log.info("Disk {name}: the image holds what the disk held", { name: disk.name });
      }
      const { offset } = difference;
      const where = offset === null
        ? ""
        : ` (the first difference is at byte ${offset} of the disk)`;
      throw new Failure(
        `The new image of the disk "${disk.name}" does not hold what the disk held at the point in time` +
          `${where}: it was removed, and earlier backups are as they were. Check the storage of the target ` +
          "and the memory of this machine, and run again. If this comes again, check the earlier backups " +
          '("restore verify"), and take a full one (--level full)',
      );
    });
  }

  /** Lets `qemu-img` read the point in time, for as long as it comes further. */
  async #withExport(
    { signal, onProgress }: CopyOptions,
    work: (contents: string, how: RunOptions & { signal: AbortSignal }) => Promise<void>,
  ) {
    const { disk, exportId, nodes } = this.disk;
    const { request, nbdSocket } = this.plan;
    this.#pushInQemu(
      this.#guest,
      `remove the export "${exportId}"`,
      () => removeExport(this.qmp, exportId),
    );
    await addExport(this.qmp, exportId, nodes.snapshot);
    await watched(
      request.stallTimeoutMs,
      () => this.#stalled(request.stallTimeoutMs),
      async (watch) => {
        await work(exportName(nbdSocket as string, nodes.snapshot), {
          signal: AbortSignal.any([signal, watch.signal]),
          onPercent: (percent) => {
            watch.progress();
            onProgress(percent / 100 * disk.virtualSizeBytes, disk.virtualSizeBytes);
          },
        });
      },
    );
  }

  async #closeTarget() {
    // Flushed by us first: QEMU would do it in its main loop, and the guest would stand still.
    await this.file.flush();
    if (this.disk.compare) return;
    await this.#refuseHanging();
    const { request, features } = this.plan;
    const options = readOnlyTarget(this.disk.nodes, request, features.reopen);
    await this.qmp.execute(features.reopen, options, { timeoutMs: CLOSE_TIMEOUT_MS });
    await this.#target.unwind();
    if (this.plan.direct) await this.file.giveBack();
  }

  async #addNextBitmap(warn: (sentence: string) => void) {
    const { disk, nextBitmap, granularityBytes, isNewSentinel } = this.disk;
    if (nextBitmap === null) return;
    if (isNewSentinel) await this.#addSentinel(warn);
    this.#result.push(
      `remove the bitmap "${nextBitmap}" of the disk "${disk.name}"`,
      () => removeBitmap(this.qmp, disk.node, nextBitmap),
    );
    const bitmap = {
      node: disk.node,
      name: nextBitmap,
      granularity: granularityBytes,
      persistent: disk.holdsBitmaps,
    };
    if (!this.sentinel) return await this.qmp.execute("block-dirty-bitmap-add", bitmap);
    const bit = { node: disk.node, name: this.sentinel.bitmap };
    await this.qmp.execute("transaction", { actions: addFrom(bitmap, bit) });
  }

  /** A backup without one is as good, but the next run can't tell whether the disk was cut meanwhile. */
  async #addSentinel(warn: (sentence: string) => void) {
    const { disk, sentinel, granularityBytes, nodes } = this.disk;
    if (sentinel === null) return;
    const removeSentinel = () => removeBitmap(this.qmp, disk.node, sentinel.bitmap);
    const removeEnd = () => removeNode(this.qmp, nodes.end);
    this.#result.push(
      `remove the bitmap "${sentinel.bitmap}" of the disk "${disk.name}"`,
      removeSentinel,
    );
    this.#result.push(`remove the node "${nodes.end}"`, removeEnd);
    try {
      await addSentinel(this.qmp, sentinel.bitmap, {
        node: nodes.end,
        disk: disk.node,
        virtualSizeBytes: disk.virtualSizeBytes,
        granularityBytes,
        persistent: disk.holdsBitmaps,
      });
    } catch (error) {
      if (!(error instanceof QmpCommandError || error instanceof SentinelError)) throw error;
      await removeEnd();
      await removeSentinel();
      this.sentinel = null;
      warn(
        `If the disk "${disk.name}" is shrunk and grown again, the next increment will not notice: take a ` +
          `full backup then (--level full). ${messageOf(error)}`,
      );
    }
  }

  async #createFleece() {
    const { disk, nodes, fleeceFile } = this.disk;
    // Its folder may be the disk's, and its owner's: nobody but QEMU opens it by its name, who has no more
    // rights there than before.
    const empty = emptyQcow2(disk.virtualSizeBytes, chunkBytes(disk));
    await createFile(this.deadline, fleeceFile, this.plan.request.mode, empty);
    this.#guest.push(`remove "${fleeceFile}"`, async () => {
      if (!this.#removed.has(nodes.filter)) await this.#refuseOpen(nodes.fleece);
      await removeFile(this.deadline, fleeceFile);
    });
  }

  async #addFilter() {
    const { disk, nodes, fleeceFile, cbwTimeoutSeconds } = this.disk;
    const fleece = fleeceNode(nodes.fleece, fleeceFile);
    try {
      await this.#addNode(
        this.#guest,
        filterNode(nodes.filter, disk.rootNode, fleece, cbwTimeoutSeconds),
      );
    } catch (error) {
      throw explainOpen(
        error,
        fleeceFile,
        "name a folder that user's group may write to with --fleece-dir DIR " +
          shareCommands("DIR"),
      );
    }
  }

  /** A file is not removed under a QEMU that still writes to it: there it would grow unseen. */
  async #refuseOpen(node: string) {
    if (await isNode(this.qmp, node)) {
      throw new Failure("QEMU still has it open; the next run tries again");
    }
  }

  async #addNode(stack: UndoStack, options: { "node-name": string }) {
    const name = options["node-name"];
    this.#pushInQemu(stack, `remove the node "${name}"`, async () => {
      await removeNode(this.qmp, name);
      this.#removed.add(name);
    });
    await this.qmp.execute("blockdev-add", options);
  }

  /** As `UndoStack.push()`, for what QEMU may wait for the storage with. */
  #pushInQemu(stack: UndoStack, what: string, undo: () => Promise<unknown>) {
    stack.push(what, async () => {
      await this.#refuseHanging();
      await undo();
    });
  }

  async #endJob() {
    try {
      if (!this.plan.direct) await this.#refuseHanging();
      const end = this.#isConcluded ? dismissJob : endJob;
      await end(this.qmp, this.disk.job);
      this.#isConcluded = false;
      this.#events?.[Symbol.dispose]();
    } catch (error) {
      if (!(error instanceof JobError || error instanceof HangingError)) throw error;
      const what = error instanceof JobError
        ? `${error.message}: the storage of "${this.file.partial}" hangs`
        : error.message;
      this.#hanging = new HangingError(
        `${what}. The guest writes on, through the filter "${this.disk.nodes.filter}"`,
        { cause: error },
      );
      throw this.#hanging;
    }
  }

  /**
   * Asks the storage whether it answers, before QEMU is told to do what may wait for it: QEMU waits
   * in its main loop, with the guest at a stand. What is left alone then harms nobody: the guest's
   * writes go through the filter.
   */
  async #refuseHanging() {
    if (this.#hanging) throw this.#hanging;
    try {
      for (const folder of [this.plan.request.target, dirname(this.disk.fleeceFile)]) {
        await this.deadline.probe(folder);
      }
    } catch (error) {
      if (error instanceof HangingError) this.#hanging = error;
      throw error;
    }
  }
}
