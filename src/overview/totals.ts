/**
 * What backups take, a chain and a disk, and how long the room lasts. Pure.
 *
 * @module
 */

import { images, type Point } from "../repo/chains.ts";
import type { RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import type { ImageStates } from "./image_states.ts";
import { isThere, type Night, timeOf } from "./nights.ts";

/** A full backup with its increments, or the copies of a disk. */
export interface ChainTotal {
  disk: string;
  kind: "chain" | "copies";
  /** UTC milliseconds of its first image. */
  sinceMs: number;
  /** UTC milliseconds of its last image. */
  untilMs: number;
  images: number;
  /** What the images take that are there. */
  sizeBytes: number;
}

/** The chains of targets, disk by disk in the order of their names, the oldest first. */
export function chainTotals(targets: readonly Target[], states: ImageStates): ChainTotal[] {
  return targets.flatMap(({ runs }) => totalsOf(images(runs), states))
    .filter(({ images }) => images > 0)
    .sort((a, b) => a.disk.localeCompare(b.disk, "en") || a.sinceMs - b.sinceMs);
}

function totalsOf(all: Point[], states: ImageStates): ChainTotal[] {
  const first = firstImages(all);
  const chains = Map.groupBy(all, ({ disk }) => first.get(disk.file));
  return [...chains.values()].map((points) => {
    const there = points.filter(({ disk }) => isThere(disk, states));
    const [oldest, newest] = [there[0] ?? points[0], points.at(-1)] as [Point, Point];
    return {
      disk: newest.disk.name,
      kind: newest.disk.level === "copy" ? "copies" : "chain",
      sinceMs: timeOf(oldest.run),
      untilMs: timeOf(newest.run),
      images: there.length,
      sizeBytes: there.reduce((sum, { disk }) => sum + disk.bytesWritten, 0),
    };
  });
}

/** The image that each image's chain begins with; all copies of a disk go together. */
function firstImages(all: Point[]): Map<string, string> {
  const first = new Map<string, string>();
  for (const { disk: { file, parent, level, folder, name } } of all) {
    const chain = level === "copy" ? `${folder}/${name}/copies` : first.get(parent ?? file) ?? file;
    first.set(file, chain);
  }
  return first;
}

/** How many more nights fit, if they are like the last ones. */
export interface Outlook {
  freeBytes: number;
  /** The mean of the latest increments, or of all latest runs where there are none; null where nothing is done. */
  nightBytes: number | null;
  nights: number | null;
}

const LATEST = 7;

/** How many more nights fit into so many bytes. */
export function outlookOf(nights: readonly Night[], freeBytes: number): Outlook {
  const done = nights.filter(({ doneDisks, sizeBytes }) => doneDisks > 0 && sizeBytes > 0);
  const incremental = done.filter(({ level }) => level === "inc");
  const latest = (incremental.length > 0 ? incremental : done).slice(-LATEST);
  if (latest.length === 0) return { freeBytes, nightBytes: null, nights: null };
  const nightBytes = Math.round(
    latest.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0) / latest.length,
  );
  return { freeBytes, nightBytes, nights: Math.floor(freeBytes / nightBytes) };
}

/** How many images a restore from a run reads, for the disk that has most. */
export function depthsOf(targets: readonly Target[]): Map<RunRecord, number> {
  const depths = new Map<RunRecord, number>();
  for (const { runs } of targets) {
    const ofFile = new Map<string, number>();
    for (const { run, disk: { file, parent, result } } of images(runs)) {
      const depth = (parent === null ? 0 : ofFile.get(parent) ?? 0) + 1;
      ofFile.set(file, depth);
      if (result === "done") depths.set(run, Math.max(depth, depths.get(run) ?? 0));
    }
  }
  return depths;
}
