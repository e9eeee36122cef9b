/**
 * A picture of a VM's screen.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { messageOf } from "../errors.ts";
import { createFile, OWNER_ONLY } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { removeFile, renameDurably } from "../fs/durable.ts";
import { openRegular, readRange } from "../fs/read.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";

const log = getLogger(["qmpbackup", "boot"]);

/** The largest screens have less. */
const MAX_PICTURE_BYTES = 64 << 20;

/**
 * Takes it. That there is none is a warning: it is not what the boot was for.
 *
 * @param folder Where QEMU writes it, before it is copied.
 * @param to Replaced if it is there.
 * @returns Its path: PNG, or, as QEMU before 7.1 knows no PNG, PPM with `.ppm` at its end.
 */
export async function takeScreenshot(
  deadline: Deadline,
  qmp: QmpClient,
  { folder, to }: { folder: string; to: string },
): Promise<string | null> {
  const made = join(folder, "screen");
  try {
    const isPng = await dump(qmp, made);
    const path = isPng ? to : `${to.replace(/\.png$/, "")}.ppm`;
    if (!isPng) log.warn("This QEMU makes no PNG: the screenshot is {path}", { path });
    await copy(deadline, made, path);
    return path;
  } catch (error) {
    log.warn("There is no screenshot: {words}", { words: messageOf(error) });
    return null;
  } finally {
    await removeFile(deadline, made);
  }
}

/** Returns whether it is PNG. */
async function dump(qmp: QmpClient, filename: string): Promise<boolean> {
  try {
    await qmp.execute("screendump", { filename, format: "png" });
    return true;
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    await qmp.execute("screendump", { filename });
    return false;
  }
}

async function copy(deadline: Deadline, from: string, to: string): Promise<void> {
  using file = await openRegular(deadline, from);
  const pieces: Uint8Array[] = [];
  const range = { offset: 0, length: MAX_PICTURE_BYTES };
  await readRange(deadline, file, from, range, (chunk) => pieces.push(chunk.slice()));
  const bytes = new Uint8Array(await new Blob(pieces as BlobPart[]).arrayBuffer());
  const partial = `${to}.${crypto.randomUUID()}`;
  try {
    await createFile(deadline, partial, OWNER_ONLY, bytes);
    await renameDurably(deadline, partial, to);
  } finally {
    await removeFile(deadline, partial);
  }
}
