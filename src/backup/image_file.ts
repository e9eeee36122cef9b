/**
 * The image of one disk on the target. Its name says that it is not finished until it is. Only then it gets its own
 * name, and replaces an older image of that name.
 *
 * @module
 */

import { basename, dirname, join, relative } from "@std/path";
import type { Deadline } from "../fs/deadline.ts";
import { digestFile } from "../digest/digest.ts";
import type { PartDigests } from "../digest/format.ts";
import { forgetDigest, writeDigests } from "../digest/store.ts";
import { createFile, makeReadOnly } from "../fs/create.ts";
import { exists, removeFile, renameDurably, replaceSymlink, syncPath } from "../fs/durable.ts";
import { rename, stat } from "../fs/files.ts";
import { type Fingerprint, isFault, lookAtImage, sealImage } from "../repo/fingerprint.ts";
import { backingLink, partialName, REPLACED_SUFFIX } from "../repo/layout.ts";
import { createFolder } from "../repo/repository.ts";
import { Failure, messageOf } from "../errors.ts";
import { emptyQcow2 } from "../qcow2/empty.ts";
import { checkImage, createQcow2 } from "../qemu_img/qemu_img.ts";
import { giveBack, reserve } from "../qemu_img/reserve.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";
import { dropFromCache } from "./drop_cache.ts";
import type { UndoStack } from "./undo.ts";

/** Less does not push much out of the page cache. */
const DROPPED_FROM_BYTES = 64 << 20;

export class ImageFile {
  /** Absolute. */
  readonly path: string;
  /** Its name until it is finished. */
  readonly partial: string;
  /** Of the sealed image. */
  #digests: PartDigests | null = null;

  /** @param undo What takes it all away again, unless the run ends well. */
  constructor(
    readonly deadline: Deadline,
    readonly plan: Plan,
    readonly disk: DiskPlan,
    readonly undo: UndoStack,
  ) {
    this.path = join(plan.request.target, disk.file);
    this.partial = partialName(this.path, plan.runId);
  }

  /** The image is made like the disk's own, on top of the last image. */
  get options() {
    const { disk: { virtualSizeBytes, clusterSizeBytes, lazyRefcounts }, folder, parent } =
      this.disk;
    const { request, features } = this.plan;
    return {
      virtualSizeBytes,
      lazyRefcounts,
      ...(clusterSizeBytes ? { clusterSizeBytes } : {}),
      ...(request.compress === "zstd" && features.zstd ? { compressionType: "zstd" } as const : {}),
      backing: parent && backingLink(relative(folder, parent)),
    };
  }

  /**
   * Makes the file ourselves: QEMU's tools would let everybody read it, and would follow any link.
   *
   * @param refuseOpen Throws while QEMU has the file open: then it is not removed.
   * @param contents An image; nothing where `qemu-img` makes one in the file.
   */
  async create(refuseOpen: () => Promise<void>, contents?: Uint8Array): Promise<void> {
    const { target, mode } = this.plan.request;
    await createFolder(this.deadline, target, this.disk.folder, mode);
    try {
      await createFile(this.deadline, this.partial, mode, contents);
    } catch (error) {
      if (error instanceof Failure) throw error;
      throw new Failure(`"${this.partial}" can't be made: ${messageOf(error)}`, { cause: error });
    }
    this.undo.push(`remove "${this.partial}"`, async () => {
      await refuseOpen();
      await removeFile(this.deadline, this.partial);
    });
  }

  /** As `create()`: an empty image, for QEMU to write to. */
  async createImage(refuseOpen: () => Promise<void>): Promise<void> {
    const { deadline, partial, plan: { request: { keyFile } } } = this;
    await this.create(refuseOpen, keyFile === null ? emptyQcow2(this.options) : undefined);
    if (keyFile === null) await syncPath(deadline, partial);
    else await createQcow2(deadline, partial, this.options, { keyFile });
  }

  async flush(): Promise<void> {
    await syncPath(this.deadline, this.partial, await this.#sizeBytes());
  }

  /** Sets aside all that the image may take. */
  async reserve(): Promise<void> {
    const { reserveBytes } = this.disk;
    try {
      await reserve(this.deadline, this.partial, reserveBytes);
    } catch (error) {
      throw new Failure(
        `${reserveBytes} bytes can't be reserved for "${this.partial}": ${messageOf(error)}. ` +
          "With this QEMU (before 7.1) the guest's writes could fail without them: make room",
        { cause: error },
      );
    }
  }

  /** Gives back what was reserved and is not used. */
  async giveBack(): Promise<void> {
    await giveBack(this.deadline, this.partial, this.plan.request);
  }

  /**
   * Checks and seals the image, which nobody has open any more.
   *
   * @throws {Failure} If it is not sound.
   */
  async check(): Promise<void> {
    const { keyFile } = this.plan.request;
    await checkImage(this.deadline, this.partial, { sizeBytes: await this.#sizeBytes(), keyFile });
    await sealImage(this.deadline, this.partial);
  }

  /**
   * Reads the sealed image for its digests: now much of it may still be in the page cache, which it leaves then.
   *
   * @throws {Failure} If it can't be read back.
   */
  async digest(signal: AbortSignal): Promise<void> {
    if (this.plan.request.digest) {
      this.#digests = await digestFile(this.deadline, this.partial, { signal });
    }
    if (await this.#sizeBytes() >= DROPPED_FROM_BYTES) {
      await dropFromCache(this.deadline, this.partial);
    }
  }

  async #sizeBytes(): Promise<number> {
    return (await stat(this.deadline, this.partial)).size;
  }

  /**
   * Takes the right to write the finished image from everybody.
   *
   * @returns What tells it from now on.
   * @throws {Failure} If it can't be read any more.
   */
  async finish(): Promise<Fingerprint> {
    await makeReadOnly(this.deadline, this.partial);
    const seen = await lookAtImage(this.deadline, this.partial);
    if (isFault(seen)) throw new Failure(`"${this.partial}" ${seen.reason}`);
    return seen.fingerprint;
  }

  /**
   * Gives the finished image its name. It does not count before the run's record says so.
   *
   * @returns A warning, where its link could not be made.
   */
  async publish(): Promise<string | null> {
    const { replaces, link } = this.disk;
    if (replaces) await this.#setAside();
    if (await exists(this.deadline, this.path)) throw new Failure(`"${this.path}" exists already`);
    this.undo.push(`remove "${this.path}"`, () => removeFile(this.deadline, this.path));
    await renameDurably(this.deadline, this.partial, this.path);
    if (link === null) return null;
    const path = join(dirname(this.path), link);
    // If there is one already, it leads to an image of this name.
    const isNew = !await exists(this.deadline, path);
    const warning = await replaceSymlink(this.deadline, path, basename(this.path));
    if (isNew) this.undo.push(`remove "${path}"`, () => removeFile(this.deadline, path));
    return warning === null ? null : `${warning}, or use --no-symlink`;
  }

  /**
   * Records the digests of the published image.
   *
   * @returns A warning, where they can't be written: the image is as good.
   */
  async recordDigests(fingerprint: Fingerprint): Promise<string | null> {
    const { disk: { file }, plan: { request: { target, mode } } } = this;
    if (this.#digests === null) return null;
    this.undo.push(
      `remove the digests of "${this.path}"`,
      () => forgetDigest(this.deadline, target, file),
    );
    try {
      await writeDigests(this.deadline, target, file, fingerprint, this.#digests, mode);
      return null;
    } catch (error) {
      return `The digests of "${this.path}" could not be recorded, the first "restore verify" does it: ` +
        messageOf(error);
    }
  }

  /** The new image counts: the one that it replaces goes. */
  async removeReplaced(): Promise<void> {
    if (this.disk.replaces) await removeFile(this.deadline, this.#aside);
  }

  get #aside(): string {
    return this.path + REPLACED_SUFFIX;
  }

  async #setAside() {
    await rename(this.deadline, this.path, this.#aside);
    this.undo.push(`put "${this.path}" back`, () => rename(this.deadline, this.#aside, this.path));
  }
}
