/**
 * What the copy of one disk has put into QEMU and onto the target, and how it is taken away again.
 *
 * Three stacks, for three moments: what stands between the guest and its disk goes first, whatever happens;
 * then the image is closed; the image's file and the next bitmap stay if the run ends well.
 *
 * @module
 */

import { dirname } from "@std/path";
import { type Deadline, HangingError } from "../fs/deadline.ts";
import { Failure } from "../errors.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { resumeAfterIoError, type StopEvents } from "../vm/io_error.ts";
import { isNode, removeNode } from "../vm/switch_node.ts";
import { UndoStack } from "./undo.ts";

/** What all disks of a run share. */
export interface RunSurroundings {
  qmp: QmpClient;
  deadline: Deadline;
  plan: Plan;
  /** Listens since before the VM's state was asked for. */
  stops: StopEvents;
  /** Gets a sentence for each thing that could not be taken away. */
  leftovers: string[];
}

export class DiskWork {
  readonly qmp: QmpClient;
  readonly deadline: Deadline;
  readonly plan: Plan;
  readonly guest: UndoStack;
  readonly image: UndoStack;
  readonly result: UndoStack;
  /** The nodes that QEMU has no more. */
  readonly #removed = new Set<string>();
  /** Storage that QEMU would wait for, and the guest with it. */
  #hanging: HangingError | null = null;

  constructor({ qmp, deadline, plan, stops, leftovers }: RunSurroundings, readonly disk: DiskPlan) {
    this.qmp = qmp;
    this.deadline = deadline;
    this.plan = plan;
    this.guest = new UndoStack(leftovers);
    this.image = new UndoStack(leftovers);
    this.result = new UndoStack(leftovers);
    // Last of all, when our files are gone: see `watch_guest.ts`.
    for (const stack of [this.guest, this.result]) {
      stack.push("let the guest go on", async () => {
        if (qmp.isOpen && stops.heard) await resumeAfterIoError(qmp);
      });
    }
  }

  /** Adds a node, to be removed when the stack is unwound. */
  async addNode(stack: UndoStack, options: { "node-name": string }): Promise<void> {
    const name = options["node-name"];
    this.push(stack, `remove the node "${name}"`, async () => {
      await removeNode(this.qmp, name);
      this.#removed.add(name);
    });
    await this.qmp.execute("blockdev-add", options);
  }

  /** As `UndoStack.push()`, for a step in which QEMU may wait for the storage. */
  push(stack: UndoStack, what: string, undo: () => Promise<unknown>): void {
    stack.push(what, async () => {
      await this.refuseHanging();
      await undo();
    });
  }

  /**
   * Throws while QEMU has a node open: its file would grow unseen if it were removed.
   *
   * @param parent The node that it is a part of: with that it is gone.
   */
  async refuseOpen(node: string, parent: string): Promise<void> {
    if (this.#removed.has(parent) || !await isNode(this.qmp, node)) return;
    throw new Failure("QEMU still has it open; the next run tries again");
  }

  /**
   * Asks the storage whether it answers, before QEMU is told to do what may wait for it: QEMU waits in its
   * main loop, and the guest with it. What is left alone then harms nobody: the guest's writes go through the
   * filter.
   */
  async refuseHanging(): Promise<void> {
    if (this.#hanging) throw this.#hanging;
    try {
      for (const folder of [this.plan.request.target, dirname(this.disk.fleeceFile)]) {
        await this.deadline.probe(folder);
      }
    } catch (error) {
      if (error instanceof HangingError) this.#hanging = error;
      throw error;
    }
  }

  /** The storage hangs, as was seen otherwise: nothing is told to QEMU any more that may wait for it. */
  setHanging(error: HangingError): HangingError {
    this.#hanging = error;
    return error;
  }

  /** Takes away all that is not to stay: the guest's side first. */
  async unwind(): Promise<void> {
    await this.guest.unwind();
    await this.image.unwind();
    await this.result.unwind();
  }
}
