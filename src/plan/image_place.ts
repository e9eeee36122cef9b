/**
 * What a backup's image is called, and what it takes the place of. Pure.
 *
 * @module
 */

import { basename, join } from "@std/path";
import { images } from "../repo/chains.ts";
import {
  type DiskLevel,
  imageName,
  MAX_NAME_SECONDS,
  parseImageName,
  plainImageName,
} from "../repo/layout.ts";
import { Failure } from "../errors.ts";
import type { Disk } from "../vm/disks.ts";
import { isListed } from "./last_backup.ts";
import type { Facts } from "./facts.ts";
import type { BackupRequest } from "./request.ts";

/** Where an image goes. */
export interface ImagePlace {
  /** Relative to the target. */
  file: string;
  /** There is an image of this name: it is removed when the new one is done. */
  replaces: boolean;
  /** The name of a symbolic link to the image, beside it. */
  link: string | null;
}

/** Where it goes: relative to the target, and what its disk's file is called there. */
interface Place {
  folder: string;
  fileName: string;
}

/**
 * Decides the name of an image.
 *
 * @throws {Failure} If it would replace another disk's, or what others build on.
 */
export function imageOf(
  request: BackupRequest,
  facts: Facts,
  disk: Disk,
  level: DiskLevel,
  { folder, fileName }: Place,
): ImagePlace {
  const timed = {
    file: join(folder, imageName(level, imageTime(facts), fileName)),
    replaces: false,
    link: null,
  };
  if (request.timestamp || level === "inc") return timed;
  const name = plainImageName(fileName);
  const file = join(folder, name);
  const child = childOf(facts, file);
  // Nobody asked for this full backup: if it were refused, there would be no backups any more.
  if (child && request.level === "auto") return timed;
  const remedy = "name another target, or leave out --no-timestamp";
  if (child) {
    const path = join(facts.target.path, child);
    throw new Failure(`"${path}" builds on "${file}", which would be replaced: ${remedy}`);
  }
  const attachment = facts.attached.get(file);
  if (attachment !== undefined && request.level === "auto") return timed;
  if (attachment !== undefined) {
    const path = join(facts.target.path, file);
    throw new Failure(
      `"${path}" is attached as "${attachment}", and would be replaced: detach it first ` +
        `(qmpbackup restore attach --dir ${facts.target.path} --detach ${attachment}), or leave out --no-timestamp`,
    );
  }
  const other = otherDisks(facts, disk, file);
  if (other) {
    throw new Failure(
      `"${file}" is the backup of another disk, "${other.name}" (${other.source}), and would be ` +
        `replaced: ${remedy}`,
    );
  }
  const isThere = isListed(facts.files, file);
  if (isThere && !isOurs(facts, file)) {
    const path = join(facts.target.path, file);
    throw new Failure(
      `"${path}" is not a backup that is recorded here, and would be replaced: ${remedy}`,
    );
  }
  return {
    file,
    replaces: isThere,
    link: level === "full" && request.symlink ? linkName(name) : null,
  };
}

/**
 * The time in the images' names: now, but later than any name in the target, so that two runs in one
 * second have different names, and names sort in order even if the clock was set back.
 */
function imageTime({ startedAt, files, target }: Facts): number {
  const ours = new Set(images(target.runs).map(({ disk }) => basename(disk.file)));
  const taken = [...files.values()].flat().map((name) => {
    const time = parseImageName(name)?.unixSeconds ?? 0;
    return time < MAX_NAME_SECONDS || ours.has(name) ? time : 0;
  });
  return taken.reduce(
    (time, used) => Math.max(time, used + 1),
    Math.floor(startedAt.getTime() / 1000),
  );
}

/** A link to the image of a disk file called "1-root.qcow2" would be read as an image with a time: it gets none. */
function linkName(name: string): string | null {
  return parseImageName(`FULL-${name}`) === null ? `FULL-${name}` : null;
}

/** An image that builds on this one. It would be read on top of the new image, even if this one is gone. */
function childOf({ target, files }: Facts, file: string): string | undefined {
  const isChild = ({ parent, file: child }: { parent: string | null; file: string }) =>
    parent === file && isListed(files, child);
  return images(target.runs).map(({ disk }) => disk).find(isChild)?.file;
}

/** Whether a record names an image, and the VM does not use it as a disk. */
function isOurs({ target, inUse }: Facts, file: string): boolean {
  return images(target.runs).some(({ disk }) => disk.file === file) && !inUse.includes(file);
}

/** The backup of another disk that has this name. */
function otherDisks({ target, files }: Facts, { id, source }: Disk, file: string) {
  const other = images(target.runs).findLast(({ disk }) => disk.file === file)?.disk;
  if (!other || !isListed(files, file) || other.id === id || other.source === source) return null;
  return other;
}
