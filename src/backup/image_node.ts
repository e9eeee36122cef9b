/**
 * A new image as QEMU has it open, for a job to write to.
 *
 * @module
 */

import { dirname } from "@std/path";
import type { Writing } from "../plan/writing.ts";
import { QmpCommandError } from "../qmp/client.ts";
import { fileNode, readOnlyTarget, targetNode } from "./block_options.ts";
import type { DiskWork } from "./disk_work.ts";
import type { ImageFile } from "./image_file.ts";
import { explainOpen, shareCommands } from "./permission_hint.ts";
import { readKey } from "../qemu_img/key.ts";
import { removeMark } from "../vm/marks.ts";
import { UndoStack } from "./undo.ts";

/** Closing an image may have to write much. We flush it before, so this is never used up. */
const CLOSE_TIMEOUT_MS = 300_000;

/** Lets QEMU open an image. */
export async function openImageNode(work: DiskWork, { partial }: ImageFile): Promise<void> {
  const { plan: { request, writing }, disk: { nodes, keyId } } = work;
  const open = async (how: Writing) => {
    const file = fileNode(nodes.file, partial, how);
    const image = targetNode(nodes.target, file, how, keyId);
    await withKey(work, () => work.addNode(work.image, image));
  };
  try {
    await open(writing).catch(async (error) => {
      // A distribution's QEMU may know a driver and refuse it.
      if (!(error instanceof QmpCommandError) || writing.preallocBytes === 0) throw error;
      await open({ ...writing, preallocBytes: 0 });
    });
  } catch (error) {
    const folders = new Set([request.target, dirname(partial)]);
    throw explainOpen(
      error,
      partial,
      `let that user's group write there ${shareCommands(...folders)}`,
    );
  }
}

/**
 * Lets QEMU have the key of an encrypted image for as long as it opens that: the object is not needed afterwards.
 * It goes over QMP, since QEMU may run as a user who can't read the file.
 */
async function withKey(work: DiskWork, open: () => Promise<void>): Promise<void> {
  const { qmp, deadline, image: { leftovers }, disk: { keyId }, plan: { request } } = work;
  if (keyId === null || request.keyFile === null) return await open();
  const text = String.fromCharCode(...await readKey(deadline, request.keyFile));
  await using undo = new UndoStack(leftovers);
  undo.push(`remove the key "${keyId}" from QEMU`, () => removeMark(qmp, keyId));
  const object = { "qom-type": "secret", id: keyId, format: "base64", data: btoa(text) };
  await qmp.execute("object-add", object, { isSecret: true });
  await open();
}

/** Closes it, with all that was written to it. */
export async function closeImageNode(work: DiskWork, file: ImageFile): Promise<void> {
  // Flushed by us first: QEMU would do it in its main loop, and the guest would wait.
  await file.flush();
  await work.refuseHanging();
  const { plan: { writing, features }, disk: { nodes, keyId } } = work;
  const options = readOnlyTarget(nodes, writing, features.reopen, keyId);
  await work.qmp.execute(features.reopen, options, { timeoutMs: CLOSE_TIMEOUT_MS });
  await work.image.unwind();
}
