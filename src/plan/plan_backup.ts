/**
 * Decides what a backup will do, as plain data. Pure: all it needs to know is in `Facts`.
 *
 * @module
 */

import { dirname, join } from "@std/path";
import { ChainError, chainOf, images, type Point, restorePoints } from "../repo/chains.ts";
import {
  diskFileName,
  type DiskLevel,
  fleeceName,
  PARTIAL_SUFFIX,
  RECORDS_FOLDER,
  runId,
} from "../repo/layout.ts";
import type { ImageFault } from "../repo/fingerprint.ts";
import { knowsDisks, type Target } from "../repo/repository.ts";
import { Failure, UsageError } from "../errors.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import { isThin } from "../vm/allocation.ts";
import type { Disk } from "../vm/disks.ts";
import { adaptRequest, pauseReason, SAFE_CBW_TIMEOUT_SECONDS, warningsOf } from "./warnings.ts";
import {
  bitmapsOf,
  chainFault,
  foldersOf,
  foreignSince,
  lastBackup,
  unrecorded,
} from "./last_backup.ts";
import type { Facts } from "./facts.ts";
import { fileNamesOf } from "./file_names.ts";
import { imageOf } from "./image_place.ts";
import { afterChoice, leftOutWarnings, withMissing } from "./skipped.ts";
import { decideEncryption, imagesToTry } from "./encryption.ts";
import { dueFull } from "./full_every.ts";
import { levelOf } from "./level.ts";
import type { DiskPlan, Plan } from "./plan.ts";
import type { BackupRequest } from "./request.ts";
import { refuseRunState } from "./run_state.ts";
import { selectDisks } from "./select.ts";
import {
  bitmapName,
  exportId,
  jobBitmapName,
  jobId,
  nodeName,
  type NodeRole,
  objectId,
  sentinelName,
} from "../vm/names.ts";
import { usableSentinel } from "../vm/sentinel.ts";
import { reserveBytes } from "./sizes.ts";
import { chooseWriting } from "./writing.ts";

/**
 * Plans a backup.
 *
 * @throws {UsageError} If the request does not fit the VM or the target.
 * @throws {Failure} If it can't be done, with the disk and the remedy.
 */
export function planBackup(asked: BackupRequest, facts: Facts): Plan {
  const { request: adapted, leftOut: notDone } = adaptRequest(asked, facts);
  const known = [...facts.pastRuns, ...facts.target.runs];
  const { request, warnings: ofEncryption } = decideEncryption(adapted, known);
  const { target, tag } = facts;
  refuseRunState(facts.runState);
  refuseOtherVm(target, facts.vm);
  const chainId = chainIdOf(request, facts);
  // In a new month's target the last run is that of the month before, also after nights that failed.
  const pastRuns = knowsDisks(target) ? target.runs : facts.pastRuns;
  const recorded = known.flatMap(({ disks }) => disks);
  const { selected, leftOut: notSelected } = selectDisks(
    facts.disks,
    facts.leftOut,
    request,
    recorded.map(({ name }) => name),
  );
  refuseReadTwice(selected, facts);
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
    const point = lasts.get(disk);
    // If another disk has this folder by now, two chains would mix in it.
    const last = point && [".", folders.get(disk)].includes(point.disk.folder) ? point : undefined;
    const usualFolder = request.subdir ? folders.get(disk) ?? disk.name : ".";
    refusePartial(target.path, last?.disk.folder ?? usualFolder, facts.files);
    const level = levelOf(
      request,
      disk,
      last,
      (file) => faultOf(file)?.reason ?? plainFault(request, last),
      foreignSince(last, target, facts.files),
      dueOf(request, last, all, facts.startedAt),
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
    const node = (role: NodeRole) => nodeName(tag, index, role);
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
      obsoleteBitmaps: isCopy
        ? []
        : obsoleteBitmaps(disk, facts).filter((name) => name !== sentinel.bitmap),
      nextBitmap: isCopy ? null : bitmapName(disk.name, tag, chainId),
      sentinel: isCopy || disk.virtualSizeBytes === 0 ? null : sentinel,
      isNewSentinel: usable === null,
      previousSentinel: level.previousBitmap === null ? null : last?.disk.sentinel ?? null,
      granularityBytes,
      job: jobId(tag, disk.name, "copy"),
      probeJob: jobId(tag, disk.name, "probe"),
      reserveBytes: reserveBytes(disk, level.level, level.estimateBytes),
      jobBitmap: jobBitmapName(tag, index),
      // Like a filter, the job that looks might end QEMU if a disk is in an iothread: see `pauseReason()`.
      isThin: level.level !== "inc" && !facts.hasIothreads && isThin(disk),
      lookJob: jobId(tag, disk.name, "look"),
      exportId: exportId(tag, index),
      nodes: {
        target: node("target"),
        file: node("file"),
        fleece: node("fleece"),
        filter: node("cbw"),
        switchNode: node("gate"),
        snapshot: node("snap"),
        end: node("end"),
        empty: node("empty"),
      },
      keyId: request.encrypt ? objectId(tag, index) : null,
      fleeceFile: join(
        beside ?? join(target.path, RECORDS_FOLDER),
        fleeceName(tag, index),
      ),
      isFleeceOnTarget: beside === null,
      // A fleece on other storage than the disk's must not hold a write for ever, even if nobody asked for a
      // limit.
      cbwTimeoutSeconds: request.cbwTimeoutSeconds ??
        (isBeside ? null : SAFE_CBW_TIMEOUT_SECONDS),
      configFile: configName(uniqueName),
      unrecorded: unrecorded(folder, target, facts.files),
    };
  });
  return {
    runId: runId(facts.startedAt, tag),
    // The newest run may not have the highest number: chains that are adopted late count from 1, too.
    sequence: Math.max(0, ...target.runs.map(({ sequence }) => sequence)) + 1,
    chainId,
    startedAt: facts.startedAt,
    request,
    vm: facts.vm,
    runState: facts.runState,
    features: facts.features,
    writing: chooseWriting(
      request,
      facts.features,
      disks.reduce((sum, { estimateBytes }) => sum + estimateBytes, 0),
      facts.targetSpeed,
    ),
    direct: !facts.features.fleecing,
    pause: pauseReason(request, facts),
    // "The vdi format used by node 'qmpbackup-…-running' does not support live migration": QEMU's words
    // to anybody who tries.
    migrationBlocker: nodeName(tag, 0, "running"),
    nbdSocket: nbdSocket(request, disks, tag),
    tryKeyOn: imagesToTry(request, disks.map(({ parent }) => parent), target.runs),
    disks,
    leftOut,
    tpms: facts.tpms,
    runs: target.runs,
    adopted: facts.adopted,
    newFingerprints: facts.newFingerprints,
    warnings: [
      ...notDone,
      ...ofEncryption,
      ...changed,
      ...leftOutWarnings(leftOut),
      ...warningsOf(request, facts, disks),
    ],
  };
}

/** An increment that is encrypted does not build on an image that is not. */
function plainFault({ encrypt }: BackupRequest, last: Point | undefined): string | null {
  if (!encrypt || !last || last.disk.encrypted) return null;
  return `the image "${last.disk.file}" is not encrypted`;
}

/** Why a full backup is due, though the chain could go on. */
function dueOf(
  { fullEvery }: BackupRequest,
  last: Point | undefined,
  all: Point[],
  now: Date,
): string | null {
  if (!last || !fullEvery) return null;
  try {
    return dueFull(chainOf(all, last.disk.file), fullEvery, now.getTime());
  } catch (error) {
    // That is said as what is wrong with the last backup.
    if (!(error instanceof ChainError)) throw error;
    return null;
  }
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
function nbdSocket({ verify }: BackupRequest, disks: DiskPlan[], tag: string): string | null {
  const compared = disks.find(({ compare }) => compare || verify);
  return compared ? join(dirname(compared.fleeceFile), `qmpbackup-${tag}.nbd`) : null;
}

/**
 * Refuses a target with the backups of another VM.
 *
 * @throws {UsageError} With what to do.
 */
export function refuseOtherVm({ path, runs }: Target, vm: VmIdentity) {
  // A run that failed early may not know the VM.
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

/** The bitmaps of this target on a disk. Those of a copied folder have the same chain id, and are not among them. */
function obsoleteBitmaps(disk: Disk, { target, pastBitmaps }: Facts): string[] {
  const recorded = new Set([...bitmapsOf(target), ...pastBitmaps]);
  return disk.bitmaps.map(({ name }) => name).filter((name) => recorded.has(name));
}

/** Another program's backup would end QEMU, and the guest with it: see `isReadTwice()`. */
function refuseReadTwice(disks: Disk[], { features }: Facts) {
  const name = disks.find(({ isReadTwice }) => isReadTwice)?.name;
  if (name === undefined || !features.fleecing || features.busyIothreads) return;
  throw new Failure(
    `Another program backs up the disk "${name}" in pull mode (virsh backup-begin), and this QEMU (before 9) ` +
      "would crash if we began now. Wait until that backup has ended (virsh domjobabort ends it), or " +
      `leave the disk out (--exclude ${name})`,
  );
}

function refusePartial(target: string, folder: string, files: Facts["files"]) {
  const partial = files.get(folder)?.find((name) => name.endsWith(PARTIAL_SUFFIX));
  if (!partial) return;
  throw new Failure(
    `"${join(target, folder, partial)}" was left by another program's unfinished backup: ` +
      "make sure that none is running, and remove it",
  );
}

const configName = (fileName: string) => `${fileName}.config`;
