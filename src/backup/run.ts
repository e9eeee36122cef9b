/**
 * Carries a plan out. The only part of a backup that changes anything.
 *
 * ```
 * record "running" ─▶ images, next bitmaps, filters ─▶ point in time ─▶ copies ─▶ images closed and
 * checked ─▶ renamed ─▶ record "done" (from here on it counts) ─▶ obsolete bitmaps removed
 * ```
 *
 * Whatever happens before the record is written leaves the bitmaps of the last backup as they were:
 * the next increment holds both.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import { requireRightKey } from "../qemu_img/try_key.ts";
import { RESTORE_FILE, UUID_FILE } from "../repo/layout.ts";
import type { Deadline } from "../fs/deadline.ts";
import { allocatedBytes } from "../fs/files.ts";
import { exists } from "../fs/durable.ts";
import { removeSaved, saveFiles } from "../repo/saved.ts";
import { writeRestoreFile } from "../repo/restore_file.ts";
import { recordFingerprints, writeBeside, writeChainId, writeRun } from "../repo/repository.ts";
import { explainGone, messageOf } from "../errors.ts";
import type { Machine } from "../machine/machine.ts";
import type { GuestAgent } from "../qga/agent.ts";
import { BlockErrors } from "../qmp/block_errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { type BlockNode, queryNodes } from "../qmp/queries.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import type { Watchdog } from "../recovery/watchdog.ts";
import type { StopEvents } from "../vm/io_error.ts";
import { startNbdServer, stopNbdServer } from "../vm/nbd_server.ts";
import { removeBitmap } from "../vm/switch_node.ts";
import { lookAtDisks, refuseChanged, refuseResized } from "./changed_disk.ts";
import type { DiskCopy, Moment } from "./disk_copy.ts";
import { keepMigrationAway } from "./keep_migration_away.ts";
import { takePointInTime } from "./point_in_time.ts";
import { configText, draftRecord, failAll } from "./run_record.ts";
import { type RunningDisk, RunningDisks } from "./running_disks.ts";
import { sideBySide } from "./side_by_side.ts";
import { checkSpace } from "./space.ts";
import { UndoStack } from "./undo.ts";
import { watchGuest } from "./watch_guest.ts";
import { chooseWays } from "./ways.ts";

const log = getLogger(["qmpbackup", "backup"]);

export interface RunContext {
  qmp: QmpClient;
  deadline: Deadline;
  /** The guest's agent, if its file systems are to be frozen. */
  agent: GuestAgent | null;
  /** Listens since before the VM's state was asked for. */
  stops: StopEvents;
  signal: AbortSignal;
  /** See `point_in_time.ts`. */
  startWatchdog: () => Promise<Watchdog>;
  /** What was said before the run and belongs into its record. */
  warnings: string[];
  toolVersion: string;
  /** What the VM is; null where it can't be told. */
  machine: Machine | null;
  /** Called before anything is changed; what it throws ends the run. The record is kept up to date. */
  onBegin(record: RunRecord): Promise<void>;
  onProgress(disk: DiskPlan, doneBytes: number, totalBytes: number): void;
  /** A disk goes no further; why was logged. */
  onFail(disk: DiskPlan): void;
}

/**
 * Runs a backup.
 *
 * @returns The run's record, as it was written; a disk that failed is a row of it.
 * @throws Whatever kept the run as a whole from being done, when everything is undone and recorded.
 */
export async function runBackup(plan: Plan, context: RunContext): Promise<RunRecord> {
  using errors = new BlockErrors(context.qmp);
  return await new Run(plan, context, errors).run();
}

class Run {
  readonly #record: RunRecord;
  /** Gets a sentence for each thing that could not be taken away. */
  readonly #leftovers: string[] = [];
  /** What the run has put into QEMU for all disks together. */
  readonly #whole = new UndoStack(this.#leftovers);
  readonly #disks: RunningDisk[];
  readonly #moment: Moment;

  constructor(readonly plan: Plan, readonly context: RunContext, errors: BlockErrors) {
    this.#record = draftRecord(plan, context);
    const { qmp, deadline, stops } = context;
    const run = { qmp, deadline, plan, stops, leftovers: this.#leftovers };
    const { copies, moment } = chooseWays(run, errors);
    this.#moment = moment;
    this.#disks = copies.map((copy, index) => ({
      copy,
      row: this.#record.disks[index] as DiskRecord,
    }));
  }

  async run(): Promise<RunRecord> {
    await this.#begin();
    try {
      const warnings = await keepMigrationAway(this.context, this.plan, this.#whole);
      this.#record.warnings.push(...warnings);
      await this.#takePointInTime();
      await this.#copy();
      await this.#publish();
    } catch (thrown) {
      const error = explainGone(thrown);
      await this.#rollBack(error);
      throw error;
    }
    await this.#commit();
    return this.#record;
  }

  /** Records that the run is on: from here on a run that comes after it finds what it leaves. */
  async #begin(): Promise<void> {
    const { plan, context } = this;
    const { deadline } = context;
    const { target, mode } = plan.request;
    await this.#tryKey();
    this.#record.warnings.push(...await checkSpace(deadline, plan));
    await context.onBegin(this.#record);
    // The first one last: see `halfAdopted()`.
    for (const adopted of plan.adopted.toReversed()) {
      await writeRun(deadline, target, adopted, mode);
    }
    await recordFingerprints(deadline, target, plan.newFingerprints);
    await writeRun(deadline, target, this.#record, mode);
  }

  /** A chain has one key. */
  async #tryKey(): Promise<void> {
    const { plan: { request: { target, keyFile }, tryKeyOn }, context: { deadline, signal } } =
      this;
    if (keyFile === null) return;
    for (const file of tryKeyOn) {
      await requireRightKey(deadline, [join(target, file)], keyFile, signal);
    }
  }

  async #takePointInTime(): Promise<void> {
    const { plan, context: { qmp, signal, agent, startWatchdog } } = this;
    const disks = new RunningDisks(qmp, signal, this.#disks);
    // One after another: a first one that QEMU may not open leaves no folders of the others, which would be closed to it.
    for (const { copy } of this.#disks) {
      signal.throwIfAborted();
      await copy.openImage();
    }
    await disks.atOnce(async ({ copy, row }) => {
      row.sentinel = await copy.prepare(this.#warn);
    });
    signal.throwIfAborted();
    const steps = {
      getReady: async () => {
        const present = await lookAtDisks(qmp, plan);
        await disks.each(async ({ copy }) => {
          refuseChanged(copy.disk, present);
          await copy.beforeMoment();
        });
      },
      switchOver: async () => {
        const nodes = await queryNodes(qmp);
        await disks.each(({ copy }) => refuseResized(copy.disk, nodes));
        await disks.each(({ copy }) => copy.atMoment());
        await disks.together(
          (all) => this.#moment.take(all.map(({ copy }) => copy.disk)),
          ({ copy }) => this.#moment.probe(copy.disk),
        );
      },
      addSnapshots: () => disks.each(({ copy }) => copy.afterMoment()),
    };
    const { at, hold } = await takePointInTime(qmp, steps, {
      agent,
      require: plan.request.quiesce === "require",
      pause: plan.pause !== null,
      startWatchdog,
      warn: this.#warn,
    });
    this.#record.pointInTime = at.toISOString();
    this.#record.hold = hold;
  }

  async #copy(): Promise<void> {
    const { plan, context: { qmp, deadline, signal, stops } } = this;
    await using shared = new UndoStack(this.#leftovers);
    if (plan.nbdSocket !== null) {
      shared.push("stop QEMU's NBD server", () => stopNbdServer(deadline, qmp));
      await startNbdServer(qmp, plan.nbdSocket);
    }
    // Without a fleece it is the job that hears of it first.
    await using watch = plan.direct ? null : watchGuest(qmp, stops);
    const copySignal = watch ? AbortSignal.any([signal, watch.signal]) : signal;
    let asked: Promise<BlockNode[]> | null = null;
    const nodes = () => asked ??= queryNodes(qmp);
    await Promise.all(this.#disks.map((disk) => this.#copyDisk(disk, copySignal, nodes)));
    signal.throwIfAborted();
  }

  /** A disk's failure is its own; the others go on. */
  async #copyDisk(
    { copy, row }: RunningDisk,
    signal: AbortSignal,
    nodes: () => Promise<BlockNode[]>,
  ): Promise<void> {
    if (row.result === "failed") return await copy.giveUp();
    const { deadline, onProgress, onFail } = this.context;
    try {
      await copy.copy({
        ...{ signal, nodes },
        onProgress: (doneBytes, totalBytes) => onProgress(copy.disk, doneBytes, totalBytes),
      });
      row.bytesWritten = await allocatedBytes(deadline, copy.file.partial);
    } catch (error) {
      row.result = "failed";
      row.error = messageOf(explainGone(error));
      // Said at once: what can't be written to the target can't be read there. After a signal that is said once.
      if (!this.context.signal.aborted) {
        log.error("Disk {name}: {words}", { name: row.name, words: row.error });
      }
      onFail(copy.disk);
      await copy.unwind();
    }
  }

  async #publish(): Promise<void> {
    const { deadline, signal } = this.context;
    const { target, mode, save } = this.plan.request;
    const copied = this.#disks.filter(({ row }) => row.result !== "failed");
    await sideBySide(copied.map((disk) => this.#publishDisk(disk)));
    const { disks } = this.#record;
    const inChain = disks.some(({ result, level }) => result === "done" && level !== "copy");
    if (inChain && !await exists(deadline, join(target, UUID_FILE))) {
      await writeChainId(deadline, target, this.plan.chainId, mode);
    }
    await saveFiles(deadline, target, this.#record.id, save, mode);
    // The last moment at which a signal can still undo all.
    signal.throwIfAborted();
    this.#record.state = disks.some(({ result }) => result === "failed") ? "failed" : "done";
    this.#record.finished = new Date().toISOString();
    await writeRun(deadline, target, this.#record);
  }

  async #publishDisk({ copy, row }: RunningDisk): Promise<void> {
    const { target, mode } = this.plan.request;
    row.fingerprint = await copy.file.finish();
    const warning = await copy.file.publish();
    const unrecorded = await copy.file.recordDigests(row.fingerprint);
    for (const sentence of [warning, unrecorded]) if (sentence !== null) this.#warn(sentence);
    const { disk } = copy;
    await writeBeside(this.context.deadline, target, disk.configFile, configText(disk), mode);
    row.result = "done";
  }

  /** The record stands: what it names stays, and what could not be taken away is named in it. */
  async #commit(): Promise<void> {
    const known = this.#record.warnings.length;
    for (const { copy, row } of this.#disks) {
      if (row.result === "done") await this.#commitDisk(copy);
    }
    await this.#unwind();
    await this.#describeRestore();
    if (this.#leftovers.length > 0) this.#record.state = "failed";
    if (this.#leftovers.length === 0 && this.#record.warnings.length === known) return;
    this.#record.warnings.push(...this.#leftovers);
    await writeRun(this.context.deadline, this.plan.request.target, this.#record);
  }

  /** Writes how to restore from the target as it is now. */
  async #describeRestore(): Promise<void> {
    const { request: { target, mode }, runs } = this.plan;
    try {
      await writeRestoreFile(this.context.deadline, target, [...runs, this.#record], mode);
    } catch (error) {
      this.#warn(
        `${RESTORE_FILE} could not be written, and describes older backups: ${messageOf(error)}`,
      );
    }
  }

  /** The image and the next bitmap stay; what they replace goes. */
  async #commitDisk(copy: DiskCopy): Promise<void> {
    const { disk, file } = copy;
    copy.keepResult();
    try {
      await file.removeReplaced();
      for (const name of disk.obsoleteBitmaps) {
        await removeBitmap(this.context.qmp, disk.disk.node, name);
      }
    } catch (error) {
      // It only costs some memory.
      this.#warn(
        `An obsolete bitmap could not be removed from "${disk.disk.name}": ` +
          messageOf(error),
      );
    }
  }

  /** All that was done is taken away again, and the record says why. */
  async #rollBack(error: unknown): Promise<void> {
    await Promise.allSettled(this.#disks.map(({ copy }) => copy.stop()));
    if (this.#record.finished !== null) await this.#takeBackRecord(error);
    await this.#unwind();
    const { deadline } = this.context;
    const { target } = this.plan.request;
    await removeSaved(deadline, target, this.#record.id).catch((later) =>
      this.#leftovers.push(`The copies made by --save could not be removed: ${messageOf(later)}`)
    );
    failAll(this.#record, error, this.#leftovers);
    await writeRun(deadline, target, this.#record).catch((later) =>
      log.error("The run's record could not be written: {words}", { words: messageOf(later) })
    );
  }

  /**
   * The record could not be written to its end, and may say all the same that all is done: before the images go,
   * it must not.
   */
  async #takeBackRecord(error: unknown): Promise<void> {
    failAll(this.#record, error, []);
    try {
      await writeRun(this.context.deadline, this.plan.request.target, this.#record);
    } catch {
      // Said later. Whatever the record says now, the next run finds its images, or removes them.
      for (const { copy } of this.#disks) copy.keepResult();
    }
  }

  async #unwind(): Promise<void> {
    await Promise.all(this.#disks.map(({ copy }) => copy.unwind()));
    await this.#whole.unwind();
  }

  #warn = (sentence: string) => void this.#record.warnings.push(sentence);
}
