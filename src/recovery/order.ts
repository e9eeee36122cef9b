/**
 * The order of recovery: what a dead run left in QEMU and on its target, and in which order it is cleaned up.
 * A backup, a run whose connection broke, `cleanup --recover` and the watchdog all go by it.
 *
 * ```
 * guest (resumed, thawed) ─▶ jobs, exports, nodes ─▶ bitmaps ─▶ VM unlocked ─▶ files and records of the target
 * ─▶ those of the dead run's target ─▶ guest that ran out of room (resumed)
 * ```
 *
 * The guest comes first, and waits for nothing that may hang. Its writes go straight to its disks before a
 * file is removed that QEMU may have open. What took the room of a guest that is stopped is gone before it is
 * resumed. Each stage is cleaned up before the next one looks: as long as there are nodes of a dead run, QEMU
 * is not asked for all of its nodes, since it would hang where the storage of one hangs.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import type { QmpClient } from "../qmp/client.ts";
import { readTarget, type Target } from "../repo/repository.ts";
import { type BlockGraph, type QomChild, queryGraph } from "../qmp/queries.ts";
import type { VmHolder } from "../vm/lock.ts";
import { markNames, queryObjects } from "../vm/marks.ts";
import { findHeldGuest, findIoError } from "./guest.ts";
import { findInTarget, lockTargetOf } from "./in_target.ts";
import { findBitmaps, findInVm, refuseHangingRuns } from "./in_vm.ts";
import { type Leftover, repair } from "./leftover.ts";

export interface GuestRecovery {
  /** Thaws the guest through its agent; null where no agent is known. */
  thaw: (() => Promise<void>) | null;
  /** What is done with each leftover; it is repaired, with a warning, where this is not given. */
  handle?: (leftover: Leftover) => Promise<unknown>;
}

export interface Recovery extends GuestRecovery {
  /** The run that left its lock in the VM; null where none did. */
  dead: VmHolder | null;
  /** Locked by the caller, as the VM is; null where no target is known. It may hang, so QEMU comes first. */
  target: { path: string; read: () => Promise<Target> } | null;
  /** Of files that are made on the target; see `refuseShared()`. */
  mode?: number | undefined;
  /** Unlocks the VM, where that is not left to the caller: QEMU is done with then. */
  unlock?: () => Promise<void>;
  /** Gets the error of a target that is the dead run's alone: nothing of ours depends on it. */
  onOtherTarget?: (error: unknown) => void;
}

/** What recovery has seen, so that it needn't be asked for again. */
export interface Recovered {
  /** How many leftovers there were. */
  count: number;
  /** QEMU's objects and its graph; null where something was changed since. */
  vm: { objects: QomChild[]; graph: BlockGraph } | null;
}

/**
 * The first stage alone: lets a guest go on that a dead run has stopped or frozen.
 *
 * @returns How many leftovers there were.
 */
export async function recoverGuest(qmp: QmpClient, recovery: GuestRecovery): Promise<number> {
  return await recoverHeld(qmp, await markNames(qmp), recovery);
}

async function recoverHeld(
  qmp: QmpClient,
  marks: string[],
  { thaw, handle = repair }: GuestRecovery,
): Promise<number> {
  return await handleAll(await findHeldGuest(qmp, marks, thaw), handle);
}

/**
 * All stages. The caller holds the locks of VM and target, so that what has our names there is a dead run's.
 */
export async function recover(
  deadline: Deadline,
  qmp: QmpClient,
  recovery: Recovery,
): Promise<Recovered> {
  const { dead, target, mode, handle = repair } = recovery;
  const objects = await queryObjects(qmp);
  const marks = objects.map(({ name }) => name);
  let count = await recoverHeld(qmp, marks, recovery);
  const graph = await queryGraph(qmp);
  await refuseHangingRuns(deadline, graph, dead, target?.path ?? null);
  count += await handleAll(await findInVm(deadline, qmp, marks, graph), handle);
  if (dead) count += await handleAll(await findBitmaps(deadline, qmp, dead), handle);
  await recovery.unlock?.();
  if (target) {
    count += await handleAll(await findInTarget(deadline, await target.read(), mode), handle);
  }
  count += await recoverOtherTarget(deadline, recovery, handle);
  if (count > 0 || dead) count += await handleAll(await findIoError(qmp), handle);
  return { count, vm: count > 0 ? null : { objects, graph } };
}

async function recoverOtherTarget(
  deadline: Deadline,
  { dead, target, onOtherTarget }: Recovery,
  handle: (leftover: Leftover) => Promise<unknown>,
): Promise<number> {
  try {
    using other = await lockTargetOf(deadline, dead, target?.path ?? null);
    if (!other) return 0;
    return await handleAll(
      await findInTarget(deadline, await readTarget(deadline, other.target)),
      handle,
    );
  } catch (error) {
    if (!onOtherTarget) throw error;
    onOtherTarget(error);
    return 0;
  }
}

async function handleAll(
  leftovers: Leftover[],
  handle: (leftover: Leftover) => Promise<unknown>,
): Promise<number> {
  for (const leftover of leftovers) await handle(leftover);
  return leftovers.length;
}
