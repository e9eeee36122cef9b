/**
 * Leaves the host's page cache to others: an image that is finished is not read again soon.
 *
 * Source: dd(1), `nocache`: with `count=0` it is the whole file whose cache is dropped (posix_fadvise(2)), which
 * Deno can't do by itself.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { outputOf } from "../process/output.ts";

/**
 * Drops a file that is on the storage from the page cache. Where that can't be done, it stays there for a while,
 * as anything else that was read.
 */
export async function dropFromCache(deadline: Deadline, path: string): Promise<void> {
  // Where the right is missing, Deno may ask the user for it: this is not worth a question.
  const { state } = await Deno.permissions.query({ name: "run", command: "timeout" });
  if (state !== "granted") return;
  const args = [`if=${path}`, "iflag=nocache", "count=0", "status=none"];
  await deadline.run(path, () => outputOf("dd", args).catch(() => null));
}
