import { UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { exists } from "../fs/durable.ts";

/** @throws {UsageError} If there is what a restore was making when it was killed. */
export async function refuseLeftover(deadline: Deadline, path: string): Promise<void> {
  if (!await exists(deadline, path)) return;
  throw new UsageError(`"${path}" was left by a restore that did not end: remove it`);
}
