/**
 * Keeps the digests of a target's images: `_qmpbackup/digests/<image>.json`, one file for each image.
 *
 * They name the fingerprint of the state that they are of. So digests that were left of an earlier state, by
 * a run that was killed while it changed the image, are never taken for those of the present one.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join } from "@std/path";
import { Failure } from "../errors.ts";
import { createInside, exists, removeFile, syncPath, writeDurably } from "../fs/durable.ts";
import { stat } from "../fs/files.ts";
import { openRegular, type ReadOptions } from "../fs/read.ts";
import { readUpTo } from "../fs/open.ts";
import { type Fingerprint, isFault, lookAtImage } from "../repo/fingerprint.ts";
import { DIGESTS_FOLDER, RECORDS_FOLDER, UUID_FILE } from "../repo/layout.ts";
import { digestFile, digestRange } from "./digest.ts";
import {
  DigestError,
  DIGESTS_HEAD,
  formatDigests,
  type ImageDigests,
  MAX_DIGESTS_BYTES,
  parseDigests,
  type PartDigests,
  rangeOfPart,
} from "./format.ts";

/** The file that keeps an image's digests. */
export function digestsFile(target: string, image: string): string {
  return join(target, DIGESTS_FOLDER, `${image}.json`);
}

/**
 * Reads an image and records its digests, in the place of those that are there. The image is finished: nobody
 * writes to it any more.
 *
 * @param target Absolute.
 * @param image Its path in the target.
 * @param options `mode` is that of a new file; `isRaw` that it is not qcow2 (of the Python tools alone).
 * @throws {Failure} If it can't be read, or was changed meanwhile.
 */
export async function recordDigest(
  deadline: Deadline,
  target: string,
  image: string,
  { mode, isRaw = false, ...how }: ReadOptions & { mode?: number; isRaw?: boolean } = {},
): Promise<void> {
  const path = join(target, image);
  const see = isRaw ? lookAtRaw : look;
  const before = await see(deadline, path);
  const digests = await digestFile(deadline, path, how);
  const after = await see(deadline, path);
  if (before.stamp !== after.stamp || before.fingerprint?.digest !== after.fingerprint?.digest) {
    throw new Failure(`"${path}" was changed while it was read: run again`);
  }
  await writeDigests(deadline, target, image, after.fingerprint, digests, mode);
}

/**
 * As `recordDigest()`, of an image in which nothing but the header was changed since it had these digests: only
 * its first part is read, and damage in the others stays known.
 */
export async function renewHead(
  deadline: Deadline,
  target: string,
  image: string,
  known: ImageDigests,
  options: ReadOptions = {},
): Promise<void> {
  const path = join(target, image);
  const { fingerprint } = await look(deadline, path);
  const { sizeBytes, partBytes, parts: [, ...others] } = known;
  if (fingerprint.sizeBytes !== sizeBytes) {
    return await recordDigest(deadline, target, image, options);
  }
  using file = await openRegular(deadline, path);
  const first = await digestRange(deadline, file, path, rangeOfPart(known, 0), options);
  await writeDigests(deadline, target, image, fingerprint, {
    sizeBytes,
    partBytes,
    parts: [first, ...others],
  });
}

async function look(deadline: Deadline, path: string) {
  const seen = await lookAtImage(deadline, path);
  if (isFault(seen)) throw new Failure(`"${path}" ${seen.reason}`);
  return seen;
}

async function lookAtRaw(deadline: Deadline, path: string) {
  const { size, mtime, ctime } = await stat(deadline, path);
  return { fingerprint: null, stamp: `${size} ${mtime?.getTime()} ${ctime?.getTime()}` };
}

/**
 * Writes the digests of an image that was read already, whole or not at all.
 *
 * @param fingerprint Of the state that was read; null for a raw image.
 * @param mode Of a new file.
 */
export async function writeDigests(
  deadline: Deadline,
  target: string,
  image: string,
  fingerprint: Fingerprint | null,
  digests: PartDigests,
  mode?: number,
): Promise<void> {
  const file = digestsFile(target, image);
  const folders = [RECORDS_FOLDER, DIGESTS_FOLDER, ...foldersOf(image)];
  for (const folder of folders) await createInside(deadline, join(target, folder), mode);
  const recorded = new Date().toISOString();
  const text = formatDigests({ ...DIGESTS_HEAD, image, recorded, fingerprint, ...digests });
  await writeDurably(deadline, file, text, mode === undefined ? {} : { mode });
}

function foldersOf(image: string): string[] {
  const folder = dirname(image);
  return folder === "." ? [] : [join(DIGESTS_FOLDER, folder)];
}

/**
 * Reads the digests of an image.
 *
 * @returns Null where there are none.
 * @throws {DigestError} If they can't be believed.
 */
export async function readDigests(
  deadline: Deadline,
  target: string,
  image: string,
): Promise<ImageDigests | null> {
  const file = digestsFile(target, image);
  if (!await exists(deadline, file)) return null;
  const text = await readUpTo(deadline, file, MAX_DIGESTS_BYTES);
  if (text === null) {
    throw new DigestError(
      `"${file}" is not a file of digests: it is too large, or not a regular file (a link, a folder)`,
    );
  }
  return parseDigests(file, text, image);
}

/** Removes the digests of an image that is about to be changed, or that is removed. */
export async function forgetDigest(
  deadline: Deadline,
  target: string,
  image: string,
): Promise<void> {
  const file = digestsFile(target, image);
  if (!await exists(deadline, file)) return;
  await removeFile(deadline, file);
  await syncPath(deadline, dirname(file));
}

/** Where the digests of the images of a folder are kept, and what the folder is called there. */
export interface Home {
  /** Absolute. */
  target: string;
  /** "." is the target itself. */
  folder: string;
}

/**
 * Where the digests of images are kept that no record names: in the target that the folder lies in, or in the
 * folder itself where it was copied alone.
 *
 * @param dir A disk's folder; absolute.
 */
export async function homeOf(deadline: Deadline, dir: string): Promise<Home> {
  const above = dirname(dir);
  const isInTarget = await exists(deadline, join(above, UUID_FILE));
  return isInTarget ? { target: above, folder: basename(dir) } : { target: dir, folder: "." };
}
