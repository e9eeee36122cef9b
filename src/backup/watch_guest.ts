/**
 * Watches the guest while its disks are copied: where it runs out of room, the backup makes some.
 *
 * What the guest overwrites is kept beside its disk, or on the target, and either may lie on the file
 * system that the disk itself grows on.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { isOutOfSpace } from "../vm/io_error.ts";

const INTERVAL_MS = 500;

export interface GuestWatch extends AsyncDisposable {
  /** Aborted, with a {@linkcode Failure}, when the guest stands still for want of room. */
  signal: AbortSignal;
}

/** Watches until disposed. */
export function watchGuest(qmp: QmpClient): GuestWatch {
  const outOfSpace = new AbortController();
  const isOver = new AbortController();
  const watch = async () => {
    while (!isOver.signal.aborted) {
      if (await isOutOfSpace(qmp)) {
        return outOfSpace.abort(
          new Failure(
            "The guest ran out of room for its own disks and stood still: the backup was given up, so that " +
              "its files make some. Free space beside the disks, or name another place with --fleece-dir",
          ),
        );
      }
      await delay(INTERVAL_MS, { signal: isOver.signal });
    }
  };
  // Over; or QEMU does not answer, which whoever copies hears as well.
  const watching = watch().catch(() => {});
  return {
    signal: outOfSpace.signal,
    async [Symbol.asyncDispose]() {
      isOver.abort();
      await watching;
    },
  };
}
