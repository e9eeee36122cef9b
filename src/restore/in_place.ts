/**
 * What `rebase`, `commit` and `snapshotrebase` will do to a chain, step by step. Pure.
 *
 * The order is such that the chain can be restored after every step, and that all can be run again:
 * the oldest increment is committed first, the one after it is linked to the full backup before the
 * committed one goes, and a commit done twice changes nothing (`-d` leaves the increment as it was).
 *
 * @module
 */

import { basename, dirname, join, relative } from "@std/path";
import { backingLink, NEWEST_LINK, parseImageName } from "../repo/layout.ts";
import type { Layer, RestorePoint } from "./points.ts";

export type Step =
  | { kind: "link"; path: string; parent: string }
  | { kind: "commit"; path: string; base: string }
  | { kind: "snapshot"; path: string; name: string }
  /** The records learn that `base` holds what `path` held. */
  | { kind: "record"; path: string; base: string }
  | { kind: "remove"; path: string }
  | { kind: "symlink"; path: string; to: string };

/** The name of the snapshot that `snapshotrebase` makes of the full backup. */
const FULL_SNAPSHOT = "FULL-BACKUP";

/** Links every increment to its parent, and `image` to the newest: then any tool reads the chain. */
export function planRebase(layers: Layer[]): Step[] {
  const links = layers.slice(1).map(({ path }, i): Step => (
    { kind: "link", path, parent: (layers[i] as Layer).path }
  ));
  return [...links, symlink((layers.at(-1) as Layer).path)];
}

/**
 * Commits every increment into the full backup and removes it.
 *
 * @param next The increments that build on the last one, and must be linked again.
 * @param snapshots The snapshots that the full backup holds, or null for none to be made
 * (`snapshotrebase` makes one of the full backup and one of each increment).
 */
export function planCommit(
  layers: Layer[],
  next: string[],
  snapshots: string[] | null,
): Step[] {
  const [full, ...increments] = layers as [Layer, ...Layer[]];
  const base = full.path;
  const snapshot = (name: string): Step[] =>
    snapshots === null || snapshots.includes(name) ? [] : [{ kind: "snapshot", path: base, name }];
  const commits = increments.flatMap((layer, i): Step[] => {
    const { path } = layer;
    const following = increments[i + 1];
    const after = following ? [following.path] : next;
    return [
      { kind: "commit", path, base },
      ...snapshot(snapshotName(layer)),
      ...after.map((child): Step => ({ kind: "link", path: child, parent: base })),
      { kind: "record", path, base },
      { kind: "remove", path },
    ];
  });
  const links = planRebase(layers).filter(({ kind }) => kind === "link");
  return [...links, ...snapshot(FULL_SNAPSHOT), ...commits, symlink(base)];
}

/** The chains of the points that no other point builds on: those of the others are parts of these. */
export function wholeChains(points: RestorePoint[]): Layer[][] {
  const seen = new Set<string>();
  const chains: Layer[][] = [];
  for (const point of points.toReversed()) {
    if (seen.has(point.path)) continue;
    const layers = point.layers();
    chains.push(layers);
    for (const { path } of layers) seen.add(path);
  }
  return chains.reverse();
}

/**
 * Finds a point beside a chain: it builds on one of its images, but not on all, so that it would hold
 * something else once they are committed.
 */
export function besideOf(chains: Layer[][], layers: Layer[]): Layer | undefined {
  return chains.find((chain) => {
    const shared = layers.filter(({ path }, i) => chain[i]?.path === path).length;
    return shared > 0 && shared < Math.min(layers.length, chain.length);
  })?.at(-1);
}

function symlink(to: string): Step {
  return { kind: "symlink", path: join(dirname(to), NEWEST_LINK), to: basename(to) };
}

/**
 * `YYYY-MM-DD-HH:MM:SS`, local time, as the reference names them. The time is that of the image's
 * name: of two in one chain it is never the same.
 */
export function snapshotName({ path, timeMs }: Layer): string {
  const named = parseImageName(basename(path));
  const date = new Date(named ? named.unixSeconds * 1000 : timeMs);
  const two = (value: number) => String(value).padStart(2, "0");
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())];
  const time = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two);
  return `${day.join("-")}-${time.join(":")}`;
}

/**
 * The command that a step is, for `qemu-img` and for people; null for what concerns our records only.
 *
 * @param rateLimitBytesPerSecond Of a commit; 0 is no limit.
 */
export function commandOf(step: Step, rateLimitBytesPerSecond: number): string[] | null {
  const limit = rateLimitBytesPerSecond > 0 ? ["-r", String(rateLimitBytesPerSecond)] : [];
  switch (step.kind) {
    case "link": {
      const parent = backingLink(relative(dirname(step.path), step.parent));
      return ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", parent, step.path];
    }
    case "commit":
      return ["qemu-img", "commit", "-q", "-d", ...limit, "-f", "qcow2", step.path];
    case "snapshot":
      return ["qemu-img", "snapshot", "-c", step.name, step.path];
    case "remove":
      return ["rm", step.path];
    case "symlink":
      return ["ln", "-sfn", step.to, step.path];
    case "record":
      return null;
  }
}
