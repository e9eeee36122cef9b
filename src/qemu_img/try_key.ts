/**
 * Tries a key, before anything is done with it.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { isWrongKey } from "./key.ts";
import { openWithKey, QemuImgError } from "./qemu_img.ts";

/** So many images are tried: the header of one may be damaged. */
const TRIED = 3;

/**
 * Refuses a key that opens none of the images that are tried.
 *
 * @param paths Of encrypted images, the newest first.
 * @throws {UsageError} If it is another one.
 */
export async function requireRightKey(
  deadline: Deadline,
  paths: readonly string[],
  keyFile: string,
  signal: AbortSignal,
): Promise<void> {
  let refused: string | null = null;
  for (const path of paths.slice(0, TRIED)) {
    try {
      return await openWithKey(deadline, path, { signal, keyFile });
    } catch (error) {
      // What is wrong with an image beside its key is said where it is checked.
      if (!(error instanceof QemuImgError)) throw error;
      if (!isWrongKey(error)) continue;
      refused ??= path;
    }
  }
  if (refused === null) return;
  throw new UsageError(
    `The key in "${keyFile}" is not the one that "${refused}" was encrypted with: name the right file with ` +
      "--key-file. All bytes of the file are the key, a newline at its end too",
  );
}
