/**
 * The lock of a VM: a mark in QEMU that names its holder, and the file lock that proves that the holder lives.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import type { Deadline } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import { describeHolder, type Holder, takeDeadLock } from "../fs/flock.ts";
import { LockedError, messageOf } from "../errors.ts";
import { parseJson } from "../json.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { readMark, removeMark, setMark } from "./marks.ts";
import { MARKS } from "./names.ts";

const log = getLogger(["qmpbackup", "vm"]);

const LOCK = MARKS.lock;

/** The text of a VM's lock: who holds it, and the file lock that lives as long as its holder. */
const VmHolder = v.object({
  run: v.string(),
  host: v.string(),
  pid: v.number(),
  since: v.string(),
  lockFile: v.string(),
  /** A new file in its place proves nothing: the holder may live, and have the old one. */
  lockInode: v.number(),
  /** Inode and device tell the file, even if it was renamed, for as long as a holder has it open. */
  lockDevice: v.number(),
});
export type VmHolder = v.InferOutput<typeof VmHolder>;

/** This process as the holder of a VM's lock, which has taken a file lock. */
export async function vmHolder(
  deadline: Deadline,
  holder: Holder,
  lockFile: string,
): Promise<VmHolder> {
  const { ino, dev } = await stat(deadline, lockFile);
  return { ...holder, lockFile, lockInode: ino ?? 0, lockDevice: dev };
}

/**
 * Locks the VM, until disposed.
 *
 * If the holder is dead, the lock is taken over. The holder's file lock proves that: the kernel keeps it for as long
 * as the process lives.
 *
 * @returns The lock, and the dead run whose place it took, for its leftovers to be looked for.
 * @throws {LockedError} If a living run, or one that can't be asked, holds the lock.
 */
export async function lockVm(
  deadline: Deadline,
  qmp: QmpClient,
  holder: VmHolder,
): Promise<AsyncDisposable & { dead: VmHolder | null }> {
  const isFree = await trySetLock(qmp, holder);
  const dead = isFree ? null : await takeOver(deadline, qmp, holder);
  const unlock = async () => {
    // If the mark can't be removed, the next run finds that its holder is dead.
    if (!qmp.isOpen) return;
    await removeMark(qmp, LOCK).catch((error) =>
      log.error("The VM could not be unlocked, the next run will: {words}", {
        words: messageOf(error),
      })
    );
  };
  return { dead, [Symbol.asyncDispose]: unlock };
}

/**
 * Sets the lock's mark. Returns false if there is one.
 *
 * @param again If QEMU refused, and then has no mark: the run that had it has just ended, so it is tried once more.
 */
async function trySetLock(qmp: QmpClient, holder: VmHolder, again = true): Promise<boolean> {
  try {
    await setMark(qmp, LOCK, JSON.stringify(holder));
    return true;
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    if (await readMark(qmp, LOCK) !== null) return false;
    if (again) return await trySetLock(qmp, holder, false);
    throw error;
  }
}

/** Puts our lock in the place of a dead run's, and returns that run. */
async function takeOver(
  deadline: Deadline,
  qmp: QmpClient,
  holder: VmHolder,
): Promise<VmHolder | null> {
  const present = await readMark(qmp, LOCK);
  // Held until our mark is set: if two runs find the same dead one, only one of them takes over.
  using death = present === null
    ? null
    : await proveDead(deadline, present, { ...holder, isHeld: true });
  if (death) {
    log.warn("{holder} died and left this VM locked: taking over", {
      holder: describeHolder(death.holder),
    });
    // Another run may have taken the lock between our read and our write.
    if (await readMark(qmp, LOCK) !== present) throw lockedBy(await readMark(qmp, LOCK) ?? "");
    await removeMark(qmp, LOCK);
  }
  if (await trySetLock(qmp, holder)) return death?.holder ?? null;
  throw lockedBy(await readMark(qmp, LOCK) ?? "");
}

/**
 * Looks whether a run is at work on the VM, without taking the lock.
 *
 * @param lockFile The lock of a target that is known otherwise; null where none is.
 * @returns The dead run that left the lock; null where there is none.
 * @throws {LockedError} If one is, or it can't be told.
 */
export async function refuseLockedVm(
  deadline: Deadline,
  qmp: QmpClient,
  lockFile: string | null,
): Promise<VmHolder | null> {
  const present = await readMark(qmp, LOCK);
  if (present === null) return null;
  using death = await proveDead(
    deadline,
    present,
    lockFile === null ? null : { lockFile, isHeld: false },
  );
  return death.holder;
}

/** Who has locked the VM; null if nobody has, or if the lock was not made by qmpbackup. */
export async function holderOfVm(qmp: QmpClient): Promise<VmHolder | null> {
  return parseVmHolder(await readMark(qmp, LOCK) ?? "");
}

/** Takes away the lock of a run whose connection broke, over a new one. */
export async function unlockVm(qmp: QmpClient): Promise<void> {
  await removeMark(qmp, LOCK);
}

/** The lock of a target that the caller knows of. */
interface OwnLock {
  lockFile: string;
  /** Held by us: so nobody else can hold it. */
  isHeld: boolean;
}

/**
 * Proves that the holder of a VM's lock is dead, by taking its file lock, which is kept until disposed.
 *
 * @returns The holder, with its lock's file as it is called now.
 * @throws {LockedError} If it lives, or that can't be told.
 */
async function proveDead(
  deadline: Deadline,
  text: string,
  own: OwnLock | null,
): Promise<Disposable & { holder: VmHolder }> {
  const holder = parseVmHolder(text);
  if (!holder || holder.host !== Deno.hostname()) throw lockedBy(text);
  try {
    const isOwn = own !== null && await isLockOf(deadline, holder, own.lockFile);
    const lockFile = isOwn ? own.lockFile : holder.lockFile;
    const isSame = isOwn || (await stat(deadline, lockFile)).ino === holder.lockInode;
    const lock = isOwn && own.isHeld
      ? { [Symbol.dispose]: () => {} }
      : isSame
      ? await takeDeadLock(deadline, lockFile)
      : null;
    if (lock) {
      return { holder: { ...holder, lockFile }, [Symbol.dispose]: () => lock[Symbol.dispose]() };
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    // The file can't be reached (another user, another mount namespace): the holder may live.
  }
  throw lockedBy(text);
}

/** Whether this is the lock's file. Its path does not matter: the target may be renamed, linked, or mounted elsewhere. */
async function isLockOf(
  deadline: Deadline,
  { lockFile, lockInode, lockDevice }: VmHolder,
  path: string,
): Promise<boolean> {
  const { dev, ino } = await stat(deadline, path);
  if (ino !== lockInode) return false;
  if (dev === lockDevice) return true;
  // The file system was mounted again.
  const there = await stat(deadline, lockFile);
  return there.dev === dev && there.ino === ino;
}

function lockedBy(text: string): LockedError {
  const holder: Holder | null = parseVmHolder(text);
  return new LockedError(
    `Another run is at work on this VM: ${describeHolder(holder)}. If it is gone for good, ` +
      `remove its mark with the QMP command object-del, id "${LOCK}"`,
  );
}

function parseVmHolder(text: string): VmHolder | null {
  try {
    return v.parse(VmHolder, parseJson(text));
  } catch {
    return null;
  }
}
