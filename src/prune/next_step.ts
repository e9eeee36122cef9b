/**
 * What is to be done next with the images of a target, after points were given up. Pure.
 *
 * A point that was given up is a row whose result is "superseded": not a point any more, though others may build
 * on its image. Such images are merged into the next one that is kept, and removed when nothing builds on them.
 * All of it is read from the records, so that a prune that was killed goes on where it was, without a journal.
 *
 * @module
 */

import { basename, dirname, join } from "@std/path";
import { images, type Point, twinFinder } from "../repo/chains.ts";
import { imageName, parseImageName } from "../repo/layout.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";

export type Step =
  /** An image is to be linked to another one, which holds the same as its parent. */
  | { kind: "relink"; child: Point; parent: DiskRecord }
  /** Increments become one, the last of them, in its place. */
  | { kind: "merge"; layers: DiskRecord[]; parent: DiskRecord; into: Point }
  /** A full backup and the increments after it become a full backup of the last one's time. */
  | { kind: "roll"; layers: DiskRecord[]; into: Point; file: string }
  /** Images that nothing builds on, the newest first. */
  | { kind: "remove"; points: Point[] };

export interface StepLimits {
  /** QEMU's time to open a chain grows with the square of its length. */
  layers: number;
  /**
   * A full backup is written again when what was merged after it has this share of its bytes. Until then it stays
   * below, without being a point, and a night costs what has changed, not all that the disk holds.
   */
  rollShare: number;
}

export const STEP_LIMITS: StepLimits = { layers: 60, rollShare: 0.25 };

/**
 * Finds the next step.
 *
 * @param skip Images that can't be merged; see `merge_images.ts`.
 * @param inUse Images that somebody has open: they and those below them stay as they are.
 * @returns Null when there is nothing left to do.
 */
export function nextStep(
  runs: RunRecord[],
  skip: ReadonlySet<string> = new Set(),
  inUse: ReadonlySet<string> = new Set(),
  limits = STEP_LIMITS,
): Step | null {
  const all = images(runs);
  const byFile = new Map(all.map((point) => [point.disk.file, point]));
  const twinsOf = twinFinder(all);
  const parentOf = ({ disk }: Point) => disk.parent === null ? undefined : byFile.get(disk.parent);
  const open = withThoseBelow(all.filter(({ disk }) => inUse.has(disk.file)), byFile);
  for (const child of all.filter((point) => !open.has(point))) {
    const parent = parentOf(child);
    const twin = parent && twinsOf(parent).find(({ disk }) => disk.result === "done");
    if (parent?.disk.result === "superseded" && twin) {
      return { kind: "relink", child, parent: twin.disk };
    }
  }
  for (const into of all.filter(({ disk }) => disk.result === "done" && !skip.has(disk.file))) {
    const chain = [into];
    for (let next = parentOf(into); next?.disk.result === "superseded"; next = parentOf(next)) {
      if (chain.includes(next)) break;
      chain.unshift(next);
    }
    if (chain.some((point) => open.has(point))) continue;
    const step = mergeOf(chain, parentOf(chain[0] as Point), limits);
    if (step) return step;
  }
  const points = garbage(all, byFile).filter((point) => !open.has(point));
  return points.length > 0 ? { kind: "remove", points } : null;
}

/**
 * @param chain Images that were given up, and the one after them that is kept.
 * @param below What the first one builds on.
 */
function mergeOf(chain: Point[], below: Point | undefined, limits: StepLimits): Step | null {
  if (chain.length < 2) return null;
  const [first, ...rest] = chain as [Point, ...Point[]];
  const isFull = first.disk.parent === null;
  if (isFull && chain.length <= limits.layers && isWorthRolling(first, rest, limits)) {
    const into = chain.at(-1) as Point;
    const file = fullName(into.disk);
    if (file !== null) {
      return { kind: "roll", layers: chain.map(({ disk }) => disk), into, file };
    }
  }
  const parent = isFull ? first : below;
  const increments = (isFull ? rest : chain).slice(0, limits.layers);
  const into = increments.at(-1);
  if (!parent || !into || increments.length < 2) return null;
  return { kind: "merge", layers: increments.map(({ disk }) => disk), parent: parent.disk, into };
}

function isWorthRolling(full: Point, increments: Point[], { rollShare }: StepLimits): boolean {
  const added = increments.reduce((sum, { disk }) => sum + disk.bytesWritten, 0);
  return added >= full.disk.bytesWritten * rollShare;
}

/** The name of a full backup of an increment's time. */
function fullName({ file }: DiskRecord): string | null {
  const named = parseImageName(basename(file));
  return named && join(dirname(file), imageName("full", named.unixSeconds, named.diskFileName));
}

/** What was given up and nothing that is kept builds on. */
function garbage(all: Point[], byFile: ReadonlyMap<string, Point>): Point[] {
  const needed = withThoseBelow(all.filter(({ disk }) => disk.result === "done"), byFile);
  return all.filter((point) => point.disk.result === "superseded" && !needed.has(point))
    .toReversed();
}

function withThoseBelow(points: Point[], byFile: ReadonlyMap<string, Point>): Set<Point> {
  const found = new Set<Point>();
  for (const point of points) {
    for (let next: Point | undefined = point; next && !found.has(next);) {
      found.add(next);
      next = next.disk.parent === null ? undefined : byFile.get(next.disk.parent);
    }
  }
  return found;
}
