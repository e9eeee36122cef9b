/**
 * Makes one image of increments: just what they hold, and the zeroes that hide what lies below. `convert` can't tell
 * those from what is not there; `commit` can. The new image lies below the increments and gets all; an empty one on
 * top keeps them from being written to.
 *
 * Below all of that, for as long as it takes, is something that never reads as zeroes: from 11.1 on, `commit` leaves
 * zeroes out where they would change nothing.
 *
 * Source: qemu-img(1), `commit -b`.
 *
 * @module
 */

import { dirname } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { type Encrypted, linkedSource, notZeroes } from "./chain_source.ts";
import { createQcow2, nameInQemu, qemuImg, type RunOptions } from "./qemu_img.ts";

/** A QEMU that commits marks at least so many bytes as one, and would copy what lies beside them. */
export const LEAST_CLUSTER_BYTES = 4096;

export interface CommitOptions extends RunOptions {
  virtualSizeBytes: number;
  clusterSizeBytes: number;
  /** The paths of those images that are encrypted, the new one among them if it is to be. */
  encrypted: Encrypted;
  /** 0 is no limit. */
  rateLimitBytesPerSecond: number;
  /** What a crash leaves of the new image is of no use: nothing has to be flushed. */
  isTemporary?: boolean;
}

/**
 * Merges increments.
 *
 * @param file Of the new image: a file of the caller's with nothing in it.
 * @param top Of the image on top, which is of no use afterwards: the same.
 * @param layers The increments, the oldest first. They are only read.
 * @throws {QemuImgError} If that fails.
 */
export async function commitLayers(
  deadline: Deadline,
  { file, top, layers }: { file: string; top: string; layers: string[] },
  { virtualSizeBytes, clusterSizeBytes, encrypted, ...options }: CommitOptions,
): Promise<void> {
  const { rateLimitBytesPerSecond: limit, isTemporary, onPercent, ...how } = options;
  const image = { virtualSizeBytes, clusterSizeBytes };
  const below = { backing: notZeroes(virtualSizeBytes), backingFormat: "null-co" as const };
  const isEncrypted = encrypted.has(file);
  const keyFile = isEncrypted ? how.keyFile ?? null : null;
  await createQcow2(deadline, file, { ...image, ...below }, { ...how, keyFile });
  // In the one on top there is never anything.
  await createQcow2(deadline, top, image, { ...how, keyFile: null });
  // QEMU does not find an image by its path if it was told a key for it.
  const name = isEncrypted
    ? await nameInQemu(deadline, file, linkedSource([file], encrypted), how)
    : file;
  const args = [
    ...["commit", onPercent ? "-p" : "-q", "-d", ...(isTemporary ? ["-t", "unsafe"] : [])],
    ...(limit > 0 ? ["-r", String(limit)] : []),
    ...["-b", name, linkedSource([file, ...layers, top], encrypted)],
  ];
  await qemuImg(deadline, [file, ...new Set(layers.map(dirname))], args, {
    ...how,
    ...(onPercent ? { onPercent } : {}),
  });
}
