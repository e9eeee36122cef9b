/**
 * Where no bitmap knows what has changed: `qemu-img` reads the snapshot of a disk through QEMU's NBD server, and
 * stores what differs from the last backup.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { join } from "@std/path";
import { storeDifference } from "../qemu_img/difference.ts";
import type { DiskPlan } from "../plan/plan.ts";
import type { SentinelRecord } from "../vm/sentinel.ts";
import { requireLinks } from "./backing_links.ts";
import { refuseResized } from "./changed_disk.ts";
import type { CopyOptions, DiskCopy } from "./disk_copy.ts";
import { DiskWork, type RunSurroundings } from "./disk_work.ts";
import { ImageFile } from "./image_file.ts";
import { addNextBitmap } from "./next_bitmap.ts";
import { addSnapshot, addSwitchNode, createFleece } from "./snapshot.ts";
import { useExport } from "./snapshot_export.ts";

export class ComparedCopy implements DiskCopy {
  readonly file: ImageFile;
  readonly #work: DiskWork;

  /**
   * @param parent The image that it is compared with, relative to the target.
   * @param nbdSocket Where QEMU serves the snapshots.
   */
  constructor(
    run: RunSurroundings,
    readonly disk: DiskPlan,
    readonly parent: string,
    readonly nbdSocket: string,
  ) {
    this.#work = new DiskWork(run, disk);
    this.file = new ImageFile(run.deadline, run.plan, disk, this.#work.result);
  }

  /** The file alone: `qemu-img` makes an image of it. */
  async openImage(): Promise<void> {
    const { file, target } = this.disk.nodes;
    await this.file.create(() => this.#work.refuseOpen(file, target));
  }

  async prepare(warn: (sentence: string) => void): Promise<SentinelRecord | null> {
    const sentinel = await addNextBitmap(this.#work, warn);
    await createFleece(this.#work);
    return sentinel;
  }

  beforeMoment = () => addSwitchNode(this.#work);
  atMoment = () => {};
  afterMoment = () => addSnapshot(this.#work);

  async copy(options: CopyOptions): Promise<void> {
    refuseResized(this.disk, await options.nodes());
    await this.#compare(options);
    await this.#work.guest.unwind();
    await delay(this.#work.plan.request.removeDelayMs, { signal: options.signal });
    await this.file.flush();
    await this.file.check();
    await this.file.digest(options.signal);
  }

  giveUp = () => this.unwind();
  stop = () => Promise.resolve();
  keepResult = () => this.#work.result.keep();
  unwind = () => this.#work.unwind();

  async #compare(options: CopyOptions): Promise<void> {
    const { deadline, plan: { request: { target } } } = this.#work;
    const { backing, ...image } = this.file.options;
    const parent = join(target, this.parent);
    await useExport(this.#work, this.file, this.nbdSocket, options, async (contents, how) => {
      await requireLinks(deadline, parent, how.signal);
      await storeDifference(deadline, this.file.partial, {
        ...{ contents, parent, backing: backing ?? this.parent, image },
        ...how,
      });
    });
  }
}
