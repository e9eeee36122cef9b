/**
 * The disks of a run that have not failed. If the storage of one disk fails, that disk leaves, and the others go
 * on.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import type { DiskRecord } from "../repo/record.ts";
import { Failure, messageOf } from "../errors.ts";
import { type QmpClient, QmpCommandError, QmpTimeoutError } from "../qmp/client.ts";
import { explainUse } from "./explain_use.ts";
import type { DiskCopy } from "./disk_copy.ts";

const log = getLogger(["qmpbackup", "backup"]);

/** A disk of a run with its row of the run's record. */
export interface RunningDisk {
  copy: DiskCopy;
  row: DiskRecord;
}

export class RunningDisks {
  #running: RunningDisk[];

  /** @param signal Stops the run. What fails then is not the failure of one disk. */
  constructor(
    readonly qmp: QmpClient,
    readonly signal: AbortSignal,
    disks: RunningDisk[],
  ) {
    this.#running = disks;
  }

  /**
   * Takes a step for each disk, one after another. If a step fails, its disk leaves; what was done for it stays until
   * its copy is unwound.
   *
   * @throws The failure of the last disk, when none is left.
   * @throws What ends the whole run: the signal's reason, or that QEMU does not answer.
   */
  async each(step: (disk: RunningDisk) => void | Promise<unknown>): Promise<void> {
    for (const disk of [...this.#running]) {
      this.signal.throwIfAborted();
      try {
        await step(disk);
      } catch (error) {
        this.#fail(disk, await explainUse(this.qmp, disk.copy.disk.disk, error));
      }
    }
  }

  /** As `each()`, with all disks side by side. */
  async atOnce(step: (disk: RunningDisk) => Promise<unknown>): Promise<void> {
    this.signal.throwIfAborted();
    const disks = this.#running;
    const ends = await Promise.allSettled(disks.map(step));
    for (const [index, disk] of disks.entries()) {
      const end = ends[index];
      if (end?.status !== "rejected") continue;
      this.#fail(disk, await explainUse(this.qmp, disk.copy.disk.disk, end.reason));
    }
  }

  /**
   * Takes one step for all disks, which QEMU does or refuses as a whole. If it refuses, each disk is tried alone:
   * those that are refused leave, and the others are tried together again.
   *
   * @param probe Asks QEMU the same for one disk, and changes nothing.
   * @throws As `each()`, and QEMU's refusal if it refuses no disk alone.
   */
  async together(
    step: (disks: RunningDisk[]) => Promise<unknown>,
    probe: (disk: RunningDisk) => Promise<unknown>,
  ): Promise<void> {
    while (true) {
      const tried = this.#running;
      try {
        await step(tried);
        return;
      } catch (error) {
        if (!(error instanceof QmpCommandError)) throw error;
        await this.each(probe);
        if (this.#running === tried) throw error;
      }
    }
  }

  #fail(disk: RunningDisk, error: unknown) {
    this.signal.throwIfAborted();
    // A QEMU that is gone or does not answer fails them all.
    if (!this.qmp.isOpen || error instanceof QmpTimeoutError) throw error;
    this.#running = this.#running.filter((other) => other !== disk);
    disk.row.result = "failed";
    disk.row.error = messageOf(error);
    if (this.#running.length === 0) throw named(disk, error);
    log.error("Disk {name}: {words}", { name: disk.row.name, words: disk.row.error });
  }
}

/** QEMU's own words don't name the disk. */
function named({ row }: RunningDisk, error: unknown): unknown {
  if (!(error instanceof QmpCommandError)) return error;
  return new Failure(`The disk "${row.name}": ${error.message}`, { cause: error });
}
