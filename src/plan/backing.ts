/**
 * Tells whether a disk still has the backing files of its last backup. With others it holds other data, and no
 * dirty bitmap shows that. Pure.
 *
 * The time of its last change tells a file from another one of the same name. It does not change while VMs use the
 * file, since they only read it. Inode and device number may change when a file system is mounted again (NFS, LVM,
 * FUSE).
 *
 * @module
 */

import type { BackingImage } from "../vm/disks.ts";

/**
 * What is different, as the end of a sentence; null if nothing is. What is not known, then or now, is not
 * compared.
 *
 * @param then From the record; null where nobody looked.
 */
export function backingChange(then: BackingImage[] | null, now: BackingImage[]): string | null {
  if (then === null) return null;
  const called = (images: BackingImage[]) =>
    images.length === 0 ? "none" : images.map(({ file }) => `"${file}"`).join(" on ");
  if (called(then) !== called(now)) {
    return `its backing files are not those of the last backup (now ${called(now)}, then ${
      called(then)
    })`;
  }
  for (const [index, image] of now.entries()) {
    const difference = differenceOf(then[index] ?? image, image);
    if (difference) {
      return `its backing file "${image.file}" was changed or replaced since the last backup ` +
        `(now ${difference})`;
    }
  }
  return null;
}

/** The first difference, in words that say what is now and what was then. */
function differenceOf(then: BackingImage, now: BackingImage): string | null {
  const facts: [keyof BackingImage, (value: string | number) => string][] = [
    ["format", (value) => `of format ${value}`],
    ["virtualSizeBytes", (value) => `a disk of ${value} bytes`],
    ["fileBytes", (value) => `a file of ${value} bytes`],
    ["modified", (value) => `last changed at ${value}`],
  ];
  for (const [key, words] of facts) {
    const [before, after] = [then[key], now[key]];
    if (before === null || after === null || before === after) continue;
    return `${words(after)}, then ${words(before)}`;
  }
  return null;
}
