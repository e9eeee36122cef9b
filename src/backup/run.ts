/**
 * Carries a plan out. The only part of a backup that changes anything.
 *
 * ```
 * record "running" ─▶ targets, next bitmaps, filters ─▶ point in time ─▶ jobs ─▶ images closed and
 * checked ─▶ renamed ─▶ record "done" (from here on it counts) ─▶ spent bitmaps removed
 * ```
 *
 * Whatever happens before the record is written leaves the bitmaps of the last backup as they were:
 * the next increment holds both.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { dirname, join } from "@std/path";
import { type DiskRecord, RECORD_HEAD, type RunRecord } from "../repo/record.ts";
import { RESTORE_FILE, UUID_FILE } from "../repo/layout.ts";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { allocatedBytes } from "../fs/files.ts";
import { exists } from "../fs/durable.ts";
import { removeSaved, saveFiles } from "../repo/saved.ts";
import { writeRestoreFile } from "../repo/restore_file.ts";
import { recordFingerprints, writeBeside, writeChainId, writeRun } from "../repo/repository.ts";
import { explainGone, Failure, messageOf, StoppedError } from "../errors.ts";
import type { Machine } from "../machine/machine.ts";
import type { GuestAgent } from "../qga/agent.ts";
import { BlockErrors } from "../qmp/block_errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { type BlockNode, queryGraph, queryNodes } from "../qmp/queries.ts";
import { backendOf } from "../vm/backend.ts";
import { type Disk, queryDisks } from "../vm/disks.ts";
import type { StopEvents } from "../vm/io_error.ts";
import { isOurNode } from "../vm/names.ts";
import { addMigrationBlocker } from "../vm/migration.ts";
import { leadGates, nodeNames, removeNode } from "../vm/switch_node.ts";
import { DiskSession } from "./disk_session.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { UndoStack } from "./undo.ts";
import { refuseWritable } from "./explain_use.ts";
import { startNbdServer, stopNbdServer } from "../vm/nbd_server.ts";
import type { Guard } from "../recovery/watchdog.ts";
import { backupJobs, jobActions } from "./block_options.ts";
import { type SwitchSteps, takePointInTime } from "./point_in_time.ts";
import { RunningDisks } from "./running_disks.ts";
import { sentinelProblem } from "../vm/sentinel.ts";
import { checkSpace } from "./space.ts";
import { watchGuest } from "./watch_guest.ts";

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
  startGuard: () => Promise<Guard>;
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
  const { deadline } = context;
  const record = draftRecord(plan, context);
  record.warnings.push(...await checkSpace(deadline, plan));
  await context.onBegin(record);
  const leftovers: string[] = [];
  using errors = new BlockErrors(context.qmp);
  const sessions = plan.disks.map((disk) =>
    new DiskSession(context.qmp, deadline, plan, disk, errors, leftovers, context.stops)
  );
  const whole = new UndoStack(leftovers);
  const { target, mode } = plan.request;
  // The first one last: see `halfAdopted()`.
  for (const adopted of plan.adopted.toReversed()) await writeRun(deadline, target, adopted, mode);
  await recordFingerprints(deadline, target, plan.newFingerprints);
  await writeRun(deadline, target, record, mode);
  try {
    record.warnings.push(...await keepMigrationAway(context, plan, whole));
    await takeAndCopy(plan, context, record, sessions, leftovers);
    await publish(plan, context, record, sessions);
  } catch (thrown) {
    const error = explainGone(thrown);
    if (plan.direct) await Promise.allSettled(sessions.map((session) => session.endJob()));
    if (record.finished !== null) await takeBack(plan, context, record, sessions, error);
    await unwindAll(sessions, whole);
    await removeSaved(deadline, plan.request.target, record.id).catch((later) =>
      leftovers.push(`What --save had saved could not be removed: ${messageOf(later)}`)
    );
    failAll(record, error, leftovers);
    await writeRun(deadline, plan.request.target, record).catch((later) =>
      log.error("The run's record could not be written: {words}", { words: messageOf(later) })
    );
    throw error;
  }
  await settle(plan, context, record, sessions, whole);
  return record;
}

/**
 * Keeps a migration away until all that is put into QEMU now is gone. The file for that bears the name of
 * a fleece that is not there yet: so it lies where QEMU can open it, and a later run finds it.
 *
 * @returns Warnings.
 * @throws {Failure} If the VM is being migrated.
 */
async function keepMigrationAway(
  { qmp, deadline }: RunContext,
  plan: Plan,
  undo: UndoStack,
): Promise<string[]> {
  const { disks: [disk], migrationBlocker: node, request: { mode } } = plan;
  if (!disk) return [];
  undo.push("let the VM be migrated again", async () => {
    // What is still in the guest's way is named by its own step.
    if (undo.leftovers.length > 0) {
      const ours = (await nodeNames(qmp)).filter(isOurNode);
      if (ours.some((name) => name !== node)) return;
    }
    await deadline.probe(dirname(disk.fleeceFile));
    await removeNode(qmp, node);
  });
  try {
    await addMigrationBlocker(deadline, qmp, node, disk.fleeceFile, mode);
    return [];
  } catch (error) {
    if (!isOfBlocker(error)) throw error;
    return [
      "Nothing keeps a live migration away from this backup, and the guest may stop if both run at " +
      `one time: don't migrate the VM meanwhile (${messageOf(error)})`,
    ];
  }
}

/** QEMU lacks the formats or can't open the file, or that can't be made: nothing but the blocker fails. */
function isOfBlocker(error: unknown): boolean {
  const isOfStorage = error instanceof QmpCommandError || error instanceof HangingError;
  return isOfStorage || !(error instanceof Failure);
}

async function takeAndCopy(
  plan: Plan,
  context: RunContext,
  record: RunRecord,
  sessions: DiskSession[],
  leftovers: string[],
) {
  const { qmp, deadline, agent, signal, startGuard, onProgress, onFail } = context;
  const rows = sessions.map((session, index) => ({
    session,
    row: record.disks[index] as DiskRecord,
  }));
  const disks = new RunningDisks(qmp, signal, rows);
  for (const session of sessions) {
    signal.throwIfAborted();
    await session.openTarget();
  }
  const warn = (sentence: string) => void record.warnings.push(sentence);
  await disks.each(async ({ session, row }) => {
    await session.prepare(warn);
    row.sentinel = session.sentinel;
  });
  signal.throwIfAborted();
  const steps = plan.direct ? directSteps : fleecedSteps;
  const { at, hold } = await takePointInTime(qmp, steps(qmp, plan, disks), {
    agent,
    require: plan.request.quiesce === "require",
    pause: plan.pause !== null,
    startGuard,
    warn,
  });
  record.pointInTime = at.toISOString();
  record.hold = hold;
  await using shared = new UndoStack(leftovers);
  if (plan.nbdSocket !== null) {
    shared.push("stop QEMU's NBD server", () => stopNbdServer(deadline, qmp));
    await startNbdServer(qmp, plan.nbdSocket);
  }
  // Without a fleece it is the job that hears of it first.
  await using watch = plan.direct ? null : watchGuest(qmp, context.stops);
  const copySignal = watch ? AbortSignal.any([signal, watch.signal]) : signal;
  // After the point in time, when nobody can resize a disk any more.
  const nodes = plan.direct ? null : queryNodes(qmp);
  nodes?.catch(() => {});
  const allEnded = gathering(sessions.length);
  await Promise.all(rows.map(async ({ session, row }) => {
    const { disk } = session;
    try {
      if (row.result === "failed") {
        if (plan.direct) await allEnded();
        await session.unwind();
        return;
      }
      if (nodes) refuseResized(disk, await nodes);
      await session.copy({
        signal: copySignal,
        allEnded,
        onProgress: (doneBytes, totalBytes) => onProgress(disk, doneBytes, totalBytes),
      });
      row.bytesWritten = await allocatedBytes(deadline, session.file.partial);
    } catch (error) {
      // A disk's failure is its own; the others go on.
      row.result = "failed";
      row.error = messageOf(explainGone(error));
      // Said at once: what can't be written to the target can't be read there. After a signal that is said once.
      if (!signal.aborted) log.error("Disk {name}: {words}", { name: row.name, words: row.error });
      onFail(disk);
      await session.unwind();
    }
  }));
  signal.throwIfAborted();
}

/** A point that as many have to reach before any goes on. */
function gathering(count: number): () => Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  let missing = count;
  return () => {
    if (--missing === 0) resolve();
    return promise;
  };
}

/** The guest's writes go through filters, which keep what is overwritten: a job may take its time. */
function fleecedSteps(qmp: QmpClient, plan: Plan, disks: RunningDisks): SwitchSteps {
  return {
    addGates: async () => {
      const present = await lookAtDisks(qmp, plan);
      await disks.each(async ({ session }) => {
        refuseChanged(session.disk, present);
        await session.addGate();
      });
    },
    switchOver: async () => {
      await refuseAllResized(qmp, disks);
      await disks.together(
        (all) =>
          leadGates(qmp, all.map(({ session: { disk: { nodes } } }) => [nodes.gate, nodes.filter])),
        ({ session }) => probeGate(qmp, session.disk),
      );
    },
    addSnapshots: () => disks.each(({ session }) => session.addSnapshot()),
  };
}

/** Jobs on the disks themselves, which start at one moment. */
function directSteps(qmp: QmpClient, plan: Plan, disks: RunningDisks): SwitchSteps {
  return {
    addGates: async () => {
      const present = await lookAtDisks(qmp, plan);
      await disks.each(({ session }) => refuseChanged(session.disk, present));
    },
    switchOver: async () => {
      await refuseAllResized(qmp, disks);
      await disks.each(({ session }) => session.expectJob());
      await disks.together(
        (all) =>
          qmp.execute("transaction", backupJobs(plan, all.map(({ session }) => session.disk))),
        ({ session }) => probeJob(qmp, plan, session.disk),
      );
    },
    addSnapshots: () => Promise.resolve(),
  };
}

/** Leads a gate to where it leads: what QEMU does besides, with any of them, is to flush the disk. */
async function probeGate(qmp: QmpClient, { disk, nodes }: DiskPlan) {
  await refuseWritable(qmp, disk);
  try {
    await leadGates(qmp, [[nodes.gate, disk.rootNode]]);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    throw new Failure(
      `The storage of the disk "${disk.name}" fails: ${error.desc}. Check "${disk.source}"`,
      { cause: error },
    );
  }
}

/** Starts a job in a transaction that never comes about: its last action refuses. */
async function probeJob(qmp: QmpClient, plan: Plan, disk: DiskPlan) {
  const abort = { type: "abort", data: {} };
  const refusal = async (actions: unknown[]) => {
    const answer = qmp.execute("transaction", { actions: [...actions, abort] });
    return await answer.then(() => null, (error) => error);
  };
  const own = await refusal(jobActions(plan, disk));
  const always = await refusal([]);
  if (messageOf(own) === messageOf(always)) return;
  throw own;
}

/** Which nodes a device has now: the one at its root, and that of its image. */
type DiskNodes = Pick<Disk, "id" | "rootNode" | "node">;

/**
 * The graph alone tells that a disk with its image right at the device is as it was. Of all others the nodes are
 * asked for: only `query-block` passes over the filters that other programs' jobs have put there.
 */
async function lookAtDisks(qmp: QmpClient, plan: Plan): Promise<DiskNodes[]> {
  const graph = await queryGraph(qmp);
  const disks = plan.disks.map(({ disk }) => disk);
  const isAsItWas = (disk: Disk) =>
    disk.rootNode === disk.node && backendOf(graph, disk)?.root === disk.rootNode;
  return disks.every(isAsItWas) ? disks : (await queryDisks(qmp)).disks;
}

/** Looks whether a device still has the node that its filter stands on, and below it its image. */
function refuseChanged({ disk: { id, name, rootNode, node } }: DiskPlan, now: DiskNodes[]) {
  const present = now.find((disk) => disk.id === id);
  if (present?.rootNode === rootNode && present.node === node) return;
  throw new Failure(`The disk "${name}" was changed by another program meanwhile: run again`);
}

/**
 * Looks whether a disk is as large as it was planned for, and was not cut since its last backup. Once its gate
 * leads to its filter nobody can resize it; before, image and filter were made, and what lies beyond those the
 * guest could not write.
 */
function refuseResized({ disk, previousSentinel }: DiskPlan, nodes: BlockNode[]) {
  const node = nodes.find((node) => node["node-name"] === disk.node);
  const isCut = node && previousSentinel &&
    sentinelProblem(node["dirty-bitmaps"], previousSentinel) !== null;
  if (node?.image["virtual-size"] === disk.virtualSizeBytes && !isCut) return;
  throw new Failure(`The disk "${disk.name}" was resized meanwhile: run again`);
}

async function refuseAllResized(qmp: QmpClient, disks: RunningDisks) {
  const nodes = await queryNodes(qmp);
  await disks.each(({ session }) => refuseResized(session.disk, nodes));
}

async function publish(
  plan: Plan,
  { deadline, signal }: RunContext,
  record: RunRecord,
  sessions: DiskSession[],
) {
  const { target, mode } = plan.request;
  for (const [index, session] of sessions.entries()) {
    const row = record.disks[index] as DiskRecord;
    if (row.result === "failed") continue;
    row.fingerprint = await session.file.finish();
    const warning = await session.file.publish();
    const unrecorded = await session.file.recordDigests(row.fingerprint);
    record.warnings.push(...[warning, unrecorded].filter((sentence) => sentence !== null));
    await writeBeside(deadline, target, session.disk.configFile, configText(session.disk), mode);
    row.result = "done";
  }
  const inChain = record.disks.some(({ result, level }) => result === "done" && level !== "copy");
  if (inChain && !await exists(deadline, join(target, UUID_FILE))) {
    await writeChainId(deadline, target, plan.chainId, mode);
  }
  await saveFiles(deadline, target, record.id, plan.request.save, mode);
  // The last moment at which a signal can still undo all.
  signal.throwIfAborted();
  record.state = record.disks.some(({ result }) => result === "failed") ? "failed" : "done";
  record.finished = new Date().toISOString();
  await writeRun(deadline, target, record);
}

/**
 * The record could not be written to its end, and may say all the same that all is done: before the images
 * go, it must not.
 */
async function takeBack(
  plan: Plan,
  { deadline }: RunContext,
  record: RunRecord,
  sessions: DiskSession[],
  error: unknown,
) {
  failAll(record, error, []);
  try {
    await writeRun(deadline, plan.request.target, record);
  } catch {
    // Said below. Whatever stands in the record, the next run finds its images, or removes them.
    for (const session of sessions) session.keepResult();
  }
}

/** The record stands: what it names stays, and what could not be put back is named in it. */
async function settle(
  plan: Plan,
  { deadline }: RunContext,
  record: RunRecord,
  sessions: DiskSession[],
  whole: UndoStack,
) {
  const { leftovers } = whole;
  const known = record.warnings.length;
  for (const [index, session] of sessions.entries()) {
    if (record.disks[index]?.result !== "done") continue;
    await session.keep().catch((error) => {
      // It counts for nothing any more, and only costs some memory.
      record.warnings.push(
        `A bitmap that counts no more could not be removed from "${session.disk.disk.name}": ` +
          messageOf(error),
      );
    });
  }
  await unwindAll(sessions, whole);
  const { request: { target, mode }, runs } = plan;
  await writeRestoreFile(deadline, target, [...runs, record], mode).catch((error) => {
    record.warnings.push(
      `${RESTORE_FILE} could not be written, and tells of older backups: ${messageOf(error)}`,
    );
  });
  if (leftovers.length > 0) record.state = "failed";
  if (leftovers.length === 0 && record.warnings.length === known) return;
  record.warnings.push(...leftovers);
  await writeRun(deadline, plan.request.target, record);
}

async function unwindAll(sessions: DiskSession[], whole: UndoStack) {
  await Promise.all(sessions.map((session) => session.unwind()));
  await whole.unwind();
}

function failAll(record: RunRecord, error: unknown, leftovers: string[]) {
  const cancelled = error instanceof StoppedError;
  record.state = cancelled ? "cancelled" : "failed";
  record.finished = new Date().toISOString();
  record.error = messageOf(error);
  record.warnings.push(...leftovers);
  for (const row of record.disks) {
    row.result = cancelled ? "cancelled" : "failed";
    row.error ??= messageOf(error);
  }
}

function draftRecord(plan: Plan, { qmp, toolVersion, warnings, machine }: RunContext): RunRecord {
  const { save } = plan.request;
  return {
    ...RECORD_HEAD,
    id: plan.runId,
    sequence: plan.sequence,
    level: plan.request.level,
    state: "running",
    chain: plan.chainId,
    started: plan.startedAt.toISOString(),
    pointInTime: null,
    finished: null,
    tool: toolVersion,
    qemu: qmp.version,
    vm: plan.vm,
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks: plan.disks.map(draftDisk),
    leftOut: plan.leftOut,
    warnings: [...warnings],
    ...(machine ? { machine } : {}),
    ...(save.length > 0
      ? { saved: save.map(({ name, contents }) => ({ name, sizeBytes: contents.length })) }
      : {}),
  };
}

function draftDisk(disk: DiskPlan): DiskRecord {
  return {
    id: disk.disk.id,
    name: disk.disk.name,
    folder: disk.folder,
    source: disk.disk.source,
    format: disk.disk.format,
    node: disk.disk.node,
    level: disk.level,
    reason: disk.reason,
    bitmap: disk.nextBitmap,
    granularityBytes: disk.nextBitmap === null ? null : disk.granularityBytes,
    sentinel: disk.sentinel,
    backing: disk.disk.backing,
    fleece: disk.fleeceFile,
    file: disk.file,
    parent: disk.parent,
    unrecorded: disk.unrecorded,
    virtualSizeBytes: disk.disk.virtualSizeBytes,
    bytesWritten: 0,
    result: "pending",
    error: null,
  };
}

function configText({ disk }: DiskPlan): string {
  return JSON.stringify(disk.image, null, 2) + "\n";
}
