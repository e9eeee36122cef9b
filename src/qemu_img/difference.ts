/**
 * An increment without a bitmap: everything is read, and what differs is stored.
 *
 * Source: qemu-img(1), `rebase` in safe mode: "any differences between the two backing files are merged
 * into the overlay".
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { chainSource } from "./chain_source.ts";
import {
  type CreateOptions,
  createQcow2,
  qemuImg,
  QemuImgError,
  type RunOptions,
} from "./qemu_img.ts";

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

/** How often it is tried to store what the contents hold. */
const ATTEMPTS = 3;

/** The exit code of `qemu-img compare` for images that differ. */
const DIFFERENT = 1;

/**
 * Makes an image that holds where `contents` differs from `parent`, and builds on that.
 *
 * All is read once more and compared with what was stored: a wrong answer of QEMU's while it was read
 * (see `exportName()`) was found by this, and the next one would be.
 *
 * @throws {QemuImgError} If it can't be done; what was made is the caller's to remove.
 */
export async function storeDifference(
  deadline: Deadline,
  path: string,
  options: DifferenceOptions,
): Promise<void> {
  const { contents, parent, image, backing, ...how } = options;
  for (let attempt = 1;; attempt++) {
    await createQcow2(deadline, path, { ...image, backing: contents, backingFormat: "raw" });
    const rebase = ["rebase", "-p", "-f", "qcow2", "-F", "qcow2", "-b", parent, path];
    await qemuImg(deadline, [path, parent], rebase, how);
    if (await firstDifference(deadline, [path], contents, how) === null) break;
    if (attempt === ATTEMPTS) {
      throw new QemuImgError(
        `"${path}" does not hold what was read: run again, with --level full if this comes again`,
      );
    }
  }
  const link = ["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, path];
  await qemuImg(deadline, [path], link);
}

/** Where an image and other contents differ. */
export interface Difference {
  /** The first byte that differs; null where `qemu-img` does not tell it. */
  offset: number | null;
}

/**
 * Compares an image, with all it builds on, with contents of driver "raw".
 *
 * @param chain Its images, the full backup first. With a key all of them are encrypted.
 * @returns Null where they are the same.
 * @throws {QemuImgError} If one can't be read.
 */
export async function firstDifference(
  deadline: Deadline,
  chain: readonly string[],
  contents: string,
  how: RunOptions,
): Promise<Difference | null> {
  const path = chain.at(-1) ?? "";
  // An encrypted chain is spelled out, since each of its images has to be told where the key is.
  const image = how.keyFile ? [chainSource([...chain], new Set(chain))] : ["-f", "qcow2", path];
  try {
    const args = ["compare", "-p", "-F", "raw", ...image, contents];
    await qemuImg(deadline, [path], args, how);
    return null;
  } catch (error) {
    if (!(error instanceof QemuImgError) || error.status !== DIFFERENT) throw error;
    const [, offset] = /mismatch at offset (\d+)/.exec(error.printed) ?? [];
    return { offset: offset === undefined ? null : Number(offset) };
  }
}
