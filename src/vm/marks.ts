/**
 * What we leave written *in QEMU*, for other runs to see: who is at work on this VM, and that the
 * guest stands still because of us.
 *
 * A mark is a QOM object of the kind `secret`, whose text any client can read back (`qom-get`). QEMU
 * refuses a second one of the same name, so that it is a lock whichever socket the VM is reached by;
 * and it goes with QEMU, so that it never speaks of another life of the VM.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import { stat } from "../fs/files.ts";
import { describeHolder, type Holder, takeDeadLock } from "../fs/flock.ts";
import { Failure, LockedError, messageOf } from "../errors.ts";
import { parseJson } from "../json.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { type QomChild, qomChildren, qomText, queryStatus } from "../qmp/queries.ts";
import { MARKS } from "./names.ts";

const log = getLogger(["qmpbackup", "vm"]);

const { lock: LOCK, paused: PAUSED, frozen: FROZEN } = MARKS;
const SECRET_TEXT = "data";

/** What stands in a VM's lock: who holds it, and the file lock that lives as long as its holder. */
const VmHolder = v.object({
  run: v.string(),
  host: v.string(),
  pid: v.number(),
  since: v.string(),
  lockFile: v.string(),
  /** A file made anew in its place says nothing: the holder may live on with the old one. */
  lockInode: v.number(),
  /** With the inode it is that file, whatever it is called now, for as long as a holder has it open. */
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

export async function readMark(qmp: QmpClient, id: string): Promise<string | null> {
  return await qomText(qmp, `/objects/${id}`, SECRET_TEXT);
}

export async function setMark(qmp: QmpClient, id: string, text: string): Promise<void> {
  await qmp.execute("object-add", { "qom-type": "secret", id, [SECRET_TEXT]: text });
}

export async function removeMark(qmp: QmpClient, id: string): Promise<void> {
  await qmp.execute("object-del", { id });
}

/**
 * Locks the VM, until disposed.
 *
 * A lock whose holder is dead is taken over: the holder's file lock proves it, since the kernel holds
 * that for as long as the process lives.
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
    // Where it can't be removed, the mark stays; the next run finds its holder dead.
    if (!qmp.isOpen) return;
    await removeMark(qmp, LOCK).catch((error) =>
      log.error("The VM could not be unlocked, the next run will: {words}", {
        words: messageOf(error),
      })
    );
  };
  return { dead, [Symbol.asyncDispose]: unlock };
}

/** Sets the lock's mark. Returns false if there is one. */
async function trySetLock(qmp: QmpClient, holder: VmHolder): Promise<boolean> {
  try {
    await setMark(qmp, LOCK, JSON.stringify(holder));
    return true;
  } catch (error) {
    const isThere = error instanceof QmpCommandError && await readMark(qmp, LOCK) !== null;
    if (!isThere) throw error;
    return false;
  }
}

/** Puts our lock in the place of a dead run's, and returns that run. */
async function takeOver(
  deadline: Deadline,
  qmp: QmpClient,
  holder: VmHolder,
): Promise<VmHolder | null> {
  const present = await readMark(qmp, LOCK);
  // Held until our mark is set: of two runs that find the same dead one, only one takes over.
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

/** Whose lock the VM bears; null where there is none, or one that is nothing of ours. */
export async function holderOfVm(qmp: QmpClient): Promise<VmHolder | null> {
  return parseVmHolder(await readMark(qmp, LOCK) ?? "");
}

/** Takes away the lock of a run whose connection broke, over a new one. */
export async function unlockVm(qmp: QmpClient): Promise<void> {
  await removeMark(qmp, LOCK);
}

/** A target's lock that is known otherwise than by the VM's. */
interface OwnLock {
  lockFile: string;
  /** By us, so that nobody else can. */
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
    // It can't be asked (another user's, another mount namespace's): it may live.
  }
  throw lockedBy(text);
}

/** Whatever it is called: the target may have been renamed, or a link or a mount lead to it. */
async function isLockOf(
  deadline: Deadline,
  { lockFile, lockInode, lockDevice }: VmHolder,
  path: string,
): Promise<boolean> {
  const { dev, ino } = await stat(deadline, path);
  if (ino !== lockInode) return false;
  if (dev === lockDevice) return true;
  // The file system was mounted anew.
  const there = await stat(deadline, lockFile);
  return there.dev === dev && there.ino === ino;
}

function lockedBy(text: string): LockedError {
  const holder: Holder | null = parseVmHolder(text);
  return new LockedError(
    `Another run is at work on this VM: ${describeHolder(holder)}. Should it be gone for good, ` +
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

/**
 * Stops the guest's processors, marked before, so that a later run can tell who did it; disposing
 * lets it go on. A guest that stands still already is left alone.
 *
 * @returns Whether the guest was stopped here.
 */
export async function pauseVm(qmp: QmpClient): Promise<AsyncDisposable & { stopped: boolean }> {
  if (!(await queryStatus(qmp)).running) {
    return { stopped: false, [Symbol.asyncDispose]: () => Promise.resolve() };
  }
  await setMark(qmp, PAUSED, new Date().toISOString());
  const resume = async () => {
    await resumePaused(qmp);
    await removeMark(qmp, PAUSED);
  };
  try {
    await qmp.execute("stop");
  } catch (error) {
    // It may have stopped all the same, or stop yet (a time-out).
    await resume();
    throw error;
  }
  return { stopped: true, [Symbol.asyncDispose]: resume };
}

/**
 * Since when a run of ours holds the guest stopped; null where none does.
 *
 * @param marks The names of all marks there are.
 */
export async function findPause(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(PAUSED) ? await readMark(qmp, PAUSED) : null;
}

/** Since when a run of ours may hold the guest's file systems frozen; null where none does. */
export async function findFreeze(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(FROZEN) ? await readMark(qmp, FROZEN) : null;
}

/** Lets a guest go on that a run of ours stopped and then died. */
export async function resumeIfMarked(qmp: QmpClient): Promise<void> {
  const since = await readMark(qmp, PAUSED);
  if (since === null) return;
  await resumePaused(qmp);
  await removeMark(qmp, PAUSED);
}

/** A VM in another state (shut down, suspended, panicked) is there by itself, and is to stay so. */
async function resumePaused(qmp: QmpClient): Promise<void> {
  if ((await queryStatus(qmp)).status === "paused") await qmp.execute("cont");
}

/** Our marks, and all else that a user has added as an object (iothreads, secrets). */
export async function queryObjects(qmp: QmpClient): Promise<QomChild[]> {
  return await qomChildren(qmp, "/objects");
}

/** The names of our marks, and of all else that QEMU has as objects. */
export async function markNames(qmp: QmpClient): Promise<string[]> {
  return (await queryObjects(qmp)).map(({ name }) => name);
}

/** Marks that the guest's file systems are about to be frozen by us. */
export async function markFrozen(qmp: QmpClient): Promise<void> {
  await setMark(qmp, FROZEN, new Date().toISOString());
}

/** The guest's file systems are thawed again. */
export async function clearFrozen(qmp: QmpClient): Promise<void> {
  await removeMark(qmp, FROZEN);
}

/**
 * Thaws a guest that a run of ours froze and then died.
 *
 * @param thaw Thaws it through its agent; null where no agent is known.
 * @throws {Failure} If it can't be thawed, with what to do.
 */
export async function thawIfMarked(
  qmp: QmpClient,
  thaw: (() => Promise<void>) | null,
): Promise<void> {
  const since = await readMark(qmp, FROZEN);
  if (since === null) return;
  if (!thaw) {
    throw new Failure(
      `The guest's file systems may be frozen since ${since}, by a run that died: give the ` +
        "--agent-socket, or thaw them (guest-fsfreeze-thaw) and remove the mark with the QMP " +
        `command object-del, id "${FROZEN}"`,
    );
  }
  await thaw();
  await clearFrozen(qmp);
}
