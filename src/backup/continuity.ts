/**
 * How a disk's chain goes on in a target: which backup was its last, whether all of that is there, and
 * in which folder the next one goes. Pure.
 *
 * @module
 */

import { basename, dirname } from "@std/path";
import { ChainError, chainOf, lastInChain, type Point } from "../catalog/chains.ts";
import { parseImageName, UUID_FILE } from "../catalog/names.ts";
import type { Target } from "../catalog/target.ts";
import type { Disk } from "../vm/disks.ts";

/**
 * The last backup that a disk's chain has. Its device's path says which, but a device without an id has
 * a number in it, which is another's when devices come and go: a bitmap goes with its image.
 */
export function lastBackup(disk: Disk, disks: Disk[], points: Point[]): Point | undefined {
  const holds = (other: Disk, { disk: { bitmap } }: Point) =>
    other.bitmaps.some(({ name }) => name === bitmap);
  const byPath = lastInChain(points, disk.id);
  if (byPath && holds(disk, byPath)) return byPath;
  const isOthers = (point: Point) => disks.some((other) => other !== disk && holds(other, point));
  if (byPath && !isOthers(byPath)) return byPath;
  const held = points.findLast((point) => point.disk.level !== "copy" && holds(disk, point));
  // Of a chain that went on without this disk, nothing can be built on.
  return held && lastInChain(points, held.disk.id) === held ? held : undefined;
}

/** A folder for each disk of the VM: that of its chain, else one of its name that is nobody else's. */
export function foldersOf(lasts: Map<Disk, Point | undefined>): Map<Disk, string> {
  const folders = new Map<Disk, string>();
  const taken = new Set([UUID_FILE]);
  const known = (disk: Disk) => {
    const folder = lasts.get(disk)?.disk.folder;
    return folder === "." ? undefined : folder;
  };
  // Those with a chain choose first.
  for (const disk of [...lasts.keys()].sort((a, b) => Number(!known(a)) - Number(!known(b)))) {
    const wanted = known(disk) ?? disk.name;
    let folder = wanted;
    for (let n = 2; taken.has(folder); n++) folder = `${wanted}.${n}`;
    taken.add(folder);
    folders.set(disk, folder);
  }
  return folders;
}

/** Whether an image and all that it builds on are there. */
export function isComplete(points: Point[], file: string, files: Map<string, string[]>): boolean {
  try {
    return chainOf(points, file).every(({ disk }) => isListed(files, disk.file));
  } catch (error) {
    if (error instanceof ChainError) return false;
    throw error;
  }
}

function isListed(files: Map<string, string[]>, path: string): boolean {
  return files.get(dirname(path))?.includes(basename(path)) ?? false;
}

/**
 * An image of the chain in a disk's folder that no record knows: another program made it, and has
 * perhaps emptied the bitmap that it found.
 */
export function unrecorded(
  last: Point | undefined,
  { runs }: Target,
  files: Map<string, string[]>,
): string | undefined {
  if (!last) return undefined;
  const { folder } = last.disk;
  const recorded = new Set(runs.flatMap((run) => run.disks.map(({ file }) => basename(file))));
  return files.get(folder)?.find((name) => {
    const level = parseImageName(name)?.level;
    return (level === "full" || level === "inc") && !recorded.has(name);
  });
}
