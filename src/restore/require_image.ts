/**
 * Looks whether an image is still the one that was finished, before it is read or written.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { type Fingerprint, type ImageLook, isFault, lookAtImage } from "../repo/fingerprint.ts";
import { Failure } from "../errors.ts";

/**
 * Looks at an image.
 *
 * @param path Absolute.
 * @param known What tells it, if that is known.
 * @throws {Failure} If it is missing or another one, with what to do.
 */
export async function requireImage(
  deadline: Deadline,
  path: string,
  known?: Fingerprint,
): Promise<ImageLook> {
  const seen = await lookAtImage(deadline, path, known);
  if (!isFault(seen)) return seen;
  if (seen.state === "missing") {
    throw new Failure(`The image "${path}" is missing: what builds on it can't be restored`);
  }
  throw new Failure(
    `The image "${path}" ${seen.reason}. What builds on it can't be restored: put the image back from a ` +
      "copy of the target, or restore an earlier point (--until). What it holds now can only be read by hand " +
      "(qemu-img convert)",
  );
}
