/**
 * Looks whether an image can be read through the links in its headers.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, resolve } from "@std/path";
import { parseImageName } from "../repo/layout.ts";
import { Failure } from "../errors.ts";
import { imageFacts } from "../qemu_img/qemu_img.ts";

/**
 * Refuses an increment that has no backing link, or that builds on such an increment: the Python qmpbackup leaves
 * its images so. QEMU would read zeroes instead of what is in the image below.
 *
 * @param path Absolute.
 * @returns The images of its chain, the full backup first.
 * @throws {Failure} With what to do.
 */
export async function requireLinks(
  deadline: Deadline,
  path: string,
  signal: AbortSignal,
): Promise<string[]> {
  const seen = new Set<string>();
  let image = path;
  while (parseImageName(basename(image))?.level === "inc") {
    const { backing } = await imageFacts(deadline, image, { signal });
    if (backing === null || seen.has(image)) {
      throw new Failure(
        `"${image}" has no backing link to the image that it builds on, and can't be compared ` +
          `with the disk: repair the chain with "qmpbackup restore rebase --dir ${
            dirname(image)
          }", or use --level full`,
      );
    }
    seen.add(image);
    image = resolve(dirname(image), backing);
  }
  return [...seen, image].toReversed();
}
