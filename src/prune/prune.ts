/**
 * Removes the restore points that no rule keeps, and merges their images into those that stay.
 *
 * @module
 */

import { join, relative, resolve } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { lookAt } from "../fs/create.ts";
import { exists } from "../fs/durable.ts";
import { freeBytes, listFolder } from "../fs/files.ts";
import { liveAttachments } from "../attach/detach.ts";
import { images } from "../repo/chains.ts";
import { type ImageFault, isFault, lookAtImage, lookAtImages } from "../repo/fingerprint.ts";
import type { RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import { writeRestoreFile } from "../repo/restore_file.ts";
import { readMarks } from "../repo/run_mark.ts";
import { dropRuns, giveUp, mergeGivenUp } from "./carry_out.ts";
import type { MergeContext } from "./merge_images.ts";
import { removeMonth } from "./month.ts";
import { applyRules, type KeepRules, type Verdict } from "./policy.ts";
import { type KnownTarget, type RunPoint, runPoints, spentRuns } from "./run_points.ts";

/** What is to become of each point, and why. */
export interface PrunePlan {
  targets: KnownTarget[];
  /** Of all targets, the oldest first. */
  verdicts: Verdict<RunPoint>[];
  /** Why points stay that could have gone. */
  warnings: string[];
}

/**
 * Decides what goes. Leaves everything as it is.
 *
 * @param targets That follow each other: one, or the months that `--monthly` has made.
 */
export async function planPrune(
  deadline: Deadline,
  targets: readonly Target[],
  rules: KeepRules,
  now = new Date(),
): Promise<PrunePlan> {
  const known: KnownTarget[] = [];
  for (const target of targets) {
    known.push({
      path: target.path,
      runs: target.runs,
      marks: await readMarks(deadline, target.path),
      faults: await findFaults(deadline, target),
      inUse: new Map([
        ...await findChildren(deadline, target),
        ...await findAttached(deadline, target),
      ]),
    });
  }
  const points = runPoints(known);
  const reasons = new Set(points.flatMap(({ fixed }) => fixed ?? []));
  return {
    targets: known,
    verdicts: applyRules(points, rules, now.getTime()),
    warnings: [...reasons].map((reason) => `The points of a chain stay as they are: ${reason}`),
  };
}

/** Looks at all images that points need. */
async function findFaults(
  deadline: Deadline,
  { path, runs }: Target,
): Promise<Map<string, ImageFault>> {
  const recorded = new Map(images(runs).map(({ disk }) => [disk.file, disk.fingerprint]));
  const given = new Set(
    images(runs).filter(({ disk }) => disk.result === "superseded").map(({ disk }) => disk.file),
  );
  const seen = await lookAtImages(deadline, path, recorded);
  return new Map([...seen].flatMap(([file, look]): [string, ImageFault][] => {
    // What was given up may be gone already, and then nothing needs it.
    const isGone = isFault(look) && look.state === "missing" && given.has(file) &&
      !images(runs).some(({ disk }) => disk.parent === file);
    return isFault(look) && !isGone ? [[file, look]] : [];
  }));
}

/** Finds images in no record that build on recorded ones: the disk of a VM that was started on a backup, say. */
async function findChildren(
  deadline: Deadline,
  { path, runs }: Target,
): Promise<Map<string, string>> {
  const rows = runs.flatMap(({ disks }) => disks);
  const recorded = new Set(rows.map(({ file }) => file));
  const children = new Map<string, string>();
  for (const folder of new Set(rows.map(({ folder }) => folder))) {
    const place = join(path, folder);
    if (!await exists(deadline, place)) continue;
    for (const { name, isFile } of await listFolder(deadline, place)) {
      if (!isFile || recorded.has(relative(path, join(place, name)))) continue;
      const seen = await lookAtImage(deadline, join(place, name));
      if (isFault(seen) || seen.backing === null) continue;
      const parent = relative(path, resolve(place, seen.backing));
      if (recorded.has(parent)) {
        children.set(parent, `"${join(place, name)}" is in no record, and builds on "${parent}"`);
      }
    }
  }
  return children;
}

/** Images that `restore attach` has opened, and what it opened still lives. */
async function findAttached(
  deadline: Deadline,
  { path }: Pick<Target, "path">,
): Promise<Map<string, string>> {
  return new Map(
    (await liveAttachments(deadline, path, Deno.hostname())).flatMap(({ name, disks }) =>
      disks.flatMap(({ images }) =>
        images.map((file): [string, string] => [
          file,
          `"${file}" is attached; let it go with restore attach --detach ${name}, and prune again`,
        ])
      )
    ),
  );
}

/** What was done. */
export interface PruneResult {
  /** Of images that could not be merged; see `mergeGivenUp()`. */
  problems: string[];
  /** What the target's images take less than before. */
  wonBytes: number;
}

/**
 * Carries a plan out. The targets are locked by the caller.
 *
 * @throws {Failure} If something can't be removed; all that is kept can be restored.
 */
export async function carryOutPrune(
  { targets, verdicts }: PrunePlan,
  context: Omit<MergeContext, "target">,
): Promise<PruneResult> {
  const { deadline } = context;
  // Where nobody may ask for it, that is to be said before anything is changed.
  for (const { path } of targets) await freeBytes(deadline, path);
  const problems: string[] = [];
  let wonBytes = 0;
  for (const known of targets) {
    const target = { path: known.path, runs: [...known.runs] };
    const before = await bytesOf(deadline, target);
    const going = verdicts.filter(({ point, reasons }) =>
      point.target === known.path && reasons.length === 0
    );
    const spent = spentRuns(target);
    for (const { point } of going) {
      context.signal.throwIfAborted();
      await giveUp(deadline, target, point.run, new Set(point.points.map(({ disk }) => disk.file)));
    }
    await dropRuns(deadline, target, spent);
    // An earlier prune may have given up what somebody has opened since, before it was merged.
    const inUse = async () =>
      new Set([...known.inUse.keys(), ...(await findAttached(deadline, known)).keys()]);
    problems.push(...await mergeGivenUp(target, { ...context, target: known.path }, inUse));
    wonBytes += before - await bytesOf(deadline, target);
    if (target.runs.length > 0) await writeRestoreFile(deadline, target.path, target.runs);
    else if (targets.length > 1) await removeMonth(deadline, target);
  }
  return { problems, wonBytes };
}

/** What the images take. */
export async function bytesOf(
  deadline: Deadline,
  { path, runs }: { path: string; runs: readonly RunRecord[] },
): Promise<number> {
  let sum = 0;
  for (const file of new Set(images([...runs]).map(({ disk }) => disk.file))) {
    sum += ((await lookAt(deadline, join(path, file)))?.blocks ?? 0) * 512;
  }
  return sum;
}
