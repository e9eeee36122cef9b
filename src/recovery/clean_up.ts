/**
 * `cleanup --recover`: cleans up what dead runs left, without taking a backup.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { join } from "@std/path";
import { exists, removeFile } from "../fs/durable.ts";
import { describeHolder, holderNow, takeDeadLock, takeLock } from "../fs/flock.ts";
import { makeTempFile } from "../fs/files.ts";
import { LOCK_FILE, targetOfLock } from "../repo/layout.ts";
import { readTarget, refuseShared } from "../repo/repository.ts";
import { LockedError, UsageError } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { queryIdentity } from "../qmp/queries.ts";
import { lockVm, refuseLockedVm, type VmHolder, vmHolder } from "../vm/lock.ts";
import { refuseOtherVm } from "../plan/plan_backup.ts";
import { recover } from "./order.ts";
import type { Leftover } from "./leftover.ts";

export interface CleanUpOptions {
  deadline: Deadline;
  /** Absolute; null takes the target of the dead run, if the VM names one. */
  target: string | null;
  /** Thaws the guest through its agent; null where no agent is known. */
  thaw: (() => Promise<void>) | null;
  /** Only look. */
  dryRun: boolean;
  onFound(leftover: Leftover): void;
}

/**
 * Finds what dead runs left in QEMU and on a target, and cleans it up, unless it is only to be looked at.
 *
 * @returns How many things were found.
 * @throws {LockedError} If a living run is at work on the VM or on the target.
 * @throws {UsageError} If the target holds no backups of ours, or those of another VM.
 */
export async function cleanUp(qmp: QmpClient, options: CleanUpOptions): Promise<number> {
  const { deadline } = options;
  // A run that lives is refused here, before anything else.
  const dead = await refuseLockedVm(deadline, qmp, await lockOf(deadline, options.target));
  const target = await targetOf(deadline, options.target, dead);
  if (target !== null) refuseOtherVm(await readTarget(deadline, target), await queryIdentity(qmp));
  await using stack = new AsyncDisposableStack();
  if (options.dryRun) {
    if (target !== null) await refuseLockedTarget(deadline, target);
  } else {
    if (target !== null) await refuseShared(deadline, await readTarget(deadline, target));
    stack.use(await lockBoth(deadline, qmp, target));
  }
  const handle = async (leftover: Leftover) => {
    options.onFound(leftover);
    if (!options.dryRun) await leftover.repair();
  };
  if (dead) await handle(unlocked(dead));
  const { count } = await recover(deadline, qmp, {
    dead,
    // Read late: a run may have ended before the lock was ours.
    target: target === null ? null : { path: target, read: () => readTarget(deadline, target) },
    thaw: options.thaw,
    handle,
  });
  return dead ? count + 1 : count;
}

/** For the report: the lock was taken over before anything else was looked at. */
function unlocked(dead: VmHolder): Leftover {
  return {
    description: `Unlocking the VM: ${describeHolder(dead)} died`,
    repair: () => Promise.resolve(),
  };
}

/** Where to look; null if no target was named, and the VM names none of ours. */
async function targetOf(
  deadline: Deadline,
  named: string | null,
  dead: VmHolder | null,
): Promise<string | null> {
  const path = named ?? (dead && targetOfLock(dead.lockFile));
  if (path === null || (await readTarget(deadline, path)).hasRecords) return path;
  if (named === null) return null;
  throw new UsageError(`"${path}" holds no records of backups: there is nothing to recover`);
}

async function lockOf(deadline: Deadline, target: string | null): Promise<string | null> {
  const file = target === null ? null : join(target, LOCK_FILE);
  return file !== null && await exists(deadline, file) ? file : null;
}

async function refuseLockedTarget(deadline: Deadline, target: string): Promise<void> {
  const file = await lockOf(deadline, target);
  if (file === null) return;
  const free = await takeDeadLock(deadline, file);
  if (!free) throw new LockedError(`Another run is at work on the target "${target}"`);
  free[Symbol.dispose]();
}

/** The target's lock first, as a backup takes them. */
async function lockBoth(
  deadline: Deadline,
  qmp: QmpClient,
  target: string | null,
): Promise<AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  // Without a target, a file of its own proves that this run lives.
  const lockFile = target === null ? await makeTempFile(deadline, "/tmp") : join(target, LOCK_FILE);
  if (target === null) stack.defer(() => removeFile(deadline, lockFile));
  const holder = holderNow(`cleanup-${crypto.randomUUID().slice(0, 8)}`);
  stack.use(await takeLock(deadline, lockFile, holder));
  stack.use(await lockVm(deadline, qmp, await vmHolder(deadline, holder, lockFile)));
  return stack.move();
}
