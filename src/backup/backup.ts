/**
 * A backup from request to record: locks, recovery, facts, plan, run.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import type { Deadline } from "../fs/deadline.ts";
import { exists, requireSymlinks } from "../fs/durable.ts";
import { type Holder, holderNow } from "../fs/flock.ts";
import { runId, tagOf, targetOfLock } from "../repo/layout.ts";
import { refuseHalfWay } from "../repo/half_way.ts";
import { readPastMonths } from "../repo/months.ts";
import type { RunRecord } from "../repo/record.ts";
import {
  claimTarget,
  knowsDisks,
  outlineTarget,
  readTarget,
  refuseForeign,
  refuseSharedFolder,
  refuseSharedOutline,
  type Target,
} from "../repo/repository.ts";
import { Failure, messageOf, UsageError } from "../errors.ts";
import { GuestAgent, refuseFrozen, thawAnew } from "../qga/agent.ts";
import { requireQemuImg } from "../qemu_img/qemu_img.ts";
import { QmpClient, type QmpOptions } from "../qmp/client.ts";
import { type QomChild, queryIdentity, type VmIdentity } from "../qmp/queries.ts";
import { holderOfVm, lockVm, unlockVm, type VmHolder, vmHolder } from "../vm/lock.ts";
import { queryObjects } from "../vm/marks.ts";
import type { Device } from "../vm/devices.ts";
import { connectVm, nameHolder } from "../vm/socket_holder.ts";
import type { Address } from "../wire/address.ts";
import { describeMachine, type KnownVm } from "../machine/describe.ts";
import { refuseRollbackMark } from "../vm/rollback_mark.ts";
import { markIoError, StopEvents } from "../vm/io_error.ts";
import { gatherFacts } from "../plan/gather.ts";
import { type FailedRun, recordFailure } from "./failed_run.ts";
import { startWatchdog } from "../recovery/watchdog.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { planBackup, refuseOtherVm } from "../plan/plan_backup.ts";
import { recover, type Recovered } from "../recovery/order.ts";
import type { BackupRequest } from "../plan/request.ts";
import type { KeepRules } from "../prune/policy.ts";
import { measureTarget } from "./measure_target.ts";
import { mergeSinceFull, pruneAfter } from "./prune_after.ts";
import { runBackup } from "./run.ts";
import { isShutDown, silenceOf } from "../plan/run_state.ts";

const log = getLogger(["qmpbackup", "backup"]);

export interface BackupContext {
  socket: Address;
  qmpOptions: QmpOptions;
  agentSocket: Address | null;
  agentTimeoutMs: number;
  deadline: Deadline;
  signal: AbortSignal;
  toolVersion: string;
  /** What is kept of the points once the run is done; null keeps all. */
  keep: KeepRules | null;
  /** Each increment is to hold all that changed since the last full backup. */
  isDiff: boolean;
  onPlan(plan: Plan): void;
  /** See `run.ts`. */
  onBegin(record: RunRecord): Promise<void>;
  onProgress(disk: DiskPlan, doneBytes: number, totalBytes: number): void;
  /** See `run.ts`. */
  onFail(disk: DiskPlan): void;
}

/**
 * Backs up a VM.
 *
 * @returns The run's record; its `state` says whether all disks are done.
 * @throws {UsageError} If the request does not fit; nothing was touched then.
 * @throws {LockedError} If another run holds the target or the VM.
 * @throws {Failure} If the run as a whole could not be done.
 */
export async function backUp(request: BackupRequest, context: BackupContext): Promise<RunRecord> {
  const { deadline } = context;
  const run = newRun();
  // Its version is asked for while the target is read and locked. A run that is refused before does not wait for it.
  const qemuImg = requireQemuImg();
  qemuImg.catch(() => {});
  const outline = await outlineTarget(deadline, request.target);
  await refuseForeign(deadline, outline);
  await refuseSharedOutline(deadline, outline, request.mode);
  const lastMonth = request.monthly ? await findLastMonth(deadline, request.target) : undefined;
  // A new month's folder is not there yet: that is neither a typing mistake nor a missing mount.
  if (!lastMonth && !await exists(deadline, request.target)) {
    return await backUpToNew(run, request, context, qemuImg);
  }
  // The target is locked first: a run that holds it may also hold the VM's only socket.
  await using claimed = await claimTarget(deadline, request.target, run, request.mode);
  // Read now: until here another run may have written.
  const target = await readTarget(deadline, request.target);
  const failed = { id: run.run, startedAt: startOf(run), toolVersion: context.toolVersion };
  const vmThen = lastMonth?.runs.findLast(({ disks }) => disks.length > 0)?.vm ?? null;
  let asked: Pick<FailedRun, "qemu" | "vm"> = { qemu: "", vm: vmThen };
  const backUpIt = async () => {
    await using qmp = await connectVm(deadline, context.socket, context.qmpOptions);
    await using _named = await nameHolder(deadline, context.socket, run);
    const vm = await queryIdentity(qmp);
    asked = { qemu: qmp.version, vm };
    // A dead run's files are removed only if we talk to the same VM: its QEMU may still write to them.
    refuseOtherVm(target, vm);
    await refuseEarly(deadline, qmp, request, qemuImg);
    return await backUpTo({ lockFile: claimed.lockFile, target, vm, qmp, run }, request, context);
  };
  let record: RunRecord;
  try {
    record = await backUpIt();
  } catch (error) {
    await recordFailure(deadline, request, { ...failed, ...asked }, error);
    throw error;
  }
  if (context.isDiff) await mergeSinceFull(record, request, context);
  if (context.keep && record.state === "done") {
    await pruneAfter(record, request, context, context.keep);
  }
  return record;
}

/** The last month's target with backups, where this month's has none yet. */
async function findLastMonth(deadline: Deadline, target: string): Promise<Target | undefined> {
  if (knowsDisks(await readTarget(deadline, target))) return undefined;
  return (await readPastMonths(deadline, target)).findLast(knowsDisks);
}

/** A new target is made late: a typing mistake or a missing mount leaves no folder. */
async function backUpToNew(
  run: Holder,
  request: BackupRequest,
  context: BackupContext,
  qemuImg: Promise<void>,
): Promise<RunRecord> {
  const { deadline } = context;
  await using qmp = await connectVm(deadline, context.socket, context.qmpOptions);
  await using _named = await nameHolder(deadline, context.socket, run);
  await refuseEarly(deadline, qmp, request, qemuImg);
  const vm = await queryIdentity(qmp);
  await using claimed = await claimTarget(deadline, request.target, run, request.mode);
  const target = await readTarget(deadline, request.target);
  return await backUpTo({ lockFile: claimed.lockFile, target, vm, qmp, run }, request, context);
}

/** A target that is ours, and the VM that is to be backed up to it. */
interface Claimed {
  lockFile: string;
  target: Target;
  qmp: QmpClient;
  vm: VmIdentity;
  run: Holder;
}

/** The rest, from locking the VM. */
async function backUpTo(
  { lockFile, target, qmp, vm, run }: Claimed,
  request: BackupRequest,
  context: BackupContext,
): Promise<RunRecord> {
  const { deadline } = context;
  const holder = await vmHolder(deadline, run, lockFile);
  await using lock = await lockVm(deadline, qmp, holder);
  const recovered = await recover(deadline, qmp, {
    dead: lock.dead,
    target: { path: target.path, read: () => Promise.resolve(target) },
    mode: request.mode,
    thaw: thawOf(context),
    // A backup can be taken here all the same.
    onOtherTarget: (error) =>
      log.error('What a run that died left on "{target}" could not be removed: {words}', {
        target: lock.dead && targetOfLock(lock.dead.lockFile),
        words: messageOf(error),
      }),
  });
  const objects = recovered.vm?.objects ?? await queryObjects(qmp);
  await refuseHalfWay(deadline, target.path);
  await refuseRollbackMark(qmp, objects.map(({ name }) => name));
  using stops = new StopEvents(qmp);
  const locked = { target, vm, qmp, run, holder, recovered, objects };
  return await runLocked(await planLocked(locked, request, deadline), locked, stops, context);
}

/** A target and a VM that the caller has locked, and cleaned up after dead runs. */
export interface Locked extends Omit<Claimed, "lockFile"> {
  holder: VmHolder;
  recovered: Recovered;
  /** All objects of QEMU that a user has added. */
  objects: QomChild[];
}

/** A plan, and what the record says of the VM besides. */
export interface LockedPlan {
  plan: Plan;
  devices: Device[];
}

/** Plans a backup. */
export async function planLocked(
  { target, vm, qmp, run, recovered, objects }: Locked,
  request: BackupRequest,
  deadline: Deadline,
): Promise<LockedPlan> {
  const gathered = await gatherFacts(
    deadline,
    qmp,
    recovered.count > 0 ? await readTarget(deadline, target.path) : target,
    request,
    {
      ...{ tag: tagOf(run.run), startedAt: startOf(run), vm },
      objects,
      graph: recovered.vm?.graph,
    },
  );
  const { disks, devices } = gathered;
  const targetSpeed = await measureTarget(deadline, request, disks);
  const plan = planBackup(request, { ...gathered, targetSpeed });
  const { direct, reason } = plan.writing;
  log.debug("The images are written {how} the page cache: {reason}", {
    how: direct ? "past" : "through",
    reason,
  });
  return { plan, devices };
}

/** Carries a plan out. `stops` listens since before it was made. */
export async function runLocked(
  { plan, devices }: LockedPlan,
  { qmp, holder }: Locked,
  stops: StopEvents,
  context: BackupContext,
): Promise<RunRecord> {
  context.onPlan(plan);
  const warnings = [...plan.warnings];
  await using _stood = plan.runState === "io-error" ? await markIoError(qmp) : null;
  await using agent = await connectAgent(context, plan, warnings);
  try {
    const startWatchdogOfRun = () => startWatchdog({ ...context, run: holder.run });
    const machine = await describeMachine(qmp, knownVm(plan, devices, context));
    return await runBackup(plan, {
      ...{ ...context, qmp, stops, agent, warnings, machine },
      startWatchdog: startWatchdogOfRun,
    });
  } finally {
    // The run may have thrown, or noted the loss in its rows.
    if (!qmp.isOpen) await recoverOverNewConnection(context, holder);
  }
}

function knownVm({ vm, disks, tpms }: Plan, devices: Device[], { socket }: BackupContext): KnownVm {
  return {
    ...vm,
    socket: socket.transport === "unix" ? socket.path : "",
    disks: disks.map(({ disk }) => disk),
    ...{ tpms, devices },
  };
}

/**
 * What can be refused before anything is written or cleaned up.
 *
 * @param qemuImg Whether there is one that will do.
 */
export async function refuseEarly(
  deadline: Deadline,
  qmp: QmpClient,
  request: Pick<BackupRequest, "fleeceDir" | "mode" | "symlink" | "timestamp">,
  qemuImg = requireQemuImg(),
): Promise<void> {
  refuseOld(qmp.version);
  if (request.fleeceDir !== null && !await exists(deadline, request.fleeceDir)) {
    throw new UsageError(`The folder "${request.fleeceDir}" (--fleece-dir) does not exist`);
  }
  if (request.fleeceDir !== null) {
    await refuseSharedFolder(deadline, request.fleeceDir, request.mode);
  }
  await qemuImg;
  if (request.symlink && !request.timestamp) await requireSymlinks();
}

/** 5.2 is the oldest QEMU that was tried; it has all that a backup needs. */
function refuseOld(version: string) {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  if (major > 5 || (major === 5 && minor >= 2)) return;
  throw new Failure(`This is QEMU ${version}: 5.2 or newer is needed`);
}

/** A new run, as its locks name it. Its record has the same id. */
export function newRun(): Holder {
  const now = new Date();
  return holderNow(runId(now, crypto.randomUUID().slice(0, 8)), now);
}

const startOf = ({ since }: Holder) => new Date(since);

function thawOf({ agentSocket, agentTimeoutMs }: BackupContext): (() => Promise<void>) | null {
  return agentSocket && (() => thawAnew(agentSocket, agentTimeoutMs));
}

/** The connection broke in the middle of a run: QEMU may still run, with all that we put into it. */
async function recoverOverNewConnection(context: BackupContext, holder: VmHolder): Promise<void> {
  try {
    await using qmp = await QmpClient.connect(context.socket, context.qmpOptions);
    log.warn("Connected again: undoing what the run has changed");
    const { deadline } = context;
    const target = targetOfLock(holder.lockFile);
    if ((await holderOfVm(qmp))?.run !== holder.run) {
      // Ours may still run elsewhere, and write to its files.
      throw new Failure("a different QEMU answers on this socket");
    }
    await recover(deadline, qmp, {
      dead: holder,
      target: { path: target, read: () => readTarget(deadline, target) },
      thaw: thawOf(context),
      unlock: () => unlockVm(qmp),
    });
  } catch (error) {
    log.error("QEMU could not be cleaned up after this run, the next run will try: {words}", {
      words: messageOf(error),
    });
  }
}

async function connectAgent(
  { agentSocket, agentTimeoutMs }: BackupContext,
  { request: { quiesce }, disks, runId, runState }: Plan,
  warnings: string[],
): Promise<GuestAgent | null> {
  if (!agentSocket || (quiesce === "no" && disks.length === 1)) return null;
  if (isShutDown(runState)) return null;
  try {
    const silence = silenceOf(runState);
    if (silence !== null) throw new Failure(silence);
    await using stack = new AsyncDisposableStack();
    const agent = stack.use(await GuestAgent.connect(agentSocket, agentTimeoutMs));
    // Asked before anything is written.
    if (quiesce === "require") await refuseFrozen(agent);
    stack.move();
    return agent;
  } catch (error) {
    if (quiesce === "require") throw error;
    warnings.push(
      `The guest's file systems are not frozen for the run ${runId}: ${messageOf(error)}`,
    );
    return null;
  }
}
