/**
 * Rolls the disks of a VM back to a point in time, by writing only what differs.
 *
 * ```
 * locks ─▶ guest stopped ─▶ safety backup ─▶ where each disk differs ─▶ "half-way" recorded ─▶ disks written
 * ─▶ guest reset ─▶ "half-way" removed ─▶ guest runs
 * ```
 *
 * Up to the record nothing of a disk is touched, and whatever goes wrong, the guest goes on with what it had. From
 * the record on the guest stays stopped, and no backup is taken, until a rollback is done: it can be run again at any
 * time, since the bitmaps know what was written.
 *
 * @module
 */

import { type BackupContext, type Locked, newRun, planLocked } from "../backup/backup.ts";
import { refuseEarly, runLocked } from "../backup/backup.ts";
import { UndoStack } from "../backup/undo.ts";
import { exitCodeOf, Failure, messageOf, UsageError } from "../errors.ts";
import { exists } from "../fs/durable.ts";
import type { Plan } from "../plan/plan.ts";
import { refuseOtherVm } from "../plan/plan_backup.ts";
import type { BackupRequest } from "../plan/request.ts";
import { NOT_INCLUDED } from "../plan/select.ts";
import { queryIdentity, queryStatus } from "../qmp/queries.ts";
import { recover } from "../recovery/order.ts";
import { restorePoints } from "../repo/chains.ts";
import { HALF_WAY_HEAD, type HalfWay, readHalfWay } from "../repo/half_way.ts";
import { removeHalfWay, writeHalfWay } from "../repo/half_way.ts";
import { tagOf } from "../repo/layout.ts";
import type { RunRecord } from "../repo/record.ts";
import { claimTarget, readTarget, refuseLinks, refuseShared } from "../repo/repository.ts";
import type { Target } from "../repo/repository.ts";
import { NO_MARK, writeMark } from "../repo/run_mark.ts";
import { checkImages } from "../restore/check_images.ts";
import { StopEvents } from "../vm/io_error.ts";
import { lockVm, vmHolder } from "../vm/lock.ts";
import { queryObjects } from "../vm/marks.ts";
import { removeRollbackMark, setRollbackMark } from "../vm/rollback_mark.ts";
import { connectVm, nameHolder } from "../vm/socket_holder.ts";
import { type Choice, chooseDisks, type Chosen } from "./choose.ts";
import { DiskRollback } from "./disk.ts";
import { needsReset, resetGuest, resetWords, stopGuest, type StoppedGuest } from "./guest.ts";
import { planTasks, refuseUnfit } from "./tasks.ts";

export interface RollbackRequest extends Choice {
  /** The guest may be reset. */
  reset: boolean;
  safetyBackup: boolean;
  dryRun: boolean;
  skipCheck: boolean;
  bytesPerSecond: number;
  /** Of the safety backup, but for the disks that it takes. */
  backup: BackupRequest;
}

export interface RollbackContext extends BackupContext {
  onWrite(disk: string, doneBytes: number, totalBytes: number): void;
}

export interface RolledBackDisk {
  disk: string;
  /** The image of the point in time. */
  point: string;
  /** How much of the disk was written, or would be. */
  changedBytes: number;
  virtualSizeBytes: number;
  /** The file behind the disk. */
  file: string;
}

export interface Rollback {
  state: "planned" | "done";
  run: string;
  /** UTC. */
  pointInTime: string;
  /** The run of the safety backup; null where none was taken. */
  safetyBackup: string | null;
  isReset: boolean;
  /** Whether the guest runs now. */
  isRunning: boolean;
  disks: RolledBackDisk[];
  warnings: string[];
}

/**
 * Rolls back, or says what that would write.
 *
 * @throws {UsageError} If the request does not fit; nothing was touched then.
 * @throws {LockedError} If another run holds the target or the VM.
 * @throws {Failure} If it could not be done; if disks are half-way, that is said.
 */
export async function rollBack(
  request: RollbackRequest,
  context: RollbackContext,
): Promise<Rollback> {
  const { deadline, signal } = context;
  const { backup: { target: path, mode } } = request;
  const run = newRun();
  if (!await exists(deadline, path) || (await readTarget(deadline, path)).runs.length === 0) {
    throw new UsageError(
      `"${path}" holds no records of backups: name the backup directory of the VM, or of a month`,
    );
  }
  await using claimed = await claimTarget(deadline, path, run, mode);
  const target = await readTarget(deadline, path);
  await refuseLinks(deadline, target);
  await refuseShared(deadline, target, mode);
  refuseEncrypted(target);
  const before = await readHalfWay(deadline, path);
  const chosen = await chooseDisks(deadline, target, request, before);
  for (const { point } of chosen.disks) {
    const how = { skipCheck: request.skipCheck, keyFile: null, deadline, signal };
    await checkImages(point.layers(), how);
  }
  await using qmp = await connectVm(deadline, context.socket, context.qmpOptions);
  await using _named = await nameHolder(deadline, context.socket, run);
  const vm = await queryIdentity(qmp);
  refuseOtherVm(target, vm);
  await refuseEarly(deadline, qmp, request.backup);
  const holder = await vmHolder(deadline, run, claimed.lockFile);
  await using lock = await lockVm(deadline, qmp, holder);
  const recovered = await recover(deadline, qmp, {
    dead: lock.dead,
    target: { path, read: () => Promise.resolve(target) },
    mode,
    thaw: null,
  });
  const objects = recovered.vm?.objects ?? await queryObjects(qmp);
  const locked = { target, vm, qmp, run, holder, recovered, objects };
  return await new Steps(request, context, locked, chosen, before).run();
}

function refuseEncrypted({ path, runs }: Target) {
  if (!restorePoints(runs).some(({ disk }) => disk.encrypted)) return;
  throw new UsageError(
    `"${path}" holds encrypted backups, which a VM can't be rolled back to: use "restore vm" or "restore merge"`,
  );
}

/** The rest, with the locks held. */
class Steps {
  constructor(
    readonly request: RollbackRequest,
    readonly context: RollbackContext,
    readonly locked: Locked,
    readonly chosen: Chosen,
    readonly before: HalfWay | null,
  ) {}

  async run(): Promise<Rollback> {
    const { request, context, chosen, before, locked: { qmp, run, holder } } = this;
    const state = await queryStatus(qmp);
    const isReset = needsReset(state.status);
    if (isReset && !request.reset && !request.dryRun) {
      throw new UsageError(resetWords(state.status));
    }
    const leftovers: string[] = [];
    await using undo = new UndoStack(leftovers);
    const isStopped = state.running && !request.dryRun;
    const guest = await stopGuest(undo, qmp, { ...context, run: holder.run }, isStopped);
    const { plan, safetyBackup, runs } = await this.#backUpFirst(state.running);
    const tasks = planTasks(chosen.disks.map(({ row }) => row), plan, runs, safetyBackup);
    const disks = tasks.map((task) => new DiskRollback(qmp, tagOf(run.run), task, undo));
    for (const disk of disks) await disk.prepare(context.signal);
    const result = {
      ...{ run: chosen.run, pointInTime: new Date(chosen.timeMs).toISOString(), safetyBackup },
      disks: disks.map(({ changedBytes, task: { plan: { disk } } }, i): RolledBackDisk => ({
        ...{ disk: disk.name, point: chosen.disks[i]?.point.name ?? "", changedBytes },
        ...{ virtualSizeBytes: disk.virtualSizeBytes, file: disk.source },
      })),
      warnings: [...chosen.warnings, ...this.#otherDisks(plan)],
    };
    if (request.dryRun) {
      return { ...result, state: "planned", isReset: false, isRunning: state.running };
    }
    const wasRunning = state.running || (before?.wasRunning ?? false);
    await this.#declare(wasRunning, guest);
    try {
      await this.#putAside(disks, undo, state.running);
      await this.#write(disks);
      await undo.unwind();
      if (leftovers.length > 0) throw new Failure(leftovers.join(". "));
      const isThere = !isReset || await resetGuest(qmp);
      await removeHalfWay(context.deadline, request.backup.target);
      if (!isThere) {
        result.warnings.push("QEMU ended at the reset (-no-reboot): start the VM again");
      } else {
        await removeRollbackMark(qmp);
        if (wasRunning) await qmp.execute("cont");
      }
      return { ...result, state: "done", isReset, isRunning: isThere && wasRunning };
    } catch (error) {
      if (await readHalfWay(context.deadline, request.backup.target) === null) throw error;
      throw new HalfWayError(error, chosen.run, request.backup.target);
    }
  }

  /** The VM's disks that stay as they are, though nobody asked for that. */
  #otherDisks({ leftOut }: Plan): string[] {
    if (this.request.include.length > 0) return [];
    return leftOut.filter(({ reason }) => reason === NOT_INCLUDED).map(({ device }) =>
      `The disk "${device}" is not in that backup, and stays as it is`
    );
  }

  /**
   * Takes the safety backup. After a rollback that did not end there is one already, and another one would only be
   * of half a state: it is taken if the guest has run since, or nothing else tells what the disks hold.
   */
  async #backUpFirst(
    isRunning: boolean,
  ): Promise<{ plan: Plan; safetyBackup: string | null; runs: RunRecord[] }> {
    const { request, context, locked, chosen, before } = this;
    const { deadline } = context;
    const { target: path, mode } = request.backup;
    using stops = new StopEvents(locked.qmp);
    const asked = { ...request.backup, include: chosen.disks.map(({ row }) => row.id) };
    const planned = await planLocked(locked, asked, deadline);
    const { plan } = planned;
    refuseUnfit(chosen.disks.map(({ row }) => row), plan);
    const isKnown = plan.disks.every(({ previousBitmap }) => previousBitmap !== null);
    const isThere = before !== null && isKnown && !isRunning;
    if (request.dryRun || !request.safetyBackup || isThere) {
      return { plan, safetyBackup: null, runs: plan.runs };
    }
    const note = before === null
      ? `before a rollback to ${chosen.run}`
      : `half rolled back to ${before.run}: the guest never had this state`;
    const id = locked.run.run;
    await writeMark(deadline, path, id, { isProtected: false, note }, mode);
    try {
      const record = await runLocked(planned, locked, stops, context);
      if (record.state !== "done") {
        const why = record.disks.find(({ error }) => error !== null)?.error;
        throw new Failure(
          `The safety backup failed${
            why ? ` (${why})` : ""
          }, so the disks were left as they are: ` +
            "repair that, or roll back without it (--no-safety-backup)",
        );
      }
      return { plan, safetyBackup: id, runs: (await readTarget(deadline, path)).runs };
    } catch (error) {
      await writeMark(deadline, path, id, NO_MARK);
      throw error;
    }
  }

  /** From here on disks may be half-way, and this is known wherever it matters. */
  async #declare(wasRunning: boolean, guest: StoppedGuest): Promise<void> {
    const { request: { backup: { target, mode } }, context, chosen, before } = this;
    const { deadline, signal } = context;
    // The last moment at which a signal can still undo all.
    signal.throwIfAborted();
    const names = [...(before?.disks ?? []), ...chosen.disks.map(({ row }) => row.name)];
    const halfWay: HalfWay = {
      ...HALF_WAY_HEAD,
      ...{ since: new Date().toISOString(), run: chosen.run, disks: [...new Set(names)] },
      wasRunning,
    };
    await writeHalfWay(deadline, target, halfWay, mode);
    await setRollbackMark(this.locked.qmp, `to the run ${chosen.run} from "${target}"`);
    await guest.keep();
  }

  /** Takes all disks from their devices. If that can't be done, nothing was written, and all is as it was. */
  async #putAside(disks: DiskRollback[], undo: UndoStack, wasRunning: boolean): Promise<void> {
    const { before, context: { deadline }, locked: { qmp }, request: { backup } } = this;
    try {
      for (const disk of disks) await disk.putAside();
    } catch (error) {
      await undo.unwind();
      if (before !== null || !qmp.isOpen) throw error;
      await removeHalfWay(deadline, backup.target);
      await removeRollbackMark(qmp);
      if (wasRunning) await qmp.execute("cont");
      throw error;
    }
  }

  /** All disks, one after the other. */
  async #write(disks: DiskRollback[]): Promise<void> {
    const { request: { bytesPerSecond, backup }, context: { signal, onWrite } } = this;
    for (const disk of disks) {
      await disk.write({
        ...{ bytesPerSecond, stallTimeoutMs: backup.stallTimeoutMs, signal },
        onProgress: (done, total) => onWrite(disk.task.plan.disk.name, done, total),
      });
    }
  }
}

/** Disks may be half-way. */
class HalfWayError extends Failure {
  override name = "HalfWayError";
  override readonly exitCode: number;

  constructor(error: unknown, run: string, target: string) {
    super(
      `${
        messageOf(error)
      }. The disks may be half rolled back, and the guest stays stopped: run "restore ` +
        `rollback --dir ${target} --until ${run}" again, with the flags that it had`,
      { cause: error },
    );
    this.exitCode = exitCodeOf(error);
  }
}
