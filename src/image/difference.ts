/**
 * An increment without a bitmap: everything is read, and what differs is stored.
 *
 * Source: qemu-img(1), `rebase` in safe mode: "any differences between the two backing files are merged
 * into the overlay".
 *
 * @module
 */

import { type CreateOptions, createQcow2, qemuImg, type RunOptions } from "./qemu_img.ts";

export interface DifferenceOptions extends RunOptions {
  /** The contents, as `qemu-img` is to open them; of driver "raw". */
  contents: string;
  /** What they are compared with, a qcow2 image; absolute. */
  parent: string;
  /** The image to be made, without its backing. */
  image: Omit<CreateOptions, "backing">;
  /** The parent's name as it is to stand in the image's header. */
  backing: string;
}

/**
 * Makes an image that holds where `contents` differs from `parent`, and builds on that.
 *
 * @throws {QemuImgError} If it can't be done; what was made is the caller's to remove.
 */
export async function storeDifference(path: string, options: DifferenceOptions): Promise<void> {
  const { contents, parent, image, backing, ...how } = options;
  await createQcow2(path, { ...image, backing: contents, backingFormat: "raw" });
  await qemuImg(["rebase", "-p", "-f", "qcow2", "-F", "qcow2", "-b", parent, path], how);
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, path]);
}
