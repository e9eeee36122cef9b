/**
 * The order of images by their names alone, for folders without records: those of the reference, and a
 * folder that was copied by itself. Pure.
 *
 * @module
 */

import { ChainError } from "../repo/chains.ts";
import { type DiskLevel, type ImageName, parseImageName } from "../repo/layout.ts";

/** An image, placed by its name. */
export interface NamedImage {
  name: string;
  level: DiskLevel;
  /** 0 for a full backup without a time in its name (`--no-timestamp`). */
  unixSeconds: number;
  /** The name of the image before it in its chain; null for a full backup or a copy. */
  parent: string | null;
  /** An increment that holds the same as the parent; see `isTwin()`. */
  parentTwin?: string;
}

/**
 * Orders the images of a folder by the times in their names, oldest first.
 *
 * @param names All names in the folder; other files are passed over.
 * @throws {ChainError} If the order can't be told: two of one time, an increment without a full backup
 * before it, or one of a disk whose full backup is not the last one.
 */
export function orderByName(dir: string, names: string[]): NamedImage[] {
  const timed = names.flatMap((name) => {
    const parsed = parseImageName(name);
    return parsed ? [{ name, ...parsed }] : [];
  }).sort((a, b) =>
    a.unixSeconds - b.unixSeconds || Number(a.level === "full") - Number(b.level === "full")
  );
  let last: string | null = plainFull(timed, names);
  const images: NamedImage[] = last === null
    ? []
    : [{ name: last, level: "full", unixSeconds: 0, parent: null }];
  const fulls = last === null ? [] : [last];
  const twins = new Map<string, string>();
  for (const [index, { name, level, unixSeconds, diskFileName }] of timed.entries()) {
    const [before, after] = [timed[index - 1], timed[index + 1]];
    if (!isTwin(timed[index], after)) refuseTie(dir, name, unixSeconds, after);
    // A disk whose file got another name goes on with its chain; one that had a full backup did not.
    if (
      level === "inc" && fulls.slice(0, -1).includes(diskFileName) && fulls.at(-1) !== diskFileName
    ) {
      throw new ChainError(
        `"${dir}/${name}" belongs to another disk than the full backup before it: this folder ` +
          "holds images of several disks, choose one disk with --filter",
      );
    }
    if (level === "full") fulls.push(diskFileName);
    if (level === "inc" && last === null) {
      throw new ChainError(
        `"${dir}/${name}" is an increment, and there is no full backup before it`,
      );
    }
    const parentTwin = level === "inc" && last !== null ? twins.get(last) : undefined;
    images.push({
      ...{ name, level, unixSeconds, parent: level === "inc" ? last : null },
      ...(parentTwin === undefined ? {} : { parentTwin }),
    });
    if (level !== "copy") last = name;
    if (before && isTwin(before, timed[index])) twins.set(name, before.name);
  }
  return images;
}

type TimedName = ImageName & { name: string };

/** An increment, and the full backup that a prune which was killed has made of it: they hold the same. */
function isTwin(increment: TimedName | undefined, full: TimedName | undefined): boolean {
  return increment?.level === "inc" && full?.level === "full" &&
    increment.unixSeconds === full.unixSeconds && increment.diskFileName === full.diskFileName;
}

/** A full backup that is named as the disk: an increment's name ends in it, or a link names it. */
function plainFull(timed: (ImageName & { name: string })[], names: string[]): string | null {
  const isPlainFull = (name: string) =>
    parseImageName(name) === null &&
    (names.includes(`FULL-${name}`) || timed.some((image) => image.diskFileName === name));
  return names.find(isPlainFull) ?? null;
}

function refuseTie(
  dir: string,
  name: string,
  unixSeconds: number,
  next: { name: string; unixSeconds: number } | undefined,
) {
  if (next?.unixSeconds !== unixSeconds) return;
  throw new ChainError(
    `"${name}" and "${next.name}" in "${dir}" have the same time, and no record says which comes ` +
      "first: restore by hand, with the order you know",
  );
}
