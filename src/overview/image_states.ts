/**
 * Whether the images that records promise are there, as they were made.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { chainOf, images } from "../repo/chains.ts";
import { isFault, lookAtImages } from "../repo/fingerprint.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";

/** How it stands with an image that a record promises, and why. */
export interface ImageState {
  state: "present" | "missing" | "changed" | "unreadable" | "replaced";
  reason: string | null;
}
export type ImageStates = ReadonlyMap<DiskRecord, ImageState>;

export const PRESENT: ImageState = { state: "present", reason: null };
export const REPLACED: ImageState = {
  state: "replaced",
  reason: "was replaced by a later backup (--no-timestamp)",
};

/**
 * Looks at the images of a target.
 *
 * @param wanted Only these; all that are done if not given.
 */
export async function imageStates(
  deadline: Deadline,
  { path, runs }: Target,
  wanted?: ReadonlySet<DiskRecord>,
): Promise<ImageStates> {
  const all = images(runs).map(({ disk }) => disk).filter(({ result }) => result === "done");
  const newest = new Map(all.map((disk) => [disk.file, disk]));
  const asked = wanted ? all.filter((disk) => wanted.has(disk)) : all;
  const recorded = new Map(asked.map(({ file }) => [file, newest.get(file)?.fingerprint]));
  const seen = await lookAtImages(deadline, path, recorded);
  return new Map(asked.map((disk) => {
    // A later backup took its name and place (--no-timestamp).
    if (newest.get(disk.file) !== disk) return [disk, REPLACED];
    const look = seen.get(disk.file);
    return [disk, look && isFault(look) ? look : PRESENT];
  }));
}

/**
 * The images that a run's disks are restored from. Pure.
 *
 * @throws {ChainError} If the records contradict each other.
 */
export function rowsOfRun({ runs }: Pick<Target, "runs">, run: RunRecord): Set<DiskRecord> {
  const all = images(runs);
  return new Set(
    run.disks.filter(({ result }) => result === "done")
      .flatMap(({ file }) => chainOf(all, file).map(({ disk }) => disk)),
  );
}
