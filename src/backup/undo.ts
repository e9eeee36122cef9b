/**
 * The stack of what must be undone. Each step has time-outs of its own: the signal that stopped the run does not
 * stop it. If a step fails, that is logged, and the next step runs.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { HangingError } from "../fs/deadline.ts";
import { messageOf } from "../errors.ts";
import { ConnectionError } from "../wire/address.ts";

const log = getLogger(["qmpbackup", "backup"]);

export class UndoStack implements AsyncDisposable {
  #stack = new AsyncDisposableStack();

  /** @param leftovers Gets a sentence for each step that failed. */
  constructor(readonly leftovers: string[]) {}

  /** Puts a step on the stack, to be run before those that are on it. */
  push(what: string, undo: () => Promise<unknown>): void {
    this.#stack.defer(async () => {
      try {
        await undo();
        log.debug("Undone: {what}", { what });
      } catch (error) {
        // If the connection is gone, every step fails for the same reason: once is enough to say it.
        const words = error instanceof HangingError
          ? `Left for the next run to clean up: ${messageOf(error)}`
          : error instanceof ConnectionError
          ? `What the run added to QEMU could not be removed: ${messageOf(error)}`
          : `Could not ${what}: ${messageOf(error)}`;
        if (this.leftovers.includes(words)) return;
        log.error("{words}", { words });
        this.leftovers.push(words);
      }
    });
  }

  /** Forgets all steps: what they would undo is to stay. */
  keep(): void {
    this.#stack.move();
    this.#stack = new AsyncDisposableStack();
  }

  /** Runs all steps, the last one first. May be called again. */
  async unwind(): Promise<void> {
    const stack = this.#stack;
    this.#stack = new AsyncDisposableStack();
    await stack.disposeAsync();
  }

  async [Symbol.asyncDispose]() {
    await this.unwind();
  }
}
