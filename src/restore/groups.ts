/**
 * Makes the increments of a long chain fewer, before they are restored.
 *
 * @module
 */

import { createFile, OWNER_ONLY } from "../fs/create.ts";
import type { Deadline } from "../fs/deadline.ts";
import { removeFile } from "../fs/durable.ts";
import type { Encrypted } from "../qemu_img/chain_source.ts";
import { commitLayers, LEAST_CLUSTER_BYTES } from "../qemu_img/commit_layers.ts";
import { PARTIAL_SUFFIX } from "../repo/layout.ts";
import { refuseLeftover } from "./leftover.ts";
import { encryptedOf } from "./encryption.ts";
import { planGroups } from "./passes.ts";
import type { Layer } from "./points.ts";
import { requireImage } from "./require_image.ts";

export interface GroupOptions {
  /** 0 is no limit. */
  rateLimitBytesPerSecond: number;
  /** Of the images that are encrypted. What is made of them is not, as what is restored. */
  keyFile?: string | null;
  deadline: Deadline;
  signal: AbortSignal;
}

type OnPercent = (percent: number) => void;

/**
 * Merges groups of increments beside the new file: see `commit_layers.ts`.
 *
 * @param made Removes the new images.
 * @returns The chain to restore, and what gets the progress of that.
 * @throws {QemuImgError} If that fails.
 */
export async function mergeGroups(
  layers: Layer[],
  targetFile: string,
  options: GroupOptions,
  onPercent: OnPercent,
  made: AsyncDisposableStack,
  plan = planGroups,
): Promise<[Layer[], OnPercent]> {
  const encrypted = encryptedOf(layers);
  const groups = layers[0]?.isRaw ? [] : plan(layers.map(({ path }) => path), encrypted);
  const sizes = await sizesOf(groups.flat(), options);
  if (groups.length === 0 || sizes.some((one) => one.clusterSizeBytes < LEAST_CLUSTER_BYTES)) {
    return [layers, onPercent];
  }
  const parts = groups.length + 1;
  const merged: Layer[] = [];
  for (const [i, paths] of groups.entries()) {
    const file = `${targetFile}.group${i + 1}${PARTIAL_SUFFIX}`;
    const group = { paths, sizes: sizes.splice(0, paths.length), encrypted };
    await mergeGroup(
      group,
      file,
      options,
      made,
      (percent) => onPercent((i * 100 + percent) / parts),
    );
    merged.push({ path: file, parent: merged.at(-1)?.path ?? null, timeMs: 0 });
  }
  return [
    [layers[0] as Layer, ...merged],
    (percent) => onPercent((groups.length * 100 + percent) / parts),
  ];
}

interface Sizes {
  virtualSizeBytes: number;
  clusterSizeBytes: number;
}

async function sizesOf(paths: string[], { deadline }: GroupOptions): Promise<Sizes[]> {
  const sizes: Sizes[] = [];
  for (const path of paths) sizes.push(await requireImage(deadline, path));
  return sizes;
}

interface Group {
  paths: string[];
  sizes: Sizes[];
  encrypted: Encrypted;
}

async function mergeGroup(
  { paths, sizes, encrypted }: Group,
  file: string,
  { deadline, signal, keyFile = null, rateLimitBytesPerSecond }: GroupOptions,
  made: AsyncDisposableStack,
  onPercent: OnPercent,
): Promise<void> {
  const top = `${file}.top`;
  for (const path of [file, top]) {
    await refuseLeftover(deadline, path);
    await createFile(deadline, path, OWNER_ONLY);
    made.defer(() => removeFile(deadline, path));
  }
  await commitLayers(deadline, { file, top, layers: paths }, {
    virtualSizeBytes: sizes.at(-1)?.virtualSizeBytes ?? 0,
    clusterSizeBytes: Math.min(...sizes.map((one) => one.clusterSizeBytes)),
    ...{ encrypted, rateLimitBytesPerSecond, signal, keyFile, onPercent, isTemporary: true },
  });
  await removeFile(deadline, top);
}
