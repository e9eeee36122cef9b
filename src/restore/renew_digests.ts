/**
 * Keeps the digests in step with images that are changed in place.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join, relative } from "@std/path";
import type { ImageDigests } from "../digest/format.ts";
import { forgetDigest, homeOf, readDigests, recordDigest, renewHead } from "../digest/store.ts";
import { messageOf } from "../errors.ts";
import { exists } from "../fs/durable.ts";

/** An image that is about to be changed, and the digests that it had. */
interface Taken {
  target: string;
  image: string;
  before: ImageDigests | null;
}

/**
 * Takes away the digests of images that are about to be changed.
 *
 * @param target Whose records name the images; null for a folder without records.
 * @returns What they were, by the images' paths.
 */
export async function takeDigests(
  deadline: Deadline,
  target: string | null,
  paths: Iterable<string>,
): Promise<Map<string, Taken>> {
  const taken = new Map<string, Taken>();
  for (const path of paths) {
    const place = await placeOf(deadline, target, path);
    const before = await readDigests(deadline, place.target, place.image).catch(() => null);
    taken.set(path, { ...place, before });
    await forgetDigest(deadline, place.target, place.image);
  }
  return taken;
}

async function placeOf(deadline: Deadline, target: string | null, path: string) {
  if (target !== null) return { target, image: relative(target, path) };
  const home = await homeOf(deadline, dirname(path));
  return { target: home.target, image: join(home.folder, basename(path)) };
}

/**
 * Records the digests of images that were changed. Without records only those that had some: "restore verify"
 * begins with the others.
 *
 * @param linked The images of which only the header was changed.
 * @returns A warning for each that could not be recorded.
 */
export async function renewDigests(
  deadline: Deadline,
  target: string | null,
  taken: ReadonlyMap<string, Taken>,
  linked: ReadonlySet<string>,
  signal: AbortSignal,
): Promise<string[]> {
  const warnings: string[] = [];
  for (const [path, { target: home, image, before }] of taken) {
    if (!await exists(deadline, path) || (target === null && before === null)) continue;
    try {
      if (before !== null && linked.has(path)) {
        await renewHead(deadline, home, image, before, { signal });
      } else await recordDigest(deadline, home, image, { signal });
    } catch (error) {
      signal.throwIfAborted();
      warnings.push(
        `The digests of "${path}" could not be recorded, the next "restore verify" does it: ` +
          messageOf(error),
      );
    }
  }
  return warnings;
}
