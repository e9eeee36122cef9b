/**
 * A new image as QEMU has it open, for a job to write to.
 *
 * @module
 */

import { dirname } from "@std/path";
import { fileNode, readOnlyTarget, targetNode } from "./block_options.ts";
import type { DiskWork } from "./disk_work.ts";
import type { ImageFile } from "./image_file.ts";
import { explainOpen, shareCommands } from "./permission_hint.ts";

/** Closing an image may have to write much. We flush it before, so this is never used up. */
const CLOSE_TIMEOUT_MS = 300_000;

/** Lets QEMU open an image. */
export async function openImageNode(work: DiskWork, { partial }: ImageFile): Promise<void> {
  const { plan: { request }, disk: { nodes } } = work;
  try {
    const file = fileNode(nodes.file, partial, request);
    await work.addNode(work.image, targetNode(nodes.target, file, request));
  } catch (error) {
    const folders = new Set([request.target, dirname(partial)]);
    throw explainOpen(
      error,
      partial,
      `let that user's group write there ${shareCommands(...folders)}`,
    );
  }
}

/** Closes it, with all that was written to it. */
export async function closeImageNode(work: DiskWork, file: ImageFile): Promise<void> {
  // Flushed by us first: QEMU would do it in its main loop, and the guest would wait.
  await file.flush();
  await work.refuseHanging();
  const { plan: { request, features }, disk: { nodes } } = work;
  const options = readOnlyTarget(nodes, request, features.reopen);
  await work.qmp.execute(features.reopen, options, { timeoutMs: CLOSE_TIMEOUT_MS });
  await work.image.unwind();
}
