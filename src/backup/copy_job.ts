/**
 * The job of QEMU that copies a disk to its image: what the ways share that use one.
 *
 * @module
 */

import { HangingError } from "../fs/deadline.ts";
import { Failure } from "../errors.ts";
import type { BlockErrors } from "../qmp/block_errors.ts";
import { dismissJob, endJob, JobError, JobEvents, StalledError } from "../qmp/jobs.ts";
import type { Job } from "../qmp/queries.ts";
import { jobStallTimeoutMs } from "./block_options.ts";
import type { CopyOptions } from "./disk_copy.ts";
import type { DiskWork } from "./disk_work.ts";
import { type CopyFault, explainCopy, stalled } from "./explain_copy.ts";
import type { ImageFile } from "./image_file.ts";
import { explainFailure } from "./space.ts";

/** How `waitForJob()` and its like are called. */
export interface JobWait {
  signal: AbortSignal;
  stallTimeoutMs: number;
  events?: JobEvents;
  onProgress(job: Job): void;
}

export class CopyJob {
  /** Made before the job is. */
  events: JobEvents | undefined;
  #isConcluded = false;

  /** @param beforeEnd What comes before the job is ended; it may throw, and the job is left then. */
  constructor(
    readonly work: DiskWork,
    readonly file: ImageFile,
    readonly errors: BlockErrors,
    readonly beforeEnd: () => Promise<void> = () => Promise.resolve(),
  ) {}

  /** The job is about to start. */
  expect(): void {
    const { qmp, disk: { job } } = this.work;
    this.events = new JobEvents(qmp, job);
    this.work.guest.push(`end the job "${job}"`, () => this.end());
  }

  /**
   * Waits for the job.
   *
   * @param wait Is called with what all ways have in common.
   * @throws {Failure} If it makes no progress.
   */
  async wait(
    { signal, onProgress }: Pick<CopyOptions, "signal" | "onProgress">,
    wait: (options: JobWait) => Promise<Job>,
  ): Promise<Job> {
    const { plan, disk } = this.work;
    const stallTimeoutMs = jobStallTimeoutMs(plan, disk);
    try {
      const end = await wait({
        ...{ signal, stallTimeoutMs },
        ...(this.events ? { events: this.events } : {}),
        onProgress: (job) => onProgress(job["current-progress"], job["total-progress"]),
      });
      this.#isConcluded = end.status === "concluded";
      return end;
    } catch (error) {
      if (!(error instanceof StalledError)) throw error;
      throw stalled(disk, this.file.partial, stallTimeoutMs);
    }
  }

  /** Why the disk could not be copied, as far as can be told. */
  async failure(
    end: Job,
    fault: Pick<CopyFault, "operation" | "reason">,
    { isFleeced }: { isFleeced: boolean },
  ): Promise<Failure> {
    const { plan, disk } = this.work;
    const restBytes = end["total-progress"] - end["current-progress"];
    const nodes = [disk.nodes.switchNode, disk.disk.rootNode, disk.disk.node];
    return new Failure(explainCopy(disk, this.file.partial, !isFleeced, {
      ...fault,
      guest: this.errors.ofGuest(nodes),
      why: await explainFailure(this.work.deadline, plan, disk, restBytes),
    }));
  }

  /** Ends the job, if there is one, and takes it away. */
  async end(): Promise<void> {
    const { qmp, disk } = this.work;
    try {
      await this.beforeEnd();
      const end = this.#isConcluded ? dismissJob : endJob;
      await end(qmp, disk.job);
      this.#isConcluded = false;
      this.events?.[Symbol.dispose]();
    } catch (error) {
      if (!(error instanceof JobError || error instanceof HangingError)) throw error;
      const what = error instanceof JobError
        ? `${error.message}: the storage of "${this.file.partial}" hangs`
        : error.message;
      throw this.work.setHanging(
        new HangingError(
          `${what}. The guest writes on, through the filter "${disk.nodes.filter}"`,
          { cause: error },
        ),
      );
    }
  }
}
