/**
 * What a dead run has left. It is found first and cleaned up then, so that `cleanup --dry-run` can only look. All
 * of it has the run's tag, and the kernel proves that the run is dead: its file lock is free.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";

const log = getLogger(["qmpbackup", "recover"]);

/** Something that a dead run left. */
export interface Leftover {
  /** What is done about it, as a sentence. */
  description: string;
  repair(): Promise<unknown>;
}

/** Cleans up a leftover, and says so. */
export async function repair(leftover: Leftover): Promise<void> {
  log.warn("{description}", { description: leftover.description });
  await leftover.repair();
}
