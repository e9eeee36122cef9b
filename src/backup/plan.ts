/**
 * Decides what a backup will do, as plain data. Pure: all it needs to know is in `Facts`.
 *
 * @module
 */

import { dirname, join } from "@std/path";
import { images, restorePoints } from "../catalog/chains.ts";
import {
  bitmapName,
  diskFileName,
  type DiskLevel,
  fleeceName,
  PARTIAL_SUFFIX,
  RECORDS_FOLDER,
  runId,
  sentinelName,
} from "../catalog/names.ts";
import type { Fingerprint, ImageFault } from "../catalog/fingerprint.ts";
import type { RunRecord } from "../catalog/record.ts";
import type { Target } from "../catalog/target.ts";
import { Failure, UsageError } from "../errors.ts";
import type { Features } from "../qmp/schema.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import type { Disk, LeftOut } from "../vm/disks.ts";
import { adaptRequest, pauseReason, SAFE_CBW_TIMEOUT_SECONDS, warningsOf } from "./caution.ts";
import {
  bitmapsOf,
  chainFault,
  foldersOf,
  foreignSince,
  lastBackup,
  unrecorded,
} from "./continuity.ts";
import { fileNamesOf } from "./file_names.ts";
import { imageOf } from "./image_name.ts";
import { afterChoice, leftOutWarnings, withMissing } from "./left_out.ts";
import { levelOf } from "./level.ts";
import type { BackupRequest } from "./request.ts";
import { refuseRunState } from "./run_state.ts";
import { selectDisks } from "./select.ts";
import { type SentinelRecord, usableSentinel } from "./sentinel.ts";
import { reserveBytes } from "./space.ts";

export interface Facts {
  vm: VmIdentity;
  /** `query-status`. */
  runState: string;
  features: Features;
  /** Whether disks may be served by other threads than QEMU's main loop. */
  hasIothreads: boolean;
  disks: Disk[];
  leftOut: LeftOut[];
  /** With the records of `adopted` among its own. */
  target: Target;
  /** The records of the reference's chains, which are not written yet. */
  adopted: RunRecord[];
  /** The bitmaps of the targets before this one, with `--monthly`, and their runs in order. */
  pastBitmaps: string[];
  pastRuns: RunRecord[];
  /** The files in each folder of the target, by the folder's name. */
  files: Map<string, string[]>;
  /** What is wrong with the images that the next increments would build on, by their paths in the target. */
  imageFaults: ReadonlyMap<string, ImageFault>;
  /** What tells those of them whose records don't say it, by their paths in the target. */
  newFingerprints: ReadonlyMap<string, Fingerprint>;
  /** The files in the target that the VM has for disks, or below them: relative to it. */
  inUse: string[];
  /** Where each disk's fleece may lie beside it, by the disk's id; null where that is no folder. */
  besideDisk: Map<string, string | null>;
  startedAt: Date;
  /** Eight random hexadecimal digits: what marks all that this run leaves in QEMU. */
  tag: string;
  newChainId: string;
}

export interface DiskPlan {
  disk: Disk;
  level: DiskLevel;
  reason: string;
  folder: string;
  /** Relative to the target. */
  file: string;
  /** An image of this name is there, and goes when the new one is done. */
  replaces: boolean;
  /** The name of a symbolic link to the image, beside it. */
  link: string | null;
  /** The image it builds on, relative to the target and in the same folder. */
  parent: string | null;
  /** The bitmap that has recorded since the last backup: what an increment copies. */
  previousBitmap: string | null;
  /** What changed is found by comparing all with the parent, since no bitmap knows. */
  compare: boolean;
  /** The bitmaps that count no more when this backup is done; until then nobody touches them. */
  spentBitmaps: string[];
  /** The bitmap that counts from this backup on; null for a copy. */
  nextBitmap: string | null;
  /** What tells later whether the disk was cut after this backup; null for a copy. See `sentinel.ts`. */
  sentinel: SentinelRecord | null;
  /** It is not there yet. */
  isNewSentinel: boolean;
  /** What tells whether the disk was cut since the last backup: it must, up to the point in time. */
  previousSentinel: SentinelRecord | null;
  /** Of the next bitmap: what QEMU takes by itself, a cluster within 4 to 64 KiB. */
  granularityBytes: number;
  /** How much is to be copied, as far as it can be known. */
  estimateBytes: number;
  /** What the image takes at most; set aside for it where there is no fleece. */
  reserveBytes: number;
  job: string;
  /** Reads again what the job could not read. */
  probeJob: string;
  /** The bitmap that tells the job what to copy. */
  jobBitmap: string;
  /** The id of the snapshot's export, where it is compared. */
  exportId: string;
  nodes: Record<"target" | "file" | "fleece" | "filter" | "gate" | "snapshot" | "end", string>;
  /** Absolute. */
  fleeceFile: string;
  /** There is no folder beside the disk: the guest's writes may wait for the backup's storage. */
  isFleeceOnTarget: boolean;
  /** How long a guest's write may wait for the fleece before the backup fails; null is for ever. */
  cbwTimeoutSeconds: number | null;
  /** The file of the source's `qemu-img info`, relative to the target. */
  configFile: string;
  /** The images in its folder that no record knows. */
  unrecorded: string[];
}

export interface Plan {
  runId: string;
  sequence: number;
  chainId: string;
  startedAt: Date;
  request: BackupRequest;
  vm: VmIdentity;
  /** `query-status`, when it was planned. */
  runState: string;
  features: Features;
  /** No fleece: the jobs read from the disks themselves. */
  direct: boolean;
  /** Why the guest has to stand still for the point in time; null where it needn't. */
  pause: string | null;
  /** The node that keeps a migration away while the run is on. */
  migrationBlocker: string;
  /** Where QEMU serves the snapshots that are compared; null where there is none. */
  nbdSocket: string | null;
  disks: DiskPlan[];
  leftOut: LeftOut[];
  /** The records of the reference's chains that go on, to be written first. */
  adopted: RunRecord[];
  /** See `Facts`: to be recorded, too. */
  newFingerprints: ReadonlyMap<string, Fingerprint>;
  /** What will not be done as it was asked for. */
  warnings: string[];
}

/**
 * Plans a backup.
 *
 * @throws {UsageError} If the request does not fit the VM or the target.
 * @throws {Failure} If it can't be done, with the disk and the remedy.
 */
export function planBackup(asked: BackupRequest, facts: Facts): Plan {
  const { request, leftOut: notDone } = adaptRequest(asked, facts);
  const { target, tag } = facts;
  refuseRunState(facts.runState);
  refuseOtherVm(target, facts.vm);
  const chainId = chainIdOf(request, facts);
  // In a new month's target the last run is that of the month before.
  const pastRuns = target.runs.length > 0 ? target.runs : facts.pastRuns;
  const recorded = [...facts.pastRuns, ...target.runs].flatMap(({ disks }) => disks);
  const { selected, leftOut: notSelected } = selectDisks(
    facts.disks,
    facts.leftOut,
    request,
    recorded.map(({ name }) => name),
  );
  const points = restorePoints(target.runs);
  const all = images(target.runs);
  const lasts = new Map(facts.disks.map((disk) => [disk, lastBackup(disk, facts.disks, points)]));
  const chainIds = [...lasts.values()].map((last) => last?.disk.id);
  const leftOut = afterChoice(
    withMissing(pastRuns, facts.disks, chainIds, [...facts.leftOut, ...notSelected]),
    request,
  );
  const fileNames = fileNamesOf(facts.disks);
  const folders = foldersOf(lasts, [...fileNames.values()].map(configName));
  const faultOf = (file: string) => chainFault(all, file, facts.files, facts.imageFaults);
  const changed: string[] = [];
  const disks = selected.map((disk, index): DiskPlan => {
    const known = lasts.get(disk);
    // In a folder that has gone over to another disk, two chains would mix.
    const last = known && [".", folders.get(disk)].includes(known.disk.folder) ? known : undefined;
    const usualFolder = request.subdir ? folders.get(disk) ?? disk.name : ".";
    refusePartial(target.path, last?.disk.folder ?? usualFolder, facts.files);
    const level = levelOf(
      request,
      disk,
      last,
      (file) => faultOf(file)?.reason ?? null,
      foreignSince(last, target, facts.files),
    );
    if (last && request.level === "auto") {
      changed.push(...changedWarning(disk, faultOf(last.disk.file)));
    }
    // An increment lies beside the image it builds on.
    const folder = level.level === "inc" && last ? last.disk.folder : usualFolder;
    refusePartial(target.path, folder, facts.files);
    const uniqueName = fileNames.get(disk) ?? disk.name;
    const fileName = folder === "." ? uniqueName : diskFileName(disk.source);
    const image = imageOf(request, facts, disk, level.level, { folder, fileName });
    const besideDisk = facts.besideDisk.get(disk.id) ?? null;
    const beside = request.fleeceDir ?? besideDisk;
    const isBeside = beside !== null && beside === besideDisk;
    const node = (role: string) => `qmpbackup-${tag}-${index}-${role}`;
    const granularityBytes = Math.min(Math.max(disk.clusterSizeBytes ?? 65536, 4096), 65536);
    const usable = usableSentinel(disk, last?.disk);
    const sentinel = usable ??
      { bitmap: sentinelName(disk.name, tag, chainId), countBytes: granularityBytes };
    const isCopy = level.level === "copy";
    return {
      disk,
      ...level,
      folder,
      ...image,
      spentBitmaps: isCopy
        ? []
        : spentBitmaps(disk, facts).filter((name) => name !== sentinel.bitmap),
      nextBitmap: isCopy ? null : bitmapName(disk.name, tag, chainId),
      sentinel: isCopy || disk.virtualSizeBytes === 0 ? null : sentinel,
      isNewSentinel: usable === null,
      previousSentinel: level.previousBitmap === null ? null : last?.disk.sentinel ?? null,
      granularityBytes,
      job: `qmpbackup.${tag}.${disk.name}`,
      probeJob: `qmpbackup.${tag}.${disk.name}.again`,
      reserveBytes: reserveBytes(disk, level.level, level.estimateBytes),
      jobBitmap: node("job"),
      exportId: node("export"),
      nodes: {
        target: node("target"),
        file: node("file"),
        fleece: node("fleece"),
        filter: node("cbw"),
        gate: node("gate"),
        snapshot: node("snap"),
        end: node("end"),
      },
      fleeceFile: join(
        beside ?? join(target.path, RECORDS_FOLDER),
        fleeceName(tag, index),
      ),
      isFleeceOnTarget: beside === null,
      // On other storage than the disk's a write must not wait for ever, even if nobody asked for a
      // limit.
      cbwTimeoutSeconds: request.cbwTimeoutSeconds ??
        (isBeside ? null : SAFE_CBW_TIMEOUT_SECONDS),
      configFile: configName(uniqueName),
      unrecorded: unrecorded(folder, target, facts.files),
    };
  });
  return {
    runId: runId(facts.startedAt, tag),
    // The newest run need not have the highest: chains that are adopted late count from 1 as well.
    sequence: Math.max(0, ...target.runs.map(({ sequence }) => sequence)) + 1,
    chainId,
    startedAt: facts.startedAt,
    request,
    vm: facts.vm,
    runState: facts.runState,
    features: facts.features,
    direct: !facts.features.fleecing,
    pause: pauseReason(request, facts),
    // "The vdi format used by node 'qmpbackup-…-running' does not support live migration": QEMU's words
    // to whoever tries.
    migrationBlocker: `qmpbackup-${tag}-0-running`,
    nbdSocket: nbdSocket(disks, tag),
    disks,
    leftOut,
    adopted: facts.adopted,
    newFingerprints: facts.newFingerprints,
    warnings: [
      ...notDone,
      ...changed,
      ...leftOutWarnings(leftOut),
      ...warningsOf(request, facts, disks),
    ],
  };
}

/** A full backup is taken, but what the target held before can't be restored. */
function changedWarning({ name }: Disk, fault: ImageFault | null): string[] {
  if (fault === null || fault.state === "missing") return [];
  return [
    `Earlier backups of the disk "${name}" can't be restored, so a full backup is taken: ${fault.reason}. ` +
    "If there is a copy of the target, put the image back from it",
  ];
}

/** Beside the fleece: where QEMU may make files, and a socket can be made. */
function nbdSocket(disks: DiskPlan[], tag: string): string | null {
  const compared = disks.find(({ compare }) => compare);
  return compared ? join(dirname(compared.fleeceFile), `qmpbackup-${tag}.nbd`) : null;
}

/**
 * Refuses a target with the backups of another VM.
 *
 * @throws {UsageError} With what to do.
 */
export function refuseOtherVm({ path, runs }: Target, vm: VmIdentity) {
  // A run that failed before it could ask may not know.
  const then = runs.findLast(({ disks, vm }) => disks.length > 0 || vm.name || vm.uuid)?.vm;
  if (!then) return;
  const same = then.uuid && vm.uuid ? then.uuid === vm.uuid : then.name === vm.name;
  if (same) return;
  const call = ({ name, uuid }: VmIdentity) => `"${name}"${uuid && ` (${uuid})`}`;
  throw new UsageError(
    `The target "${path}" holds backups of the VM ${call(then)}, this is ${call(vm)}: ` +
      "name another target",
  );
}

function chainIdOf(request: BackupRequest, { target, newChainId }: Facts): string {
  const present = target.chainId ?? target.runs.findLast(hasChain)?.chain ?? null;
  if (present !== null && request.uuid !== null && request.uuid !== present) {
    throw new UsageError(
      `The target's chain has the id "${present}": leave out --uuid, or name another target`,
    );
  }
  return present ?? request.uuid ?? newChainId;
}

const hasChain = ({ disks }: { disks: { level: DiskLevel }[] }) =>
  disks.some(({ level }) => level !== "copy");

/** This target's bitmaps on a disk. Another target's may bear the same chain id: a copied folder. */
function spentBitmaps(disk: Disk, { target, pastBitmaps }: Facts): string[] {
  const recorded = new Set([...bitmapsOf(target), ...pastBitmaps]);
  return disk.bitmaps.map(({ name }) => name).filter((name) => recorded.has(name));
}

function refusePartial(target: string, folder: string, files: Facts["files"]) {
  const partial = files.get(folder)?.find((name) => name.endsWith(PARTIAL_SUFFIX));
  if (!partial) return;
  throw new Failure(
    `"${join(target, folder, partial)}" was left by another program's unfinished backup: ` +
      "see that none is running, and remove it",
  );
}

const configName = (fileName: string) => `${fileName}.config`;
