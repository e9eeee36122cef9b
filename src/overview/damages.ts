/**
 * What a verification found, as part of how it stands with the images. Pure.
 *
 * @module
 */

import type { Target } from "../repo/repository.ts";
import { localTime } from "../time.ts";
import { presentResults, type VerifyResult } from "../verify/result.ts";
import type { ImageState, ImageStates } from "./image_states.ts";

/**
 * As `states`, but an image is not "present" that the last verification found damaged.
 *
 * @param results Of this target.
 */
export function withDamages(
  states: ImageStates,
  { runs }: Pick<Target, "runs">,
  results: readonly VerifyResult[],
): ImageStates {
  const damaged = new Map<string, VerifyResult>();
  for (const result of presentResults(results)) {
    for (const { file, spoils } of result.damages) if (spoils) damaged.set(file, result);
  }
  const finished = new Map(runs.flatMap((run) => run.disks.map((disk) => [disk, run.finished])));
  return new Map(
    [...states].map(([disk, state]) => {
      const result = damaged.get(disk.file);
      // An image that was made since is another one (--no-timestamp).
      const isOlder = Date.parse(finished.get(disk) ?? "") < Date.parse(result?.started ?? "");
      return [disk, state.state === "present" && result && isOlder ? damagedState(result) : state];
    }),
  );
}

function damagedState({ finished }: VerifyResult): ImageState {
  return {
    state: "changed",
    reason: `was damaged when it was verified on ${localTime(new Date(finished))}: see what ` +
      '"restore verify" says',
  };
}
