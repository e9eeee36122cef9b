/**
 * Merges a chain into one new file. The images of the backup are only read.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { dirname, resolve } from "@std/path";
import { OWNER_ONLY } from "../fs/create.ts";
import { createFolders, exists, removeFolders } from "../fs/durable.ts";
import { stat } from "../fs/files.ts";
import { PARTIAL_SUFFIX } from "../repo/layout.ts";
import { refuseSharedFolder } from "../repo/repository.ts";
import { Failure, messageOf, UsageError } from "../errors.ts";
import { type CheckedImage, checkImages, requireRawImage } from "./check_images.ts";
import { convertToDevice, convertToFile, refuseManyPasses } from "./convert.ts";
import { refuseLeftover } from "./leftover.ts";
import { requireDevice } from "./device.ts";
import { requireRoom } from "./room.ts";
import { requireImage } from "./require_image.ts";
import type { Layer, RestorePoint } from "./points.ts";

const log = getLogger(["qmpbackup", "restore"]);

export interface MergeOptions {
  /** Of the new files: one that `qemu-img` can write. */
  format: string;
  /** Of the new files. */
  mode?: number;
  /** See `OutputOptions`. */
  compress?: string | null;
  preallocation?: string | undefined;
  /** Don't check each image's metadata first. */
  skipCheck: boolean;
  /** 0 is no limit. */
  rateLimitBytesPerSecond: number;
  /** The file with the key of the images; null where none is given. What is restored is not encrypted. */
  keyFile: string | null;
  deadline: Deadline;
  signal: AbortSignal;
  onProgress(disk: string, doneBytes: number, totalBytes: number): void;
}

/** One disk to restore. */
export interface MergeJob {
  point: RestorePoint;
  /** Absolute. */
  targetFile: string;
  /** Of the new file, if it is not that of all: one that `qemu-img` can write. */
  format?: string;
  /** The target is a block device. */
  isDevice?: boolean;
}

/** What a restore made. */
export interface Restored {
  disk: string;
  point: string;
  pointInTime: string;
  images: number;
  targetFile: string;
  format: string;
  virtualSizeBytes: number;
}

/** To check so many takes seconds. */
const MANY_IMAGES = 10;

interface CheckedJob {
  job: MergeJob;
  layers: Layer[];
  images: CheckedImage[];
}

/**
 * Writes the contents of restore points into new files, each of which gets its name only when it is
 * whole. All is looked at before the first byte is written: that the images are there and sound, that
 * their links say what the records say, and that the files are free.
 *
 * @throws {UsageError} If a file exists.
 * @throws {Failure} If an image is missing, damaged or linked to another one, or `qemu-img` fails.
 */
export async function merge(jobs: MergeJob[], options: MergeOptions): Promise<Restored[]> {
  const { deadline } = options;
  const checked: CheckedJob[] = [];
  const count = jobs.reduce((sum, { point }) => sum + point.layers().length, 0);
  if (count >= MANY_IMAGES && !options.skipCheck) {
    log.info("Checking {count} images first (--skip-check leaves that out)", { count });
  }
  for (const job of jobs) {
    if (!job.isDevice) await refuseExisting(deadline, job.targetFile, options.mode);
    const layers = job.point.layers();
    const images = await checkImages(layers, options);
    for (const [i, layer] of layers.entries()) {
      const backing = images[i]?.backing ?? null;
      refuseOtherLink(layers.slice(0, i), layer, backing, job.point.target !== null);
    }
    if (job.isDevice) {
      refuseManyPasses(layers, job.targetFile);
      await requireDevice(job.targetFile, images.at(-1)?.virtualSizeBytes ?? 0);
    }
    checked.push({ job, layers, images });
  }
  const outputs = checked.filter(({ job }) => !job.isDevice).map(({ job, layers, images }) => ({
    targetFile: job.targetFile,
    layers,
    virtualSizeBytes: images.at(-1)?.virtualSizeBytes ?? 0,
  }));
  await requireRoom(outputs, options);
  const made: string[] = [];
  try {
    for (const { job } of checked.filter(({ job }) => !job.isDevice)) {
      await makeFolder(deadline, dirname(job.targetFile), options.mode, made);
    }
    return await restoreAll(checked, options);
  } catch (error) {
    // What holds a disk that was restored before the error stays.
    await removeFolders(deadline, made);
    throw error;
  }
}

async function restoreAll(checked: CheckedJob[], options: MergeOptions): Promise<Restored[]> {
  const { deadline } = options;
  const restored: Restored[] = [];
  for (const { job, layers, images } of checked) {
    const { point, targetFile, format = options.format } = job;
    const { virtualSizeBytes = 0 } = images.at(-1) ?? {};
    log.info("Restoring {name} from {count} images into {targetFile}", {
      name: point.name,
      count: layers.length,
      targetFile,
    });
    const onPercent = (percent: number) =>
      options.onProgress(point.disk, percent / 100 * virtualSizeBytes, virtualSizeBytes);
    await refuseChanged(point, layers);
    const stamps = await stampsOf(deadline, layers, images);
    onPercent(0);
    const refuseTouchedSince = async () => {
      await refuseChanged(point, layers);
      const now = await stampsOf(deadline, layers, images);
      refuseTouched(layers.find((_, i) => now[i] !== stamps[i]));
    };
    const how = { ...options, format };
    if (job.isDevice) {
      await convertToDevice(layers, targetFile, how, onPercent);
      await refuseTouchedSince();
    } else await convertToFile(layers, targetFile, how, onPercent, refuseTouchedSince);
    restored.push({
      disk: point.disk,
      point: point.name,
      pointInTime: new Date(point.timeMs).toISOString(),
      images: layers.length,
      targetFile,
      format,
      virtualSizeBytes,
    });
  }
  return restored;
}

async function refuseExisting(deadline: Deadline, targetFile: string, mode = OWNER_ONLY) {
  if (await exists(deadline, targetFile)) {
    throw new UsageError(
      `"${targetFile}" exists already, and is not overwritten: name another file`,
    );
  }
  await refuseLeftover(deadline, targetFile + PARTIAL_SUFFIX);
  let folder = dirname(targetFile);
  await refuseSharedFolder(deadline, folder, mode);
  // What is missing is made later.
  while (!await exists(deadline, folder)) folder = dirname(folder);
  const info = await stat(deadline, folder).catch(() => null);
  if (!info?.isDirectory) throw new UsageError(`"${folder}" is not a folder`);
}

async function makeFolder(
  deadline: Deadline,
  path: string,
  mode: number | undefined,
  made: string[],
) {
  try {
    await createFolders(deadline, path, mode, made);
  } catch (error) {
    throw new UsageError(`The folder "${path}" can't be made: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * Looks at images whose turn has come: what was checked before may be another one by now, and lead to any
 * file of this machine.
 *
 * @returns What tells each file for as long as nobody touches it.
 * @throws {Failure} If one was changed.
 */
async function stampsOf(
  deadline: Deadline,
  layers: Layer[],
  checked: CheckedImage[],
): Promise<string[]> {
  const stamps: string[] = [];
  for (const [i, { path, isRaw }] of layers.entries()) {
    if (isRaw) {
      const { mtime, ctime } = await requireRawImage(deadline, path);
      stamps.push(`${mtime?.getTime()} ${ctime?.getTime()}`);
    } else stamps.push((await requireImage(deadline, path, checked[i]?.seen?.fingerprint)).stamp);
  }
  return stamps;
}

/**
 * The links in the headers may be missing, but they may not say something else than what gave the
 * order. A record outweighs a link to an earlier image than the parent: that is what an interrupted
 * `restore commit` or prune leaves, and what is read by way of that link is the same. So is a link to a twin.
 */
export function refuseOtherLink(
  earlier: Layer[],
  { path, parent, twins = [] }: Layer,
  backing: string | null,
  isRecorded: boolean,
) {
  const linked = backing === null ? null : resolve(dirname(path), backing);
  if (linked === null || linked === parent) return;
  if (twins.includes(linked)) return;
  if (isRecorded && earlier.some((layer) => layer.path === linked)) return;
  throw new Failure(
    `"${path}" is linked to "${linked}", but ${
      parent ? `builds on "${parent}"` : "is a full backup"
    }: the folder was changed. If the order of the images is still right, "restore rebase" ` +
      "repairs the links; if not, restore by hand in the right order",
  );
}

/**
 * No lock is held, so that backups can be taken during a restore that lasts for hours. Where something
 * changes images (`restore commit`, `--no-timestamp`), the records say so before it begins.
 */
export async function refuseChanged(point: RestorePoint, layers: Layer[]) {
  const now = await point.layersNow();
  const isSame = now?.length === layers.length &&
    layers.every(({ path, timeMs, fingerprint }, i) =>
      now[i]?.path === path && now[i]?.timeMs === timeMs &&
      (!fingerprint || now[i]?.fingerprint?.digest === fingerprint.digest)
    );
  if (isSame) return;
  throw new Failure(
    `The images of "${point.name}" were changed while they were read (restore commit, cleanup --prune, or a backup with ` +
      "--no-timestamp): run again",
  );
}

function refuseTouched(layer: Layer | undefined) {
  if (!layer) return;
  throw new Failure(
    `The image "${layer.path}" was moved, linked or changed while it was read, and what was ` +
      "restored may be wrong: make sure that no other program works in its folder, and run again",
  );
}
