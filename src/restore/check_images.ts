/**
 * Looks whether the images of a chain are there and sound, before anything is made of them.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { lookAt } from "../fs/create.ts";
import { Failure } from "../errors.ts";
import { checkImage, requireQemuImg } from "../qemu_img/qemu_img.ts";
import type { ImageLook } from "../repo/fingerprint.ts";
import { requireKeyOf } from "./encryption.ts";
import type { Layer } from "./points.ts";
import { requireImage } from "./require_image.ts";

/** What an image's header says, and by what it is told later; a raw one is not. */
export type CheckedImage = Pick<ImageLook, "virtualSizeBytes" | "backing"> & {
  seen?: ImageLook;
};

export interface CheckOptions {
  /** Don't check each image's metadata. */
  skipCheck: boolean;
  /** The file with the key of the images; null where none is given. */
  keyFile: string | null;
  deadline: Deadline;
  signal: AbortSignal;
}

/** One program for each image: more of them at once would only be in each other's way. */
const CHECKS_AT_ONCE = 4;

/**
 * Looks whether the images of a chain are there and sound.
 *
 * @returns What each says of itself.
 * @throws {Failure} If one is missing or damaged, or keeps its data in another file.
 */
export async function checkImages(
  layers: Layer[],
  options: CheckOptions,
): Promise<CheckedImage[]> {
  await requireQemuImg();
  await requireKeyOf(options.deadline, layers, options.keyFile, options.signal);
  const images: CheckedImage[] = [];
  const queue = layers.entries();
  let failed: { error: unknown } | null = null;
  const work = async () => {
    for (const [i, layer] of queue) {
      if (failed) return;
      try {
        images[i] = await checkOne(layer, options);
      } catch (error) {
        failed ??= { error };
      }
    }
  };
  await Promise.all(Array.from({ length: CHECKS_AT_ONCE }, work));
  if (failed) throw (failed as { error: unknown }).error;
  return images;
}

async function checkOne(
  { path, isRaw, isEncrypted, fingerprint }: Layer,
  { skipCheck, keyFile, deadline, signal }: CheckOptions,
): Promise<CheckedImage> {
  if (isRaw) {
    return { virtualSizeBytes: (await requireRawImage(deadline, path)).size, backing: null };
  }
  const seen = await requireImage(deadline, path, fingerprint);
  if (!skipCheck) {
    await checkImage(deadline, path, { signal, keyFile: isEncrypted ? keyFile : null });
    // What was checked was not another one, put in its place for a moment.
    await requireImage(deadline, path, seen.fingerprint);
  }
  const { virtualSizeBytes, backing } = seen;
  return { virtualSizeBytes, backing, seen };
}

/** @throws {Failure} If it is missing, or not a regular file. */
export async function requireRawImage(deadline: Deadline, path: string): Promise<Deno.FileInfo> {
  const info = await lookAt(deadline, path);
  if (info?.isFile) return info;
  throw new Failure(
    info === null
      ? `The image "${path}" is missing: it can't be restored`
      : `"${path}" is not a regular file (a link, a folder, a pipe): put the image itself in its place`,
  );
}
