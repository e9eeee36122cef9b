/**
 * Writes a chain into one new file, or onto a device.
 *
 * @module
 */

import { dirname } from "@std/path";
import { Failure, UsageError } from "../errors.ts";
import { createFile, OWNER_ONLY } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { exists, removeFile, renameDurably, syncPath } from "../fs/durable.ts";
import { link } from "../fs/files.ts";
import { qemuImg } from "../qemu_img/qemu_img.ts";
import { PARTIAL_SUFFIX } from "../repo/layout.ts";
import { encryptedOf } from "./encryption.ts";
import { mergeGroups } from "./groups.ts";
import { refuseLeftover } from "./leftover.ts";
import { LIMITS, type Pass, planPasses, rawSource } from "./passes.ts";
import type { Layer } from "./points.ts";

/** How the output is made. */
export interface OutputOptions {
  /** One that `qemu-img` can write. */
  format: string;
  /** Of a new file. */
  mode?: number;
  /** QEMU's `compression_type`: qcow2 only. */
  compress?: string | null;
  /** How much of the file is set aside at first; QEMU's `preallocation`. */
  preallocation?: string | undefined;
  /** 0 is no limit. */
  rateLimitBytesPerSecond: number;
  /** Of the images that are encrypted. The output is not. */
  keyFile?: string | null;
  deadline: Deadline;
  signal: AbortSignal;
}

/** The passes of `qemu-img convert` that a chain takes. */
export function passesOf(layers: Layer[], targetFile: string): Pass[] {
  const [only] = layers;
  return only?.isRaw ? [{ source: rawSource(only.path), isLast: true }] : planPasses(
    layers.map(({ path }) => path),
    (pass) => between(targetFile, pass),
    LIMITS,
    encryptedOf(layers),
  );
}

/** What a pass leaves for the next one. */
const between = (targetFile: string, pass: number) => `${targetFile}.pass${pass}${PARTIAL_SUFFIX}`;

/**
 * Writes a new file, which gets its name when it is whole.
 *
 * @param beforePublishing What it throws keeps the file from getting its name.
 */
export async function convertToFile(
  layers: Layer[],
  targetFile: string,
  options: OutputOptions,
  onPercent: (percent: number) => void,
  beforePublishing: () => Promise<void>,
): Promise<void> {
  const { mode = OWNER_ONLY, keyFile = null, deadline, signal } = options;
  const partial = targetFile + PARTIAL_SUFFIX;
  const folders = [...new Set([targetFile, ...layers.map(({ path }) => path)].map(dirname))];
  await using made = new AsyncDisposableStack();
  const [fewer, onRest] = await mergeGroups(layers, targetFile, options, onPercent, made);
  const passes = passesOf(fewer, targetFile);
  for (const [index, { source, isLast }] of passes.entries()) {
    const output = isLast ? partial : between(targetFile, index + 1);
    await refuseLeftover(deadline, output);
    await createFile(deadline, output, mode);
    made.defer(() => removeFile(deadline, output));
    const how = isLast ? lastPass(options) : ["-O", "qcow2"];
    await qemuImg(deadline, folders, [...convertArgs(options), ...how, source, output], {
      ...{ signal, keyFile },
      onPercent: (percent) => onRest((index * 100 + percent) / passes.length),
    });
    // What was between the passes is of no use any more, and as large as the disk.
    await removeFile(deadline, between(targetFile, index));
  }
  await beforePublishing();
  await publish(deadline, partial, targetFile);
}

/**
 * Writes onto a block device, which is large enough. `qemu-img` opens it: Deno keeps `/dev` to programs with
 * all rights. What is beyond the disk's end stays.
 */
export async function convertToDevice(
  layers: Layer[],
  device: string,
  options: OutputOptions,
  onPercent: (percent: number) => void,
): Promise<void> {
  const { deadline, keyFile = null, signal } = options;
  const [pass] = passesOf(layers, device);
  const folders = [...new Set(layers.map(({ path }) => dirname(path)))];
  // Not cached, and flushed when it is closed: the default ("unsafe") flushes nothing.
  const how = ["-n", "-t", "none", "-O", "raw", pass?.source ?? "", device];
  await qemuImg(deadline, folders, [...convertArgs(options), ...how], {
    ...{ signal, keyFile, onPercent },
  });
}

/** @throws {Failure} If the chain is too long for one pass: there is no place for what is between. */
export function refuseManyPasses(layers: Layer[], device: string): void {
  if (passesOf(layers, device).length === 1) return;
  throw new Failure(
    `The chain has ${layers.length} images, too many to be written onto "${device}" in one pass: restore ` +
      "into a file, and copy that onto the device (qemu-img convert -n -O raw)",
  );
}

function convertArgs({ rateLimitBytesPerSecond: limit }: OutputOptions): string[] {
  return ["convert", "-p", "-W", "-m", "16", ...(limit > 0 ? ["-r", String(limit)] : [])];
}

function lastPass({ format, compress, preallocation }: OutputOptions): string[] {
  return [
    ...(compress ? ["-c", "-o", `compression_type=${compress}`] : []),
    ...(preallocation ? ["-o", `preallocation=${preallocation}`] : []),
    ...["-O", format],
  ];
}

/** A hard link fails where the name is taken; a rename would overwrite. */
async function publish(deadline: Deadline, partial: string, targetFile: string) {
  await syncPath(deadline, partial);
  try {
    await link(deadline, partial, targetFile);
    await syncPath(deadline, dirname(targetFile));
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) {
      throw new UsageError(`"${targetFile}" was made by somebody else meanwhile`, { cause: error });
    }
    // A file system without hard links.
    await refuseTaken(deadline, targetFile);
    await renameDurably(deadline, partial, targetFile);
  }
}

async function refuseTaken(deadline: Deadline, targetFile: string) {
  if (await exists(deadline, targetFile)) throw new UsageError(`"${targetFile}" exists already`);
}
