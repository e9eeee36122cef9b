/**
 * What this QEMU can't be asked to do, and what a user has to know. Pure.
 *
 * @module
 */

import { basename } from "@std/path";
import { images } from "../repo/chains.ts";
import { parseImageName } from "../repo/layout.ts";
import type { Features } from "../qmp/schema.ts";
import type { Disk } from "../vm/disks.ts";
import { isBackupBitmap } from "../vm/names.ts";
import type { DiskPlan } from "./plan.ts";
import type { Facts } from "./facts.ts";
import type { BackupRequest } from "./request.ts";

/** The longest `cbw-timeout` that works in every QEMU. */
export const SAFE_CBW_TIMEOUT_SECONDS = 4;

/** The request, without what this QEMU can't do, and what that was. */
export function adaptRequest(
  asked: BackupRequest,
  facts: Facts,
): { request: BackupRequest; leftOut: string[] } {
  const request = { ...asked };
  const leftOut: string[] = [];
  const { cbwTimeoutSeconds } = asked;
  if ((cbwTimeoutSeconds ?? 0) > SAFE_CBW_TIMEOUT_SECONDS && !facts.features.longCbwTimeout) {
    request.cbwTimeoutSeconds = null;
    leftOut.push(
      `--cbw-timeout was left out: this QEMU (before 10) can't count more than ` +
        `${SAFE_CBW_TIMEOUT_SECONDS} seconds, and would give up the snapshots too early`,
    );
  }
  const reason = reasonAgainstComparing(facts);
  if (asked.onLostBitmap === "compare" && reason !== null) {
    request.onLostBitmap = "full";
    leftOut.push(`--on-lost-bitmap compare was left out: this QEMU ${reason}`);
  }
  if (asked.verify && reason !== null) {
    request.verify = false;
    leftOut.push(
      `--verify was left out, and the new images were not compared with the disks: this QEMU ${reason}`,
    );
  }
  return { request, leftOut };
}

function reasonAgainstComparing({ hasIothreads, features }: Facts): string | null {
  if (!features.fleecing) return "(before 7.1) has no snapshot that could be compared";
  if (!hasIothreads || features.busyIothreads) return null;
  // "nbd_blockdev_client_closed: Assertion `qemu_in_main_thread() && nbd_server' failed", 7.2.
  return "(before 9) ends when a disk in an iothread is compared";
}

/** Why the guest has to be stopped for the point in time; null where it needn't. */
export function pauseReason(
  { pause }: BackupRequest,
  { features, hasIothreads }: Facts,
): string | null {
  if (pause) return "asked for";
  if (!hasIothreads || features.busyIothreads) return null;
  return "this QEMU (before 9) can't put a filter on a disk in an iothread while the guest writes";
}

/** What the user is told before anything is done. */
export function warningsOf(request: BackupRequest, facts: Facts, disks: DiskPlan[]): string[] {
  return [
    ...(request.encrypt ? [] : plainTextWarnings(disks.map(({ disk }) => disk))),
    ...newTargetWarnings(request, facts),
    ...compareWarnings(request, disks),
    ...timedWarnings(request, disks),
    ...directWarnings(facts.features),
  ];
}

/** What a backup does not keep secret: the guest's disk is encrypted, the image is not. */
function plainTextWarnings(disks: Disk[]): string[] {
  return disks.filter(({ image }) => image.encrypted === true).map(({ name }) =>
    `The disk "${name}" is encrypted, its backup is not: keep the target as safe as the key`
  );
}

/**
 * A new target looks the same as a mount point whose file system is not mounted. Only the bitmaps of the disks tell
 * that there were backups. A copy builds on nothing, and may have a folder of its own.
 */
function newTargetWarnings(
  { level }: BackupRequest,
  { target, disks, pastBitmaps }: Facts,
): string[] {
  if (level === "copy") return [];
  const { path, chainId, runs } = target;
  // Past months are beside it. Records in an empty mount point may come from runs that failed there.
  if (images(runs).length > 0 || chainId !== null || pastBitmaps.length > 0) return [];
  const bitmaps = disks.flatMap((disk) => disk.bitmaps.map(({ name }) => name));
  const known = bitmaps.find((name) => isBackupBitmap(name));
  if (known === undefined) return [];
  return [
    `The target "${path}" is new, but there are backups of this VM elsewhere (the bitmap ` +
    `"${known}" belongs to one): if those backups belong here, check that the file system is ` +
    "mounted",
  ];
}

/** `qemu-img rebase` can do neither. */
function compareWarnings(request: BackupRequest, disks: DiskPlan[]): string[] {
  const isCompared = disks.some(({ compare }) => compare);
  if (!isCompared || (request.compress === null && request.speedLimitBytesPerSecond === 0)) {
    return [];
  }
  return ["--speed-limit and --compress have no effect on a disk that is compared"];
}

/** See `imageOf()`. */
function timedWarnings({ timestamp }: BackupRequest, disks: DiskPlan[]): string[] {
  if (timestamp) return [];
  return disks.filter(({ level, file }) => level === "full" && parseImageName(basename(file)))
    .map(({ file, disk }) =>
      `"${file}" has a time in its name in spite of --no-timestamp: increments still build on ` +
      `the full backup of the disk "${disk.name}" without a time, which must not be replaced`
    );
}

function directWarnings({ fleecing }: Features): string[] {
  if (fleecing) return [];
  return [
    "With this QEMU (before 7.1) the guest's writes wait for the target while the backup runs: " +
    "use fast storage for it. The space that the backup needs there was reserved first",
  ];
}
