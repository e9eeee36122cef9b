/**
 * Makes one image of several, beside them. They are only read.
 *
 * @module
 */

import { basename, dirname, join, relative } from "@std/path";
import { format as formatBytes } from "@std/fmt/bytes";
import { Failure } from "../errors.ts";
import { createFile, lookAt, makeReadOnly, OWNER_ONLY, tryMode } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import {
  createInside,
  removeFile,
  removeFolders,
  renameDurably,
  setFileTime,
  syncPath,
} from "../fs/durable.ts";
import { freeBytes } from "../fs/files.ts";
import { type Fingerprint, sealImage } from "../repo/fingerprint.ts";
import { backingLink, PRUNE_FOLDER } from "../repo/layout.ts";
import type { DiskRecord } from "../repo/record.ts";
import {
  checkImage,
  type ImageFacts,
  imageFacts,
  isCompressed,
  linkImage,
  measureChain,
  qemuImg,
  QemuImgError,
  type RunOptions,
} from "../qemu_img/qemu_img.ts";
import { LUKS_HEADER_BYTES, NEW_LUKS } from "../qemu_img/key.ts";
import { chainSource } from "../qemu_img/chain_source.ts";
import { commitLayers, LEAST_CLUSTER_BYTES } from "../qemu_img/commit_layers.ts";
import { requireImage } from "../restore/require_image.ts";

/** Images that can't be merged; all that was kept of them can be restored as before. */
export class MergeError extends Failure {
  override name = "MergeError";
}

export interface MergeContext {
  deadline: Deadline;
  /** Absolute. */
  target: string;
  /** 0 is no limit. */
  rateLimitBytesPerSecond: number;
  /** The file with the key of encrypted images; null where there is none. */
  keyFile: string | null;
  signal: AbortSignal;
}

/** A new image, which has not its name yet. */
export interface MergedImage extends AsyncDisposable {
  bytesWritten: number;
  fingerprint: Fingerprint;
  /** Gives it its name, in the place of an image that has it. */
  publish(path: string): Promise<void>;
}

/**
 * Merges images.
 *
 * @param layers The oldest first. If that is a full backup, so is the new one.
 * @param parent What the first one builds on; null for a full backup.
 * @throws {MergeError} If that can't be done.
 */
export async function mergeImages(
  layers: readonly DiskRecord[],
  parent: DiskRecord | null,
  given: MergeContext,
): Promise<MergedImage> {
  const last = layers.at(-1) as DiskRecord;
  // A chain is encrypted, or it is not: what is merged stays as it was.
  const context = { ...given, keyFile: last.encrypted ? given.keyFile : null };
  const { target, deadline, signal, keyFile } = context;
  const paths = layers.map(({ file }) => join(target, file));
  const facts = await factsOf(layers, context);
  const folder = join(target, dirname(last.file), PRUNE_FOLDER);
  const file = join(folder, basename(last.file));
  const sources = { paths, facts, isCompressed: await areCompressed(paths, context) };
  await refuseFull(paths, dirname(folder), context);
  await using made = new AsyncDisposableStack();
  const present = await lookAt(deadline, join(target, last.file));
  await createInside(deadline, folder);
  made.defer(() => removeFolders(deadline, [folder]));
  await removeFile(deadline, file);
  made.defer(() => removeFile(deadline, file));
  const parentPath = parent && join(target, parent.file);
  if (parentPath === null) await convertAll(sources, file, context);
  else await commitAll(sources, file, parentPath, context);
  await checkImage(deadline, file, { signal, keyFile, sizeBytes: present?.size ?? 0 });
  await refuseDifferent(paths, file, context);
  if (parentPath !== null) {
    await link(deadline, file, parentPath, dirname(folder), { signal, keyFile });
  }
  await sealImage(deadline, file);
  await tryMode(deadline, file, (present?.mode ?? OWNER_ONLY) & 0o777);
  await makeReadOnly(deadline, file);
  await setFileTime(deadline, file, present?.mtime ?? null);
  await syncPath(deadline, file, (await lookAt(deadline, file))?.size ?? 0);
  const { fingerprint } = await requireImage(deadline, file);
  const bytesWritten = ((await lookAt(deadline, file))?.blocks ?? 0) * 512;
  const cleanup = made.move();
  return {
    bytesWritten,
    fingerprint,
    publish: (path) => renameDurably(deadline, file, path),
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

interface Sources {
  paths: string[];
  facts: ImageFacts[];
  isCompressed: boolean;
}

/** Looks whether the images are those that were recorded, and sound. */
async function factsOf(
  layers: readonly DiskRecord[],
  { target, deadline, signal, keyFile }: MergeContext,
): Promise<ImageFacts[]> {
  const facts: ImageFacts[] = [];
  for (const { file, fingerprint } of layers) {
    const path = join(target, file);
    await requireImage(deadline, path, fingerprint);
    const found = await imageFacts(deadline, path, { signal });
    if (found.snapshots.length > 0) {
      throw new MergeError(
        `"${path}" holds snapshots (made by restore snapshotrebase), which would be lost: it is ` +
          "not merged, but can still be restored",
      );
    }
    facts.push(found);
    await checkImage(deadline, path, { signal, keyFile });
  }
  return facts;
}

async function areCompressed(
  paths: string[],
  { deadline, signal, keyFile }: MergeContext,
): Promise<boolean> {
  for (const path of paths) {
    if (await isCompressed(deadline, path, { signal, keyFile })) return true;
  }
  return false;
}

/** @throws {MergeError} If there is no room for the new image beside the old ones. */
async function refuseFull(
  paths: string[],
  folder: string,
  { deadline, signal, keyFile }: MergeContext,
) {
  const source = sourceOf(paths, keyFile);
  const header = keyFile === null ? 0 : LUKS_HEADER_BYTES;
  const neededBytes = header + await measureChain(deadline, paths, source, { signal, keyFile });
  const free = await freeBytes(deadline, folder);
  if (neededBytes <= free) return;
  const size = (bytes: number) => `${bytes} bytes (${formatBytes(bytes, { binary: true })})`;
  throw new MergeError(
    `The file system of "${folder}" is too full to merge images into "${
      basename(paths.at(-1) ?? "")
    }": ` +
      `${size(neededBytes)} are needed, ${size(free)} are free. Make room, and run again`,
  );
}

/** The images of a chain, which are all encrypted if there is a key. */
export function sourceOf(paths: string[], keyFile: string | null): string {
  return chainSource(paths, keyFile === null ? undefined : new Set(paths));
}

const limitOf = ({ rateLimitBytesPerSecond: limit }: MergeContext) =>
  limit > 0 ? ["-r", String(limit)] : [];

/** The new image is compressed as the last one of those that it is made of. */
function qcow2Options(clusterBytes: number, facts: ImageFacts[], keyFile: string | null): string {
  const isZstd = facts.at(-1)?.compressionType === "zstd";
  return [
    ...["compat=1.1", `cluster_size=${clusterBytes}`],
    ...(isZstd ? ["compression_type=zstd"] : []),
    ...(keyFile === null ? [] : NEW_LUKS),
  ].join(",");
}

/** A full backup with increments: all that a guest would read. */
async function convertAll(
  { paths, facts, isCompressed }: Sources,
  file: string,
  context: MergeContext,
) {
  await createFile(context.deadline, file, OWNER_ONLY);
  // Compressed clusters can't be written out of order.
  const how = isCompressed ? ["-c"] : ["-W"];
  const clusterBytes = facts.at(-1)?.clusterSizeBytes ?? 65536;
  await run(
    [
      ...["convert", "-m", "16", ...how, ...limitOf(context), "-O", "qcow2"],
      ...["-o", qcow2Options(clusterBytes, facts, context.keyFile)],
      ...[sourceOf(paths, context.keyFile), file],
    ],
    file,
    context,
  );
}

/** Increments: see `commit_layers.ts`. */
async function commitAll(
  { paths, facts, isCompressed }: Sources,
  file: string,
  parent: string,
  context: MergeContext,
) {
  const { deadline, signal, keyFile, rateLimitBytesPerSecond } = context;
  const clusterSizeBytes = Math.min(...facts.map((one) => one.clusterSizeBytes ?? 65536));
  if (clusterSizeBytes < LEAST_CLUSTER_BYTES) {
    throw new MergeError(
      `Images with clusters of ${clusterSizeBytes} bytes can't be merged ("${
        paths[0]
      }"): they stay as they ` +
        "are, and can still be restored",
    );
  }
  await using made = new AsyncDisposableStack();
  const [top, whole] = [`${file}.top`, `${file}.whole`];
  const below = isCompressed ? whole : file;
  for (const path of new Set([below, top])) {
    await removeFile(deadline, path);
    await createFile(deadline, path, OWNER_ONLY);
    if (path !== file) made.defer(() => removeFile(deadline, path));
  }
  await commitLayers(deadline, { file: below, top, layers: paths }, {
    virtualSizeBytes: facts.at(-1)?.virtualSizeBytes ?? 0,
    ...{ clusterSizeBytes, rateLimitBytesPerSecond, signal, keyFile },
    encrypted: new Set(keyFile === null ? [] : [below, ...paths]),
  });
  if (!isCompressed) return;
  // With a parent, only what the image itself holds is copied.
  await createFile(deadline, file, OWNER_ONLY);
  const options = [
    "-o",
    `${qcow2Options(clusterSizeBytes, facts, null)},backing_fmt=qcow2`,
    "-B",
    parent,
  ];
  const source = chainSource([parent, whole]);
  await run(
    ["convert", "-c", ...limitOf(context), "-O", "qcow2", ...options, source, file],
    file,
    context,
  );
}

async function run(argv: string[], file: string, { deadline, signal, keyFile }: MergeContext) {
  await qemuImg(deadline, [file], argv, { signal, keyFile });
}

/** Links an image to its parent, by the path that leads there from a folder. */
export async function link(
  deadline: Deadline,
  path: string,
  parent: string,
  folder: string,
  how: Pick<RunOptions, "signal" | "keyFile"> = {},
): Promise<void> {
  await linkImage(deadline, path, backingLink(relative(folder, parent)), how);
}

/** The exit code of `qemu-img compare` for images that differ. */
const DIFFERENT = 1;

/**
 * Reads both once more. What lies below increments is left out: it is the same for both.
 *
 * @throws {MergeError} If they differ.
 */
async function refuseDifferent(
  paths: string[],
  file: string,
  { deadline, signal, keyFile }: MergeContext,
) {
  const argv = ["compare", "-q", sourceOf(paths, keyFile), sourceOf([file], keyFile)];
  try {
    await qemuImg(deadline, [file], argv, { signal, keyFile });
  } catch (error) {
    if (!(error instanceof QemuImgError && error.status === DIFFERENT)) throw error;
    throw new MergeError(
      `What was merged into "${
        basename(file)
      }" is not what was there before: nothing was replaced. Check ` +
        "the storage of the target, and run again",
      { cause: error },
    );
  }
}
