/**
 * Chains that are encrypted: whether there is a key, and whether it is the right one.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import type { Encrypted } from "../qemu_img/chain_source.ts";
import { requireRightKey } from "../qemu_img/try_key.ts";
import type { Layer } from "./points.ts";

type File = Pick<Layer, "path" | "isEncrypted">;

/** The paths of those images that are encrypted. Pure. */
export function encryptedOf(layers: readonly File[]): Encrypted {
  return new Set(layers.filter(({ isEncrypted }) => isEncrypted).map(({ path }) => path));
}

/**
 * Refuses encrypted images without their key, before anything is done with them.
 *
 * @param layers The full backup first.
 * @throws {UsageError} If the key is missing, or is another one.
 */
export async function requireKeyOf(
  deadline: Deadline,
  layers: readonly File[],
  keyFile: string | null,
  signal: AbortSignal,
): Promise<void> {
  const paths = [...encryptedOf(layers)].toReversed();
  const [newest] = paths;
  if (newest === undefined) return;
  if (keyFile === null) {
    throw new UsageError(
      `"${newest}" is encrypted: name the file with its key (--key-file FILE)`,
    );
  }
  await requireRightKey(deadline, paths, keyFile, signal);
}
