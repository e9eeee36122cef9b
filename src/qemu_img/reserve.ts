/**
 * Blocks set aside for an image, so that writing to it can't run out of space.
 *
 * Source: qemu-img(1), `resize --preallocation=falloc` of the file as a raw image: what is added behind
 * the end is where a qcow2 image puts its next clusters.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { truncate } from "../fs/files.ts";
import { imageEnd, qemuImg, type RunOptions } from "./qemu_img.ts";

/**
 * Sets blocks aside behind the end of a new image.
 *
 * @throws {QemuImgError} If the file system has not so many.
 */
export async function reserve(deadline: Deadline, path: string, sizeBytes: number): Promise<void> {
  // A raw image is made of sectors.
  const added = Math.ceil(sizeBytes / 512) * 512;
  const args = ["resize", "-q", "-f", "raw", "--preallocation=falloc", path, `+${added}`];
  await qemuImg(deadline, [path], args);
}

/** Gives back what an image that is closed did not use. */
export async function giveBack(
  deadline: Deadline,
  path: string,
  { keyFile = null }: Pick<RunOptions, "keyFile"> = {},
): Promise<void> {
  const end = await imageEnd(deadline, path, { keyFile });
  await truncate(deadline, path, end);
}
