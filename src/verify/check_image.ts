/**
 * Checks one image: what its header says, its metadata, and its contents against the recorded digests.
 *
 * @module
 */

import { dirname, relative, resolve } from "@std/path";
import { digestRange } from "../digest/digest.ts";
import { DigestError, type ImageDigests, rangeOfPart } from "../digest/format.ts";
import { digestsFile, readDigests, recordDigest } from "../digest/store.ts";
import { lookAt } from "../fs/create.ts";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import { openRegular, type ReadOptions } from "../fs/read.ts";
import { isFault, lookAtImage, MISSING } from "../repo/fingerprint.ts";
import { checkImage, imageFacts, QemuImgError } from "../qemu_img/qemu_img.ts";
import type { Layer } from "../restore/points.ts";
import { messageOf, StoppedError } from "../errors.ts";
import type { Damage } from "./damage.ts";

/** An image that a restore point needs. */
export interface NeededImage {
  layer: Layer;
  /** Relative to the target. */
  image: string;
  /** The images before it in its chain; absolute. */
  earlier: string[];
  /** Whether a record names it. */
  isRecorded: boolean;
}

export interface CheckOptions extends ReadOptions {
  signal: AbortSignal;
  /** The file with the key of an encrypted image. */
  keyFile: string | null;
  /** Whether a part of its contents is to be read. */
  isWanted(part: number): boolean;
  /** Of new files. */
  mode: number;
  /** Why nothing may be written here; null where it may. */
  writeProblem: string | null;
}

export interface CheckedImage {
  damages: Damage[];
  /** Its digests were recorded, since there were none of its present state. */
  isNew: boolean;
  warnings: string[];
}

/** Checks one image. */
export async function checkOne(
  deadline: Deadline,
  target: string,
  needed: NeededImage,
  options: CheckOptions,
): Promise<CheckedImage> {
  const { layer, image } = needed;
  const damage = (reason: string, spoils = true): Damage => (
    { file: image, range: null, reason, spoils }
  );
  const { faults, isHalfWay } = layer.isRaw
    ? { faults: await rawFault(deadline, layer.path), isHalfWay: false }
    : await structureFaults(deadline, needed, options);
  const damages = faults.map((reason) => damage(reason));
  if (!(await lookAt(deadline, layer.path))?.isFile) return { damages, isNew: false, warnings: [] };
  let digests: ImageDigests | null;
  try {
    digests = await readDigests(deadline, target, image);
  } catch (error) {
    if (!(error instanceof DigestError)) throw error;
    const file = relative(target, digestsFile(target, image));
    const reason =
      `can't be used: ${error.message}. The contents of "${image}" were not compared. ` +
      "Put it back from a copy of the target, or remove it: the next verification records new digests";
    return {
      damages: [...damages, { ...damage(reason, false), file }],
      isNew: false,
      warnings: [],
    };
  }
  const { fingerprint } = layer;
  // Of an earlier state: a run that was killed has changed the image and recorded it, and not its digests.
  const isOld = fingerprint && digests && digests.fingerprint?.digest !== fingerprint.digest;
  if (digests && !isOld && !isHalfWay) {
    damages.push(...await contentFaults(deadline, layer.path, image, digests, options));
    return { damages, isNew: false, warnings: [] };
  }
  // In parts it can't begin: the first part stands for all.
  if (damages.length > 0 || !options.isWanted(0)) return { damages, isNew: false, warnings: [] };
  if (options.writeProblem !== null) {
    return {
      damages,
      isNew: false,
      warnings: [`No digests are recorded: ${options.writeProblem}`],
    };
  }
  try {
    await recordDigest(deadline, target, image, { ...options, isRaw: layer.isRaw ?? false });
    return { damages, isNew: true, warnings: [] };
  } catch (error) {
    if (error instanceof StoppedError || error instanceof HangingError) throw error;
    const words = `The digests of "${layer.path}" could not be recorded: ${messageOf(error)}`;
    return { damages, isNew: false, warnings: [words] };
  }
}

async function rawFault(deadline: Deadline, path: string): Promise<string[]> {
  try {
    (await openRegular(deadline, path)).close();
    return [];
  } catch (error) {
    if (error instanceof HangingError) throw error;
    return error instanceof Deno.errors.NotFound ? [MISSING.reason] : [messageOf(error)];
  }
}

interface Structure {
  /** Each goes on from the image's name. */
  faults: string[];
  /** A prune that was stopped has linked it to another image, and not recorded that: no digests are of this state. */
  isHalfWay: boolean;
}

/** What is wrong with an image beside its contents. */
async function structureFaults(
  deadline: Deadline,
  { layer: { path, parent, twins = [], fingerprint, isEncrypted }, earlier, isRecorded }:
    NeededImage,
  { signal, keyFile }: Pick<CheckOptions, "signal" | "keyFile">,
): Promise<Structure> {
  const faults: string[] = [];
  let isHalfWay = false;
  const seen = await lookAtImage(deadline, path, fingerprint);
  if (isFault(seen)) faults.push(seen.reason);
  // Nothing else is opened.
  if (isFault(seen) && (seen.state !== "changed" || !(await lookAt(deadline, path))?.isFile)) {
    return { faults, isHalfWay };
  }
  try {
    const { backing, dataFile } = await imageFacts(deadline, path, { signal });
    const link = backing === null ? null : resolve(dirname(path), backing);
    // As in a restore: no link is as good as the right one, and a record outweighs one that leads further back, or to
    // an image that holds the same, as an interrupted `restore commit` or prune leaves it.
    const isOther = link !== null && link !== parent;
    const isKnown = link !== null && isRecorded && [...earlier, ...twins].includes(link);
    isHalfWay = isOther && isKnown && fingerprint === undefined;
    if (isOther && !isKnown) {
      faults.push(
        `is linked to "${link}", but ${parent ? `builds on "${parent}"` : "is a full backup"}`,
      );
    }
    if (dataFile !== null) {
      faults.push("keeps its data in another file, which no backup of ours does");
    }
    await checkImage(deadline, path, { signal, keyFile: isEncrypted ? keyFile : null });
  } catch (error) {
    if (!(error instanceof QemuImgError)) throw error;
    faults.push(`is damaged: ${error.message}`);
  }
  return { faults, isHalfWay };
}

/** Reads the parts that are wanted, and compares each with what was recorded. */
async function contentFaults(
  deadline: Deadline,
  path: string,
  image: string,
  digests: ImageDigests,
  { isWanted, ...how }: CheckOptions,
): Promise<Damage[]> {
  const damages: Damage[] = [];
  const add = (range: Damage["range"], reason: string) =>
    damages.push({ file: image, range, reason, spoils: true });
  using file = await openRegular(deadline, path);
  const { size } = await stat(deadline, path);
  const { sizeBytes, recorded } = digests;
  if (size !== sizeBytes) {
    const [offset, end] = [Math.min(size, sizeBytes), Math.max(size, sizeBytes)];
    const words = size < sizeBytes ? "are missing: the file was cut off" : "were added to the file";
    add({ offset, length: end - offset }, words);
  }
  for (const [part, digest] of digests.parts.entries()) {
    const range = rangeOfPart(digests, part);
    if (!isWanted(part) || range.offset + range.length > size) continue;
    try {
      if (await digestRange(deadline, file, path, range, how) === digest) continue;
      add(range, `hold other data than on ${recorded}, when they were recorded`);
    } catch (error) {
      how.signal.throwIfAborted();
      if (error instanceof HangingError) throw error;
      add(range, `can't be read: ${messageOf(error)}`);
    }
  }
  return damages;
}
