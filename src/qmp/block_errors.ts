/**
 * What QEMU tells of errors of block devices and jobs while they happen: its events.
 *
 * Source: QEMU QMP Reference Manual, `BLOCK_JOB_ERROR` (of a job: which operation) and `BLOCK_IO_ERROR`
 * (of a device of the guest: which operation, and the system's words). No release says where on the disk.
 *
 * @module
 */

import * as v from "valibot";
import type { QmpClient } from "./client.ts";

const JobError = v.object({ device: v.string(), operation: v.picklist(["read", "write"]) });
const GuestError = v.object({
  "node-name": v.string(),
  operation: v.picklist(["read", "write"]),
  reason: v.string(),
});

/** A request of the guest's own that failed. */
export interface GuestError {
  operation: "read" | "write";
  /** The system's words. */
  reason: string;
}

/** Listens for such events from now on, until disposed. */
export class BlockErrors implements Disposable {
  readonly #jobs = new Map<string, "read" | "write">();
  readonly #nodes = new Map<string, GuestError>();
  readonly #subscription: Disposable;

  constructor(qmp: QmpClient) {
    this.#subscription = qmp.subscribe(({ event, data }) => {
      if (event === "BLOCK_JOB_ERROR" && v.is(JobError, data)) {
        keepFirst(this.#jobs, data.device, data.operation);
      }
      if (event === "BLOCK_IO_ERROR" && v.is(GuestError, data)) {
        const { operation, reason } = data;
        keepFirst(this.#nodes, data["node-name"], { operation, reason });
      }
    });
  }

  /** Whether a job's first error was one of reading its source or of writing its target; null: none. */
  ofJob(id: string): "read" | "write" | null {
    return this.#jobs.get(id) ?? null;
  }

  /** The first error that the guest got from a device with one of these nodes at its root. */
  ofGuest(nodes: string[]): GuestError | null {
    return nodes.map((node) => this.#nodes.get(node)).find((error) => error) ?? null;
  }

  [Symbol.dispose]() {
    this.#subscription[Symbol.dispose]();
  }
}

function keepFirst<T>(map: Map<string, T>, key: string, value: T) {
  if (!map.has(key)) map.set(key, value);
}
