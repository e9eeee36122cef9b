/**
 * Watches the guest while its disks are copied: if it runs out of room, the backup is given up to make some.
 *
 * What the guest overwrites is kept beside its disk, or on the target. The disk may grow on the same file system.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import { isOutOfSpace, type StopEvents } from "../vm/io_error.ts";

export interface GuestWatch extends AsyncDisposable {
  /** Aborted, with a {@linkcode Failure}, when the guest is stopped for want of room. */
  signal: AbortSignal;
}

/** Watches until disposed. */
export function watchGuest(qmp: QmpClient, stops: StopEvents): GuestWatch {
  const outOfSpace = new AbortController();
  const over = Promise.withResolvers<void>();
  let isOver = false;
  const watch = async () => {
    while (!isOver) {
      const stopped = stops.next;
      if (stops.heard && await isOutOfSpace(qmp)) {
        return outOfSpace.abort(
          new Failure(
            "The guest ran out of room for its own disks and was stopped: the backup was stopped " +
              "too, and its files are deleted to make room. Free more space beside the disks, or " +
              "name another place with --fleece-dir",
          ),
        );
      }
      await Promise.race([stopped, over.promise]);
    }
  };
  // QEMU does not answer: those who copy hear that as well.
  const watching = watch().catch(() => {});
  return {
    signal: outOfSpace.signal,
    async [Symbol.asyncDispose]() {
      isOver = true;
      over.resolve();
      await watching;
    },
  };
}
