/**
 * How a disk's chain goes on in a target: which backup was its last, whether all of that is there, and
 * in which folder the next one goes. Pure.
 *
 * @module
 */

import { basename, dirname } from "@std/path";
import { ChainError, chainOf, lastInChain, type Point } from "../repo/chains.ts";
import { parseImageName, RESTORE_FILE, UUID_FILE } from "../repo/layout.ts";
import { type ImageFault, MISSING } from "../repo/fingerprint.ts";
import type { DiskRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import type { Disk } from "../vm/disks.ts";

/**
 * The last backup that a disk's chain has.
 *
 * The bitmap tells best which disk this is, since it is in the disk's image and moves with it. The device's path
 * comes second: a device without an id has a number in its path, which may be another device's after a change.
 */
export function lastBackup(disk: Disk, disks: Disk[], points: Point[]): Point | undefined {
  const byPath = lastInChain(points, disk.id);
  if (byPath && holdsBitmapOf(disk, byPath)) return byPath;
  const held = points.findLast((point) =>
    point.disk.level !== "copy" && holdsBitmapOf(disk, point)
  );
  // A copy of a disk's image has the bitmap as well, but only one disk can go on with the chain.
  const isOthers = (point: Point) =>
    disks.some((other) => other !== disk && holdsBitmapOf(other, point));
  // If the chain went on without this disk, nothing can be built on it.
  if (held && lastInChain(points, held.disk.id) === held && !isOthers(held)) return held;
  return byPath && mayBe(disk, byPath) && !isOthers(byPath) ? byPath : undefined;
}

function holdsBitmapOf(disk: Disk, { disk: { bitmap } }: Point): boolean {
  return disk.bitmaps.some(({ name }) => name === bitmap);
}

/**
 * Whether a disk without its bitmap may be the one of a backup. An id that a user gave is trusted.
 * Otherwise the node or the file must be the same, or the file must be the one below an external snapshot.
 */
function mayBe({ id, node, source, image }: Disk, { disk: last }: Point): boolean {
  if (!id.includes("/peripheral-anon/")) return true;
  const below = [image["backing-filename"], image["full-backing-filename"]];
  // QEMU may give a node another name the next time, even one that another node had.
  return (node === last.node && !node.startsWith("#")) || source === last.source ||
    below.includes(last.source);
}

/**
 * A folder for each disk of the VM: the one of its chain, or a new one of its name that no other disk has.
 *
 * @param taken Names of the target that no folder may have.
 */
export function foldersOf(
  lasts: Map<Disk, Point | undefined>,
  taken: Iterable<string>,
): Map<Disk, string> {
  const folders = new Map<Disk, string>();
  const names = new Set([UUID_FILE, RESTORE_FILE, ...taken]);
  const known = (disk: Disk) => {
    const folder = lasts.get(disk)?.disk.folder;
    return folder === "." ? undefined : folder;
  };
  // A chain that can go on must stay where its images are. Disks that had a folder choose next.
  const rank = (disk: Disk) => {
    const last = lasts.get(disk);
    return last && holdsBitmapOf(disk, last) ? 0 : known(disk) ? 1 : 2;
  };
  for (const disk of [...lasts.keys()].sort((a, b) => rank(a) - rank(b))) {
    const wanted = known(disk) ?? disk.name;
    let folder = wanted;
    for (let n = 2; names.has(folder); n++) folder = `${wanted}.${n}`;
    names.add(folder);
    folders.set(disk, folder);
  }
  return folders;
}

/**
 * What is wrong with an image or with what it builds on; null if all files are there and unchanged.
 *
 * @param faults What was found when the images were looked at, by their paths in the target.
 */
export function chainFault(
  points: Point[],
  file: string,
  files: Map<string, string[]>,
  faults: ReadonlyMap<string, ImageFault> = new Map(),
): ImageFault | null {
  try {
    for (const { disk } of chainOf(points, file)) {
      const found = faults.get(disk.file) ??
        (isListed(files, disk.file) ? undefined : MISSING);
      if (found) return { ...found, reason: `the image "${disk.file}" ${found.reason}` };
    }
    return null;
  } catch (error) {
    if (!(error instanceof ChainError)) throw error;
    return { state: "missing", reason: error.message };
  }
}

/** Whether an image, relative to the target, is there. */
export function isListed(files: Map<string, string[]>, path: string): boolean {
  return files.get(dirname(path))?.includes(basename(path)) ?? false;
}

/** The bitmaps that the records of a target name. */
export function bitmapsOf({ runs }: Target): string[] {
  return runs.flatMap(({ disks }) => disks.flatMap(bitmapsOfRow));
}

/** The bitmaps that go with a backup of a disk. */
export function bitmapsOfRow({ bitmap, sentinel }: DiskRecord): string[] {
  return [bitmap, sentinel?.bitmap].filter((name) => typeof name === "string");
}

/** The images of the chain in a folder that no record knows. */
export function unrecorded(
  folder: string,
  { runs }: Target,
  files: Map<string, string[]>,
): string[] {
  const recorded = new Set(runs.flatMap((run) => run.disks.map(({ file }) => basename(file))));
  return (files.get(folder) ?? []).filter((name) => {
    const level = parseImageName(name)?.level;
    return (level === "full" || level === "inc") && !recorded.has(name);
  });
}

/**
 * An image that another program made after the last backup. That program may have cleared the bitmap.
 */
export function foreignSince(
  last: Point | undefined,
  target: Target,
  files: Map<string, string[]>,
): string | undefined {
  if (!last) return undefined;
  const { folder, unrecorded: known } = last.disk;
  return unrecorded(folder, target, files).find((name) => !known.includes(name));
}
