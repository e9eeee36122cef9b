/**
 * One run at a time: a lock on a file that the kernel takes back when its holder dies (flock(2)),
 * so that no stale lock is ever left behind. What is written in the file is for people.
 *
 * @module
 */

import * as v from "valibot";
import { LockedError } from "../errors.ts";
import { parseJson } from "../json.ts";
import { type Deadline, endsWithin } from "./deadline.ts";
import { createFile, lookAt, OWNER_ONLY } from "./create.ts";
import { openItself, readUpTo } from "./open.ts";

const Holder = v.object({ run: v.string(), host: v.string(), pid: v.number(), since: v.string() });
/** Who holds a lock. */
export type Holder = v.InferOutput<typeof Holder>;

/** This process as the holder of a lock. */
export function holderNow(run: string, now = new Date()): Holder {
  return { run, host: Deno.hostname(), pid: Deno.pid, since: now.toISOString() };
}

const MAX_HOLDER_BYTES = 4096;

/** Deno 2.4 can't ask for a lock without waiting for it: this is how long it waits. */
const LOCK_WAIT_MS = 500;

/**
 * Takes the lock, until disposed.
 *
 * @param path The lock's file; made where it is missing, and left when the lock is gone: removing it
 * would let two runs hold a lock each.
 * @param mode Of a new file.
 * @throws {LockedError} If another run holds it, with who that is.
 * @throws {Failure} If something else is in its place, a link included, or it has another name.
 */
export async function takeLock(
  deadline: Deadline,
  path: string,
  holder: Holder,
  mode?: number,
): Promise<Disposable> {
  await createMissing(deadline, path, mode);
  const file = await openLock(deadline, path);
  if (!await tryLock(deadline, path, file)) {
    const words = describeHolder(await readHolder(deadline, path));
    throw new LockedError(`Another run is at work on this target: ${words}`);
  }
  if (!await isStill(deadline, path, file)) {
    file.close();
    throw new LockedError(`Another run removed "${path}" while it was being locked: run again`);
  }
  await deadline.run(path, () => file.truncate());
  await deadline.run(
    path,
    () => file.write(new TextEncoder().encode(JSON.stringify(holder) + "\n")),
  );
  return { [Symbol.dispose]: () => file.close() };
}

async function createMissing(deadline: Deadline, path: string, mode = OWNER_ONLY) {
  try {
    await createFile(deadline, path, mode);
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  }
}

const openLock = (deadline: Deadline, path: string) =>
  openItself(deadline, path, "our lock", { read: true, write: true });

/** Whether a file is still what its name leads to: a run that was refused removes the lock it made. */
async function isStill(deadline: Deadline, path: string, file: Deno.FsFile): Promise<boolean> {
  const [opened, present] = [
    await deadline.ask(path, () => file.stat()),
    await lookAt(deadline, path),
  ];
  return opened.dev === present?.dev && opened.ino === present.ino;
}

/**
 * Takes a dead run's lock, until disposed: that it can be had proves that its holder is dead.
 *
 * @returns The lock, or null where a living run holds it.
 * @throws {Deno.errors.NotFound | Deno.errors.PermissionDenied} If it can't be told.
 */
export async function takeDeadLock(deadline: Deadline, path: string): Promise<Disposable | null> {
  const file = await openLock(deadline, path);
  const free = await tryLock(deadline, path, file);
  return free ? { [Symbol.dispose]: () => file.close() } : null;
}

/** "run 2026…-3f9a2c (pid 123 on host, since …)". */
export function describeHolder(holder: Holder | null): string {
  if (!holder) return "its name is not known";
  return `run ${holder.run} (pid ${holder.pid} on ${holder.host}, since ${holder.since})`;
}

/** Decodes what stands in a lock; null if it is nothing of ours. */
export function parseHolder(text: string): Holder | null {
  try {
    return v.parse(Holder, parseJson(text));
  } catch {
    return null;
  }
}

async function readHolder(deadline: Deadline, path: string): Promise<Holder | null> {
  return parseHolder(await readUpTo(deadline, path, MAX_HOLDER_BYTES).catch(() => null) ?? "");
}

/** Closes the file where the lock can't be had, if the runtime lets it. */
async function tryLock(deadline: Deadline, path: string, file: Deno.FsFile): Promise<boolean> {
  // Deno 2.4 and its types don't know `tryLock()`.
  const lockable: Pick<Deno.FsFile, "lock"> & { tryLock?(exclusive: boolean): Promise<boolean> } =
    file;
  if (lockable.tryLock) {
    // NFS asks its server for a lock.
    const got = await deadline.run(path, async () => await lockable.tryLock?.(true) ?? false);
    if (!got) file.close();
    return got;
  }
  const waiting = lockable.lock(true).then(() => true, () => false);
  const got = await endsWithin(waiting, LOCK_WAIT_MS) && await waiting;
  // A lock that we no longer wait for may still come, and must not be kept.
  if (!got) waiting.then(() => file.close());
  return got;
}
