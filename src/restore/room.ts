/**
 * Whether what is restored fits, before the first byte is written.
 *
 * @module
 */

import { format as formatBytes } from "@std/fmt/bytes";
import { getLogger } from "@logtape/logtape";
import { dirname } from "@std/path";
import { UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { exists } from "../fs/durable.ts";
import { freeBytes, stat } from "../fs/files.ts";
import { measureSource, QemuImgError } from "../qemu_img/qemu_img.ts";
import { passesOf } from "./convert.ts";
import type { Layer } from "./points.ts";

const log = getLogger(["qmpbackup", "restore"]);

/** A new file. */
export interface Output {
  targetFile: string;
  layers: Layer[];
  virtualSizeBytes: number;
}

export interface RoomOptions {
  compress?: string | null;
  preallocation?: string | undefined;
  keyFile?: string | null;
  deadline: Deadline;
  signal: AbortSignal;
}

/**
 * Refuses a restore that does not fit. What compression saves is not known before, nor what a chain takes that
 * needs several passes: these are not counted.
 *
 * @throws {UsageError} If a file system has too little room.
 */
export async function requireRoom(outputs: Output[], options: RoomOptions): Promise<void> {
  const needs = new Map<number, { folder: string; bytes: number }>();
  for (const output of outputs) {
    const folder = await folderThatIs(options.deadline, dirname(output.targetFile));
    const { dev } = await stat(options.deadline, folder);
    const need = needs.get(dev) ?? { folder, bytes: 0 };
    needs.set(dev, { ...need, bytes: need.bytes + await neededBytes(output, options) });
  }
  for (const { folder, bytes } of needs.values()) {
    const free = await freeOf(options.deadline, folder);
    if (free === null || bytes <= free) continue;
    throw new UsageError(
      `"${folder}" has ${text(free)} free, and what is restored there takes ${
        text(bytes)
      }: make room, or ` +
        "name another folder",
    );
  }
}

const text = (bytes: number) => formatBytes(bytes, { binary: true });

async function neededBytes(
  { layers, targetFile, virtualSizeBytes }: Output,
  { compress, preallocation, keyFile = null, deadline, signal }: RoomOptions,
): Promise<number> {
  if (preallocation === "falloc" || preallocation === "full") return virtualSizeBytes;
  const passes = passesOf(layers, targetFile);
  if (compress || passes.length > 1) return 0;
  const folders = [...new Set(layers.map(({ path }) => dirname(path)))];
  try {
    return await measureSource(deadline, folders, passes[0]?.source ?? "", {
      ...{ signal, keyFile },
    });
  } catch (error) {
    // The restore itself meets it, too, and says what it is.
    if (error instanceof QemuImgError) return 0;
    throw error;
  }
}

/** What is missing is made later. */
async function folderThatIs(deadline: Deadline, path: string): Promise<string> {
  let folder = path;
  while (!await exists(deadline, folder)) folder = dirname(folder);
  return folder;
}

async function freeOf(deadline: Deadline, folder: string): Promise<number | null> {
  try {
    return await freeBytes(deadline, folder);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotCapable)) throw error;
    log.debug("Whether there is room is not looked at: --allow-sys=statfs is not given");
    return null;
  }
}
