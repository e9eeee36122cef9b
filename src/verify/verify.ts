/**
 * Verifies backups: that all images are there, are those that were made, and hold what they held then.
 *
 * No lock is taken: a backup that runs meanwhile is not kept waiting, and adds images that are verified the
 * next time. What looks damaged is looked up once more in the records: it may have been merged, changed or
 * removed by another run since.
 *
 * @module
 */

import { basename, dirname, join, relative } from "@std/path";
import type { Backups } from "./find.ts";
import { isFault, lookAtImage } from "../repo/fingerprint.ts";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { listFolder, stat } from "../fs/files.ts";
import { ChainError } from "../repo/chains.ts";
import { parseImageName } from "../repo/layout.ts";
import { Failure, messageOf, StoppedError } from "../errors.ts";
import { requireKeyOf } from "../restore/encryption.ts";
import type { Layer, RestorePoint } from "../restore/points.ts";
import { checkOne, type NeededImage } from "./check_image.ts";
import { type Damage, joined, type NeededFiles, pointsHitBy } from "./damage.ts";
import { presentResults, RESULT_HEAD, type VerifyResult } from "./result.ts";
import { modeOfFiles, writeProblem } from "../repo/results.ts";
import { readResults } from "./results.ts";
import { isInShare, type Subset } from "./subset.ts";

export interface VerifyOptions {
  deadline: Deadline;
  /** The share of the contents to read; null for all. */
  subset: Subset | null;
  /** The day that decides which share. */
  day: number;
  toolVersion: string;
  /** The file with the key of encrypted images; null where none is given. */
  keyFile: string | null;
  signal: AbortSignal;
  /** Bytes of all images of a disk, whatever share of them is read. */
  onProgress(disk: string, doneBytes: number, totalBytes: number): void;
}

/** What was found. */
export interface Verified {
  result: VerifyResult;
  /** Where the digests and results are; absolute. */
  target: string;
  vm: string;
  spoiled: NeededFiles[];
  intact: NeededFiles[];
  warnings: string[];
}

/**
 * Verifies the images of all restore points of a target, or of one disk.
 *
 * @throws {HangingError} If the storage does not answer.
 * @throws {UsageError} If images are encrypted, and the key is missing or another one.
 */
export async function verify(backups: Backups, options: VerifyOptions): Promise<Verified> {
  const { target, vm, folder } = backups;
  const { deadline } = options;
  const started = new Date();
  const warnings: string[] = [];
  const damages: Damage[] = [];
  let points: RestorePoint[] = [];
  try {
    points = await backups.points();
  } catch (error) {
    refuseStop(error);
    // What the records can't say, nobody can check.
    damages.push({ file: ".", range: null, reason: messageOf(error), spoils: false });
  }
  const { images, needed } = neededBy(backups, points, damages);
  const layers = images.map(({ layer }) => layer);
  await requireKeyOf(deadline, layers, options.keyFile, options.signal);
  warnings.push(...await strangersIn(deadline, backups, images));
  const before = await readResults(deadline, target).catch(() => []);
  const known = new Set(
    presentResults(before).flatMap(({ damages }) => damages.map(({ file }) => file)),
  );
  const problem = await writeProblem(deadline, target);
  const mode = await modeOfFiles(deadline, target);
  const suspects: { image: NeededImage; found: Damage[] }[] = [];
  let readBytes = 0, recorded = 0;
  for (const image of images) {
    options.signal.throwIfAborted();
    const isWanted = (part: number) =>
      options.subset === null || known.has(image.image) ||
      isInShare(options.subset, options.day, image.image, part);
    const { sizeBytes, disk } = await sizeOf(deadline, image, points);
    let doneBytes = 0;
    const onBytes = (bytes: number) => {
      readBytes += bytes;
      options.onProgress(disk, doneBytes += bytes, sizeBytes);
    };
    const { signal, keyFile } = options;
    const how = { signal, keyFile, isWanted, onBytes, mode, writeProblem: problem };
    const checked = await tryToCheck(deadline, target, image, how);
    if (checked.isNew) recorded++;
    warnings.push(...checked.warnings);
    if (checked.damages.length > 0) suspects.push({ image, found: joined(checked.damages) });
  }
  const now = suspects.length > 0 ? await layersNow(backups) : new Map();
  for (const { image, found } of suspects) {
    if (!await isChangedSince(deadline, backups, image, now)) damages.push(...found);
    else {
      warnings.push(
        `"${image.image}" was changed or removed by another run meanwhile: it was not verified`,
      );
    }
  }
  const { spoiled, intact } = pointsHitBy(damages, needed);
  const { subset, day } = options;
  return {
    target,
    vm,
    spoiled,
    intact,
    warnings: [...new Set(warnings)],
    result: {
      ...RESULT_HEAD,
      started: started.toISOString(),
      finished: new Date().toISOString(),
      tool: options.toolVersion,
      folder,
      subset: subset && { ...subset, day },
      images: images.length,
      points: points.length,
      readBytes,
      recorded,
      damages,
      spoiled: spoiled.map(({ point }) => point),
    },
  };
}

/** The images that the points need, each once, the oldest first. */
function neededBy(
  { target, hasRecords }: Backups,
  points: RestorePoint[],
  damages: Damage[],
): { images: NeededImage[]; needed: NeededFiles[] } {
  const images = new Map<string, NeededImage>();
  const needed = points.map((point): NeededFiles => {
    const { folder, name, disk, timeMs } = point;
    const own = hasRecords ? join(folder, name) : null;
    try {
      const layers = point.layers();
      for (const [i, layer] of layers.entries()) {
        const image = relative(target, layer.path);
        const earlier = layers.slice(0, i).map(({ path }) => path);
        if (!images.has(image)) {
          images.set(image, { layer, image, earlier, isRecorded: hasRecords });
        }
      }
      const files = layers.map(({ path }) => relative(target, path));
      return { point: files.at(-1) ?? name, disk, timeMs, files };
    } catch (error) {
      if (!(error instanceof ChainError)) throw error;
      const file = own ?? name;
      damages.push({
        file,
        range: null,
        reason: `can't be restored: ${error.message}`,
        spoils: true,
      });
      return { point: file, disk, timeMs, files: [] };
    }
  });
  return { images: [...images.values()], needed };
}

/** Images that lie beside those that are recorded. */
async function strangersIn(
  deadline: Deadline,
  { target, hasRecords }: Backups,
  images: NeededImage[],
) {
  if (!hasRecords) return [];
  const known = new Set(images.map(({ layer: { path } }) => path));
  const found: string[] = [];
  for (const folder of new Set(images.map(({ layer: { path } }) => dirname(path)))) {
    const entries = await listFolder(deadline, folder).catch(() => []);
    for (const { name, isFile } of entries) {
      if (isFile && parseImageName(name) && !known.has(join(folder, name))) {
        found.push(relative(target, join(folder, name)));
      }
    }
  }
  return found.map((file) =>
    `"${file}" is in no record, or no restore point needs it: it was not verified`
  );
}

async function sizeOf(deadline: Deadline, { layer, image }: NeededImage, points: RestorePoint[]) {
  const sizeBytes = await stat(deadline, layer.path).then(({ size }) => size, () => 0);
  const folder = dirname(image);
  const disk = points.find((point) => point.folder === folder)?.disk ?? basename(folder);
  return { sizeBytes, disk };
}

async function tryToCheck(...args: Parameters<typeof checkOne>): ReturnType<typeof checkOne> {
  try {
    return await checkOne(...args);
  } catch (error) {
    refuseStop(error);
    const [, , { image }] = args;
    const damage = {
      file: image,
      range: null,
      reason: `can't be read: ${messageOf(error)}`,
      spoils: true,
    };
    return { damages: [damage], isNew: false, warnings: [] };
  }
}

/** What the records say by now, by the images' paths. */
async function layersNow(backups: Backups): Promise<Map<string, Layer>> {
  const points = backups.hasRecords ? await backups.points().catch(() => []) : [];
  const layers = points.flatMap((point) => {
    try {
      return point.layers();
    } catch (error) {
      if (error instanceof ChainError) return [];
      throw error;
    }
  });
  return new Map(layers.map((layer) => [layer.path, layer]));
}

/** Whether another run has recorded something else of an image since. */
async function isChangedSince(
  deadline: Deadline,
  { hasRecords }: Backups,
  { layer: { path, fingerprint } }: NeededImage,
  layers: ReadonlyMap<string, Layer>,
): Promise<boolean> {
  if (!hasRecords) return false;
  const now = layers.get(path);
  if (!now) return true;
  if (now.fingerprint?.digest === fingerprint?.digest) return false;
  return !isFault(await lookAtImage(deadline, path, now.fingerprint));
}

/** What is not a finding: that we are to stop, or that nothing can be read at all. */
function refuseStop(error: unknown) {
  const isFinding = error instanceof Failure ||
    (error instanceof Error && "code" in error && typeof error.code === "string");
  if (error instanceof StoppedError || error instanceof HangingError || !isFinding) throw error;
}
