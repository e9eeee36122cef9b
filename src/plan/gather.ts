/**
 * Gathers all that a plan is made from. Leaves everything as it is.
 *
 * @module
 */

import { dirname, join, relative } from "@std/path";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { listFolder, makeTempFile, realPath, remove, stat } from "../fs/files.ts";
import { ChainError, chainOf, images, type Point, restorePoints } from "../repo/chains.ts";
import { type Fingerprint, type ImageFault, isFault, lookAtImages } from "../repo/fingerprint.ts";
import { diskFileName } from "../repo/layout.ts";
import { readPastMonths } from "../repo/months.ts";
import type { RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import { tpmStateIn } from "../repo/tpm_state.ts";
import type { QmpClient } from "../qmp/client.ts";
import { type BlockGraph, type QomChild, queryStatus, queryTpms } from "../qmp/queries.ts";
import { queryFeatures } from "../qmp/schema.ts";
import { type Device, queryDevices } from "../vm/devices.ts";
import { type Disk, queryDisks } from "../vm/disks.ts";
import { queryOutside } from "../vm/outside.ts";
import { attachedImages } from "../attach/detach.ts";
import { adoptChains } from "../python/adopt.ts";
import { bitmapsOf, lastBackup } from "./last_backup.ts";
import type { Facts } from "./facts.ts";
import type { BackupRequest } from "./request.ts";

/** What is known before. */
export interface Known extends Pick<Facts, "tag" | "startedAt" | "vm"> {
  /** All objects of QEMU that a user has added. */
  objects: QomChild[];
  /** If it was just asked for. */
  graph?: BlockGraph | undefined;
}

/** Asks QEMU and looks into the target. */
export async function gatherFacts(
  deadline: Deadline,
  qmp: QmpClient,
  target: Target,
  { monthly, level, save, timestamp }: BackupRequest,
  { tag, startedAt, vm, objects, graph }: Known,
): Promise<Omit<Facts, "targetSpeed">> {
  const features = await queryFeatures(qmp);
  const devices = await queryDevices(qmp);
  const { flatBlock } = features;
  const { disks: found, leftOut } = await queryDisks(qmp, { graph, devices, flatBlock });
  const disks = await withBackingTimes(deadline, found);
  const tpms = await findTpms(qmp, devices);
  const leftTpms = tpmStateIn(save) ? [] : tpms.map((id) => (
    {
      device: id,
      reason:
        "a TPM, whose state is not on a disk: back its directory up by itself, or save it with " +
        "the backup (--save DIR)",
      unasked: true,
    }
  ));
  const outside = await queryOutside(qmp, devices);
  const files = await listFolders(deadline, target, disks);
  const adopted = await adoptChains(deadline, target, disks, files, vm, tag);
  const past = monthly ? await readPastMonths(deadline, target.path) : [];
  const runs = [...adopted, ...target.runs];
  const looks = level === "full" || level === "copy"
    ? { imageFaults: new Map(), newFingerprints: new Map() }
    : await lookAtChains(deadline, target.path, runs, disks);
  return {
    vm,
    runState: (await queryStatus(qmp)).status,
    features,
    hasIothreads: objects.some(({ type }) => type === "iothread"),
    ...{ disks, devices },
    leftOut: [...leftOut, ...outside, ...leftTpms],
    tpms,
    target: { ...target, runs },
    adopted,
    pastBitmaps: past.flatMap(bitmapsOf),
    pastRuns: past.flatMap(({ runs }) => runs),
    files,
    ...looks,
    inUse: await filesInUse(deadline, target.path, disks),
    // Only an image of the same name is replaced.
    attached: timestamp ? new Map() : await attachedImages(deadline, target.path, Deno.hostname()),
    besideDisk: new Map(
      await Promise.all(
        disks.map(async (disk) => [disk.id, await folderBeside(deadline, disk)] as const),
      ),
    ),
    startedAt,
    tag,
    newChainId: crypto.randomUUID(),
  };
}

/** QEMU is asked for the ids of TPMs where the guest has one. */
async function findTpms(qmp: QmpClient, devices: Device[]): Promise<string[]> {
  return devices.some(({ type }) => type.startsWith("tpm")) ? await queryTpms(qmp) : [];
}

type Looks = Pick<Facts, "imageFaults" | "newFingerprints">;

/** Looks at all images that an increment of one of the disks would build on. */
async function lookAtChains(
  deadline: Deadline,
  target: string,
  runs: RunRecord[],
  disks: Disk[],
): Promise<Looks> {
  const [points, all] = [restorePoints(runs), images(runs)];
  const recorded = new Map<string, Fingerprint | undefined>();
  for (const disk of disks) {
    const last = lastBackup(disk, disks, points);
    for (const point of last ? wholeChain(all, last.disk.file) : []) {
      recorded.set(point.disk.file, point.disk.fingerprint);
    }
  }
  const imageFaults = new Map<string, ImageFault>();
  const newFingerprints = new Map<string, Fingerprint>();
  for (const [file, seen] of await lookAtImages(deadline, target, recorded)) {
    if (isFault(seen)) imageFaults.set(file, seen);
    else if (!recorded.get(file)) newFingerprints.set(file, seen.fingerprint);
  }
  return { imageFaults, newFingerprints };
}

/** A chain that contradicts itself is reported when the level is decided. */
function wholeChain(all: Point[], file: string): Point[] {
  try {
    return chainOf(all, file);
  } catch (error) {
    if (error instanceof ChainError) return [];
    throw error;
  }
}

/** Looks when the files below the disks were last changed. */
async function withBackingTimes(deadline: Deadline, disks: Disk[]): Promise<Disk[]> {
  const times = new Map<string, string | null>();
  for (const { file, fileBytes } of disks.flatMap(({ backing }) => backing)) {
    if (!times.has(file)) times.set(file, await timeOf(deadline, file, fileBytes));
  }
  return disks.map((disk) => ({
    ...disk,
    backing: disk.backing.map((image) => ({ ...image, modified: times.get(image.file) ?? null })),
  }));
}

/** In whole seconds: not every file system keeps more than that. */
async function timeOf(
  deadline: Deadline,
  path: string,
  fileBytes: number | null,
): Promise<string | null> {
  if (!path.startsWith("/")) return null;
  const info = await orNull(path, () => stat(deadline, path));
  // If another file takes the name, QEMU still has the old one open. It counts in sectors.
  const isOpen = info?.isFile && Math.ceil(info.size / 512) * 512 === fileBytes;
  if (!isOpen || info.mtime === null) return null;
  const time = new Date(Math.floor(info.mtime.getTime() / 1000) * 1000);
  // A file may have any time; records hold times of four-digit years.
  const isUsual = time.getUTCFullYear() >= 0 && time.getUTCFullYear() <= 9999;
  return isUsual ? time.toISOString() : null;
}

/** A VM may have been started on what was restored into the target, or on an image of it. */
async function filesInUse(deadline: Deadline, target: string, disks: Disk[]): Promise<string[]> {
  const files = disks.flatMap(({ source, image }) => [source, image["full-backing-filename"]])
    .filter((file) => typeof file === "string" && file.startsWith("/")) as string[];
  const folder = await whereItLeads(deadline, target);
  const paths = await Promise.all(files.map((file) => whereItLeads(deadline, file)));
  return paths.filter((path) => path.startsWith(`${folder}/`)).map((path) =>
    relative(folder, path)
  );
}

/** Where links lead to. If that can't be told, the path as it is. */
async function whereItLeads(deadline: Deadline, path: string): Promise<string> {
  return await realPath(deadline, path).catch(() => path);
}

/** Every folder that a disk of this run may use: those of its names, and those in the records. */
async function listFolders(
  deadline: Deadline,
  target: Target,
  disks: Disk[],
): Promise<Map<string, string[]>> {
  const recorded = target.runs.flatMap((run) => run.disks.map(({ folder }) => folder));
  const named = disks.flatMap(({ name, node, source }) => [name, node, diskFileName(source)]);
  const folders = new Set([".", ...recorded, ...named]);
  const files = new Map<string, string[]>();
  for (const folder of folders) {
    files.set(folder, await filesIn(deadline, join(target.path, folder)));
  }
  return files;
}

async function filesIn(deadline: Deadline, path: string): Promise<string[]> {
  try {
    const entries = await listFolder(deadline, path);
    return entries.filter(({ isDirectory }) => !isDirectory).map(({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) {
      return [];
    }
    throw error;
  }
}

/**
 * The folder of a disk's file: there the fleece is as fast as the disk. Null if the disk is not a regular file (the
 * folder of a logical volume is `/dev`), or if this user may not write there.
 */
async function folderBeside(deadline: Deadline, { source }: Disk): Promise<string | null> {
  if (!source.startsWith("/")) return null;
  const folder = dirname(source);
  return await orNull(source, async () => {
    if (!(await stat(deadline, source)).isFile) return null;
    await tryToWrite(deadline, folder);
    return folder;
  });
}

/**
 * Looks at a file of the VM, if the system lets us. If Deno misses a right for it, that is an error: otherwise the
 * fleece would move to a slower place and nobody would know, or a changed file would not be seen. (The right to look
 * below `/dev` can't be given: from 2.5 on Deno asks for all rights there.)
 */
async function orNull<T>(path: string, look: () => Promise<T>): Promise<T | null> {
  try {
    return await look();
  } catch (error) {
    if (error instanceof HangingError) throw error;
    if (error instanceof Deno.errors.NotCapable && !path.startsWith("/dev/")) throw error;
    return null;
  }
}

/** Only trying tells whether this user may write somewhere. */
async function tryToWrite(deadline: Deadline, folder: string): Promise<void> {
  await remove(deadline, await makeTempFile(deadline, folder));
}
