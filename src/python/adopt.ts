/**
 * Chains that the reference began: its images lie in the target, no record speaks of them. They get
 * records here, so that their next increment can be ours; the files stay as they are.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { ChainError } from "../repo/chains.ts";
import type { Deadline } from "../fs/deadline.ts";
import { type Fingerprint, isFault, lookAtImage } from "../repo/fingerprint.ts";
import { type NamedImage, orderByName } from "./name_order.ts";
import { diskFileName, parseImageName } from "../repo/layout.ts";
import { adoptedId, type DiskRecord, RECORD_HEAD, type RunRecord } from "../repo/record.ts";
import type { Target } from "../repo/repository.ts";
import { Failure, messageOf } from "../errors.ts";
import { type ImageFacts, imageFacts } from "../qemu_img/qemu_img.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import type { Disk } from "../vm/disks.ts";
import { referenceBitmaps } from "../vm/names.ts";

const log = getLogger(["qmpbackup", "backup"]);

/** A disk with the images that the reference made of it. */
export interface Foreign {
  disk: Disk;
  folder: string;
  images: (NamedImage & Pick<ImageFacts, "virtualSizeBytes" | "allocatedBytes"> & {
    fingerprint?: Fingerprint;
  })[];
}

/**
 * Makes records for the reference's chains of these disks.
 *
 * @param files The files in each folder of the target.
 * @param tag Of this run: what was adopted by another one keeps its records.
 * @returns One for each point in time, to be put before the target's own; none for a chain that can't
 * go on, which is logged.
 */
export async function adoptChains(
  deadline: Deadline,
  target: Target,
  disks: Disk[],
  files: Map<string, string[]>,
  vm: VmIdentity,
  tag: string,
): Promise<RunRecord[]> {
  if (target.chainId === null) return [];
  const recorded = new Set(target.runs.flatMap((run) => run.disks.map(({ id }) => id)));
  const found: Foreign[] = [];
  for (const disk of disks.filter(({ id }) => !recorded.has(id))) {
    const foreign = await findForeign(deadline, target, disk, files);
    if (foreign) found.push(foreign);
  }
  return adoptedRuns(found.filter((one) => !isShared(one, found)), target.chainId, vm, tag);
}

/** Of two disks whose files have one name, the images don't tell which they are of. */
function isShared({ folder, images: [first] }: Foreign, found: Foreign[]): boolean {
  const same = found.filter((other) =>
    other.folder === folder && other.images[0]?.name === first?.name
  );
  if (same.length === 1) return false;
  log.warn("The chain in {folder} can't go on: it may belong to {disks}", {
    folder,
    disks: same.map(({ disk }) => disk.name).join(" or "),
  });
  return true;
}

/** 0.47 names a folder by the node or the device, 0.67 by the disk's file; `--no-subdir` has none. */
async function findForeign(
  deadline: Deadline,
  { path, runs }: Target,
  disk: Disk,
  files: Map<string, string[]>,
): Promise<Foreign | null> {
  const ours = new Set(runs.flatMap((run) => run.disks.map(({ file }) => file)));
  const fileName = diskFileName(disk.source);
  for (const folder of new Set([disk.name, disk.node, fileName, "."])) {
    const names = (files.get(folder) ?? []).filter((name) =>
      !ours.has(join(folder, name)) && (folder !== "." || isOfDisk(name, fileName))
    );
    try {
      const ordered = orderByName(join(path, folder), names);
      if (ordered.length === 0) continue;
      const images: Foreign["images"] = [];
      for (const image of ordered) {
        const file = join(path, folder, image.name);
        const seen = await lookAtImage(deadline, file);
        if (isFault(seen)) throw new Failure(`"${file}" ${seen.reason}`);
        const { fingerprint } = seen;
        images.push({
          ...image,
          ...await imageFacts(deadline, file),
          fingerprint,
        });
      }
      return { disk, folder, images };
    } catch (error) {
      if (!(error instanceof ChainError) && !(error instanceof Failure)) throw error;
      log.warn("The chain in {folder} can't go on: {words}", { folder, words: messageOf(error) });
    }
  }
  return null;
}

/** Whether an image among those of all disks is this one's. */
function isOfDisk(name: string, fileName: string): boolean {
  const named = parseImageName(name)?.diskFileName ?? name;
  return named === fileName || name === `FULL-${fileName}`;
}

/** The records. Pure. */
export function adoptedRuns(
  found: Foreign[],
  chainId: string,
  vm: VmIdentity,
  tag: string,
): RunRecord[] {
  const times = new Set(found.flatMap(({ images }) => images.map((image) => image.unixSeconds)));
  return [...times].sort((a, b) => a - b).map((unixSeconds, index): RunRecord => {
    const time = new Date(unixSeconds * 1000).toISOString();
    const disks = found.flatMap((foreign) => rowsOf(foreign, unixSeconds, chainId));
    return {
      ...RECORD_HEAD,
      id: adoptedId(unixSeconds, tag),
      sequence: index + 1,
      level: disks[0]?.level ?? "full",
      state: "done",
      chain: chainId,
      started: time,
      pointInTime: time,
      finished: time,
      tool: "the Python qmpbackup",
      qemu: "",
      vm,
      hold: { kind: "none", pausedMs: 0, frozenMs: null },
      disks,
      leftOut: [],
      warnings: [],
    };
  });
}

function rowsOf({ disk, folder, images }: Foreign, unixSeconds: number, chainId: string) {
  const newest = images.findLast(({ level }) => level !== "copy");
  return images.filter((image) => image.unixSeconds === unixSeconds).map((image): DiskRecord => {
    // Only the newest has a bitmap: the reference clears its one at each backup. One of ours says
    // nothing here: which image it counts from stood in a record, and that is gone.
    const theirs = referenceBitmaps([disk.node, disk.rootNode, disk.device], chainId);
    const bitmap = image === newest
      ? disk.bitmaps.find(({ name }) => theirs.includes(name))
      : undefined;
    return {
      id: disk.id,
      name: disk.name,
      folder,
      source: disk.source,
      node: disk.node,
      level: image.level,
      reason: "made by the Python qmpbackup",
      bitmap: bitmap?.name ?? null,
      granularityBytes: bitmap?.granularityBytes ?? null,
      sentinel: null,
      backing: null,
      fleece: "",
      file: join(folder, image.name),
      parent: image.parent && join(folder, image.parent),
      unrecorded: [],
      virtualSizeBytes: image.virtualSizeBytes,
      bytesWritten: image.allocatedBytes,
      fingerprint: image.fingerprint,
      result: "done",
      error: null,
    };
  });
}
