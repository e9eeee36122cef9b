/**
 * Looks for room before anything is written.
 *
 * @module
 */

import { dirname } from "@std/path";
import { format as formatBytes } from "@std/fmt/bytes";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { freeBytes, stat } from "../fs/files.ts";
import { Failure, messageOf, UsageError } from "../errors.ts";
import { measure, QemuImgError } from "../qemu_img/qemu_img.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { metadataBytes } from "../plan/sizes.ts";

/** Bytes that a run will want in a folder. */
export interface Claim {
  folder: string;
  what: string;
  sizeBytes: number;
}

/**
 * How much of what is backed up the guest is taken to overwrite meanwhile: what the fleece must have
 * room for. Where that is too little, the backup fails, and the guest goes on.
 */
const OVERWRITTEN_SHARE = 0.1;

/**
 * What a plan needs, and where. Pure.
 *
 * @param measured What disks have in them, as far as that is known better than by the plan's estimate.
 */
export function claimsOf(
  { disks, request, direct, writing }: Plan,
  measured: ReadonlyMap<DiskPlan, number> = new Map(),
): Claim[] {
  // Reserving says by itself whether there is room.
  if (direct) return [];
  return disks.flatMap((disk) => {
    const changedBytes = Math.min(disk.estimateBytes, measured.get(disk) ?? Infinity);
    return [
      {
        folder: request.target,
        what: `the backup of "${disk.disk.name}"`,
        sizeBytes: changedBytes + metadataBytes(disk.disk) + writing.preallocBytes,
      },
      {
        folder: dirname(disk.fleeceFile),
        what: `the fleece of "${disk.disk.name}"`,
        sizeBytes: Math.ceil(changedBytes * OVERWRITTEN_SHARE) + metadataBytes(disk.disk),
      },
    ];
  });
}

/** A file system with what is wanted of it. */
export interface Room {
  folder: string;
  claims: Claim[];
  freeBytes: number;
}

/** The sentence for each file system that is too full. Pure. */
export function shortages(rooms: Room[]): string[] {
  return rooms.flatMap(({ folder, claims, freeBytes }) => {
    const neededBytes = claims.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    if (neededBytes <= freeBytes) return [];
    const whats = claims.map(({ what }) => what).join(", ");
    return [
      `The file system of "${folder}" is too full for ${whats}: ` +
      `${describeBytes(neededBytes)} are needed, ${describeBytes(freeBytes)} are free`,
    ];
  });
}

function describeBytes(sizeBytes: number): string {
  return `${sizeBytes} bytes (${formatBytes(sizeBytes, { binary: true })})`;
}

/**
 * Checks that there is room for everything. A compressed backup's size can't be known: then it is only
 * said.
 *
 * @returns Warnings.
 * @throws {Failure} If there is not enough, with the bytes needed and free.
 */
export async function checkSpace(deadline: Deadline, plan: Plan): Promise<string[]> {
  const guessed = shortages(await findRooms(deadline, claimsOf(plan)));
  if (guessed.length === 0 || plan.request.compress !== null) return guessed;
  const problems = shortages(
    await findRooms(deadline, claimsOf(plan, await measureDisks(deadline, plan))),
  );
  if (problems.length === 0) {
    return [
      `${guessed.join(". ")}. This counts all that the disks have allocated; their data will fit`,
    ];
  }
  throw new Failure(
    `${problems.join(". ")}. Make room, or name another --target or --fleece-dir`,
  );
}

/**
 * What a disk's file takes is a bad guess where it holds snapshots, or was allocated ahead. A closer look
 * reads all of the disk's tables, and sees no more of them than QEMU has written there by now.
 */
async function measureDisks(deadline: Deadline, { disks }: Plan): Promise<Map<DiskPlan, number>> {
  const measured = new Map<DiskPlan, number>();
  for (const plan of disks) {
    const { level, disk: { source, format } } = plan;
    if (level === "inc" || !source.startsWith("/")) continue;
    try {
      const sizeBytes = await measure(deadline, source, format);
      measured.set(plan, sizeBytes);
    } catch (error) {
      // It is encrypted, say, or this user may not read it.
      if (!(error instanceof QemuImgError)) throw error;
    }
  }
  return measured;
}

async function findRooms(deadline: Deadline, claims: Claim[]): Promise<Room[]> {
  const rooms = new Map<number, Room>();
  for (const claim of claims) {
    const dev = await deviceOf(deadline, claim.folder);
    const room = rooms.get(dev) ?? { folder: claim.folder, claims: [], freeBytes: 0 };
    room.claims.push(claim);
    room.freeBytes = await freeBytes(deadline, claim.folder);
    rooms.set(dev, room);
  }
  return [...rooms.values()];
}

async function deviceOf(deadline: Deadline, folder: string): Promise<number> {
  try {
    return (await stat(deadline, folder)).dev;
  } catch (error) {
    if (error instanceof HangingError) throw error;
    throw new UsageError(`The folder "${folder}" can't be used: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/** Less than this, and some of the job's writes under way may have found no room. */
const NEARLY_FULL_BYTES = 4 << 20;

/** The sentence for a file system that is full, if it is. Pure. */
export function fullness({ folder, claims, freeBytes }: Room): string | null {
  const neededBytes = claims.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (freeBytes >= Math.min(neededBytes, NEARLY_FULL_BYTES)) return null;
  return `The file system of "${folder}" is full: ${describeBytes(freeBytes)} are free, ` +
    `${describeBytes(neededBytes)} more are needed for ${
      claims.map(({ what }) => what).join(", ")
    }`;
}

/**
 * Why a disk may have failed, as far as its file systems tell: one is full, or does not answer.
 *
 * @param restBytes What is not copied yet. The guest may overwrite all of it before it is.
 */
export async function explainFailure(
  deadline: Deadline,
  { request }: Pick<Plan, "request">,
  { disk, fleeceFile }: DiskPlan,
  restBytes: number,
): Promise<string[]> {
  const claims: Claim[] = [
    { folder: request.target, what: `the backup of "${disk.name}"`, sizeBytes: restBytes },
    { folder: dirname(fleeceFile), what: `the fleece of "${disk.name}"`, sizeBytes: restBytes },
  ];
  try {
    return (await findRooms(deadline, claims)).flatMap((room) => fullness(room) ?? []);
  } catch (error) {
    // What can't be asked for another reason explains nothing here.
    return error instanceof HangingError ? [error.message] : [];
  }
}
