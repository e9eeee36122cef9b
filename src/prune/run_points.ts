/**
 * The restore points of a target as the policy sees them: a run is one, with all disks that it holds. Pure.
 *
 * @module
 */

import { ChainError, chainOf, images, type Point, restorePoints } from "../repo/chains.ts";
import type { ImageFault } from "../repo/fingerprint.ts";
import type { RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import { NO_MARK, type RunMark } from "../repo/run_mark.ts";
import type { PolicyPoint } from "./policy.ts";

/** A run that has something to restore. */
export interface RunPoint extends PolicyPoint {
  target: string;
  run: RunRecord;
  points: Point[];
  mark: RunMark;
  /** Why nothing is changed in a chain that it needs; null where that is not so. */
  fixed: string | null;
}

/** A target with what was found out about it. */
export interface KnownTarget extends Pick<Target, "path" | "runs"> {
  marks: ReadonlyMap<string, RunMark>;
  /** What is wrong with images, by their paths in the target. */
  faults: ReadonlyMap<string, ImageFault>;
  /** Images that somebody else needs as they are, each with who that is. */
  inUse: ReadonlyMap<string, string>;
}

/**
 * Lists the points of targets, oldest first.
 *
 * A chain of which an image is missing or changed stays as it is, with all its points: nothing can be merged in
 * it, and somebody may put the image back. So does one on which something else builds.
 *
 * @param targets In their order.
 */
export function runPoints(targets: readonly KnownTarget[]): RunPoint[] {
  const found = targets.flatMap((target) => {
    const all = images(target.runs);
    const points = restorePoints(target.runs);
    const why = fixedChains(target, all, points);
    return target.runs.flatMap((run): RunPoint[] => {
      const own = points.filter((point) => point.run === run);
      if (own.length === 0) return [];
      const mark = target.marks.get(run.id) ?? NO_MARK;
      const fixed = own.flatMap((point) => why.get(point) ?? [])[0] ?? null;
      return [{
        target: target.path,
        run,
        points: own,
        mark,
        timeMs: Date.parse(run.pointInTime ?? run.started),
        isWhole: own.length === run.disks.length,
        stays: mark.isProtected ? "protected" : fixed,
        needed: null,
        fixed,
      }];
    });
  });
  const ordered = found.toSorted((a, b) => a.timeMs - b.timeMs);
  for (const [disk, point] of newestOf(targets, found)) {
    point.needed ??= `newest of ${disk}`;
  }
  return ordered;
}

/** Of each disk the newest point that can be restored, and what its next increment builds on. */
function newestOf(targets: readonly KnownTarget[], found: RunPoint[]): [string, RunPoint][] {
  const newest = new Map<string, [string, RunPoint]>();
  const damaged = new Set(
    targets.flatMap(({ path, faults }) => [...faults.keys()].map((file) => `${path}/${file}`)),
  );
  for (const kinds of [["full", "inc"], ["full", "inc", "copy"]]) {
    for (const one of found) {
      for (const { disk } of one.points) {
        if (!kinds.includes(disk.level) || damaged.has(`${one.target}/${disk.file}`)) continue;
        newest.set(`${kinds.length} ${disk.id}`, [disk.name, one]);
      }
    }
  }
  return [...newest.values()];
}

/** The points whose chain must stay as it is, each with the reason. */
function fixedChains(
  { faults, inUse }: KnownTarget,
  all: Point[],
  points: Point[],
): Map<Point, string> {
  const roots = new Map<Point, string>();
  const fixed = new Map<string, string>();
  for (const point of points) {
    try {
      const chain = chainOf(all, point.disk.file);
      const root = chain[0]?.disk.file ?? "";
      roots.set(point, root);
      for (const { disk: { file } } of chain) {
        const fault = faults.get(file);
        const user = inUse.get(file);
        if (fault) fixed.set(root, `"${file}" ${fault.reason}`);
        else if (user && !fixed.has(root)) fixed.set(root, user);
      }
    } catch (error) {
      if (!(error instanceof ChainError)) throw error;
      roots.set(point, point.disk.file);
      fixed.set(point.disk.file, error.message);
    }
  }
  return new Map(points.flatMap((point) => {
    const reason = fixed.get(roots.get(point) ?? "");
    return reason === undefined ? [] : [[point, reason]];
  }));
}

/**
 * The runs that hold nothing, and ended before the newest point: their records say nothing that is still needed.
 * One that was killed is left to those who clean up after it.
 */
export function spentRuns({ runs }: Pick<Target, "runs">): RunRecord[] {
  const points = restorePoints(runs);
  const newest = points.at(-1)?.run;
  if (!newest) return [];
  const needed = new Set(points.map(({ run }) => run));
  return runs.slice(0, runs.indexOf(newest)).filter((run) =>
    run.state !== "running" && !needed.has(run) &&
    run.disks.every(({ result }) => result !== "superseded" && result !== "pending")
  );
}
