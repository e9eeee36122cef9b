/**
 * Restore points and the chains they form, from the records of a target. Pure.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { DiskRecord, RunRecord } from "./record.ts";

/** The records contradict each other or miss something. */
export class ChainError extends Failure {
  override name = "ChainError";
}

/** One disk at one point in time: an image that was reported as done. */
export interface Point {
  run: RunRecord;
  disk: DiskRecord;
}

/**
 * All restore points of a target, oldest first. Where a later backup took an image's place and name
 * (`--no-timestamp`), the earlier one is not a point any more.
 */
export function restorePoints(runs: RunRecord[]): Point[] {
  const done = images(runs).filter(({ disk }) => disk.result === "done");
  const newest = new Map(done.map((point) => [point.disk.file, point]));
  return done.filter((point) => newest.get(point.disk.file) === point);
}

/** All images that belong to a chain, oldest first: restore points, and what others build on. */
export function images(runs: RunRecord[]): Point[] {
  return runs
    .toSorted((a, b) => a.sequence - b.sequence)
    .flatMap((run) =>
      run.disks.filter(({ result }) => result === "done" || result === "superseded")
        .map((disk) => ({ run, disk }))
    );
}

/** The backup that an increment of this disk builds on; copies stand beside the chain. */
export function lastInChain(points: Point[], diskId: string): Point | undefined {
  return points.findLast(({ disk }) => disk.id === diskId && disk.level !== "copy");
}

/**
 * The images that make up a restore point, the full backup first.
 *
 * @param all What `images()` lists.
 * @param file The point's image, relative to the target.
 * @throws {ChainError} If a link leads nowhere or in a circle.
 */
export function chainOf(all: Point[], file: string): Point[] {
  return chainFinder(all)(file);
}

/** As `chainOf()`, for many points of one target. */
export function chainFinder(all: Point[]): (file: string) => Point[] {
  const byFile = new Map(all.map((point) => [point.disk.file, point]));
  return (file) => {
    // The newest first.
    const chain = new Set<Point>();
    for (let next: string | null = file; next !== null;) {
      const point = byFile.get(next);
      if (!point) throw new ChainError(`No record of "${next}", which "${file}" builds on`);
      if (chain.has(point)) throw new ChainError(`The chain of "${file}" runs in a circle`);
      chain.add(point);
      next = point.disk.parent;
    }
    const ordered = [...chain].reverse();
    if (ordered[0]?.disk.level === "inc") {
      throw new ChainError(`The chain of "${file}" does not start with a full backup`);
    }
    return ordered;
  };
}

/**
 * Finds other images of the same disk and run, which hold the same: what a prune that was killed has made of one, or
 * is about to put in its place.
 */
export function twinFinder(all: Point[]): (point: Point) => Point[] {
  const idOf = ({ run, disk }: Point) => `${run.id} ${disk.id}`;
  const alike = Map.groupBy(all, idOf);
  return (point) =>
    (alike.get(idOf(point)) ?? []).filter(({ disk }) => disk.file !== point.disk.file);
}
