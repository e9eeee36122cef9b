/**
 * The results of each subcommand, as text for people and as JSON for programs. Pure.
 *
 * @module
 */

import type { DiskRecord, RunRecord } from "../../repo/record.ts";
import type { Target } from "../../repo/repository.ts";
import type { Disk, LeftOut } from "../../vm/disks.ts";
import type { VmHealth } from "../../overview/health.ts";
import { type ImageStates, PRESENT } from "../../overview/image_states.ts";
import type { Restored } from "../../restore/merge.ts";
import { localTime } from "../../time.ts";
import { clock, printable, printableJson, size, table } from "./text.ts";

/** One line of `--json` output. */
export function jsonLine(messageType: string, content: object): string {
  return printableJson({ message_type: messageType, ...content }) + "\n";
}

/** QEMU's `-name` is optional. */
function vmText(name: string): string {
  return name === "" ? "a VM without a name" : `the VM "${printable(name)}"`;
}

/** Where a backup went. */
export interface Destination {
  target: string;
  /** What its file system has left; null where that can't be told. */
  freeBytes: number | null;
}

/**
 * The result of `backup`. Why a disk has its level or failed, and what the warnings are, the log has said by
 * then.
 */
export function backupText(
  record: RunRecord,
  destination: Destination,
  columns = Infinity,
): string {
  const rows = record.disks.map(({ name, level, bytesWritten, file, result }) => [
    name,
    level,
    result,
    result === "done" ? size(bytesWritten) : "-",
    result === "done" ? file : "-",
  ]);
  return [
    `Backup ${record.id} of ${vmText(record.vm.name)}: ${record.state}\n`,
    table([["DISK", "LEVEL", "RESULT", "WRITTEN", "FILE"], ...rows], columns),
    record.pointInTime === null
      ? ""
      : `Point in time: ${localTime(new Date(record.pointInTime))}, ${holdText(record.hold)}\n`,
    ...record.leftOut.filter(({ unasked }) => unasked !== true).map(({ device, reason }) =>
      `Left out: ${printable(device)}, ${printable(reason)}\n`
    ),
    sumText(record, destination),
  ].join("");
}

/** "3 of 3 disks, 451 MiB in 0:36 (12.5 MiB/s) to /backup/vm1, 78 GiB free". */
function sumText(record: RunRecord, { target, freeBytes }: Destination): string {
  const done = record.disks.filter(({ result }) => result === "done");
  const bytes = done.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0);
  const seconds = record.finished === null
    ? 0
    : (Date.parse(record.finished) - Date.parse(record.started)) / 1000;
  const disks = `${done.length} of ${record.disks.length} ${
    record.disks.length === 1 ? "disk" : "disks"
  }`;
  const speed = bytes > 0 && seconds > 0 ? ` (${size(bytes / seconds)}/s)` : "";
  const free = freeBytes === null ? "" : `, ${size(freeBytes)} free`;
  return `${disks}, ${size(bytes)} in ${clock(seconds)}${speed} to ${printable(target)}${free}\n`;
}

function holdText({ kind, pausedMs, frozenMs }: RunRecord["hold"]): string {
  const frozen = frozenMs === null ? "" : `, file systems frozen for ${frozenMs} ms`;
  if (kind === "stop") return `guest paused for ${pausedMs} ms${frozen}`;
  return (kind === "none" ? "guest not paused" : "guest was paused already") + frozen;
}

/** The result of `restore merge`. */
export function restoreText(restored: Restored[], columns = Infinity): string {
  const rows = restored.map(({ disk, pointInTime, images, virtualSizeBytes, targetFile }) => [
    disk,
    localTime(new Date(pointInTime)),
    String(images),
    size(virtualSizeBytes),
    targetFile,
  ]);
  return table([["DISK", "POINT IN TIME", "IMAGES", "SIZE", "FILE"], ...rows], columns);
}

/** The result of `info --show blockdev`. */
export function disksText(disks: Disk[], leftOut: LeftOut[], columns = Infinity): string {
  const rows = disks.map(({ name, format, virtualSizeBytes, id, source, bitmaps }) => [
    name,
    format,
    size(virtualSizeBytes),
    id,
    source,
    bitmaps.map((bitmap) => bitmap.name).join(" ") || "-",
  ]);
  return [
    table([["DISK", "FORMAT", "SIZE", "DEVICE", "FILE", "BITMAPS"], ...rows], columns),
    ...leftOut.map(({ device, reason }) =>
      `No disk to back up: ${printable(device)}, ${printable(reason)}\n`
    ),
  ].join("");
}

/** The disks as `--json` and `--show bitmaps` tell them. */
export function diskJson({ name, id, node, device, source, format, virtualSizeBytes }: Disk) {
  return { name, id, node, device, source, format, virtualSizeBytes };
}

/** The result of `info --show bitmaps`: JSON in any case, as the reference prints it. */
export function bitmapsJson(disks: Disk[]) {
  return disks.map((disk) => ({
    ...diskJson(disk),
    bitmaps: disk.bitmaps.map(({ countBytes, granularityBytes, ...bitmap }) => ({
      ...bitmap,
      count: countBytes,
      granularity: granularityBytes,
    })),
  }));
}

/** A run as `info --show backups --json` tells it. */
export function runJson(run: RunRecord, states: ImageStates) {
  const disks = run.disks.map((disk) => {
    const { state, reason } = states.get(disk) ?? { state: null, reason: null };
    return { ...disk, image: state, imageReason: reason };
  });
  return { ...run, disks };
}

/** A VM of a list, as `info --json` tells it. */
export function healthJson({ path, vm, health, ageMs, reason, lastRun, lastComplete }: VmHealth) {
  return {
    path,
    vm,
    health,
    reason,
    ageSeconds: ageMs === null ? null : Math.floor(ageMs / 1000),
    lastRun: lastRun?.run.id ?? null,
    lastComplete: lastComplete?.run.id ?? null,
  };
}

/** What is there of what is done. */
function resultText(disk: DiskRecord, states: ImageStates): string {
  const { state } = states.get(disk) ?? PRESENT;
  return state === "present" ? disk.result : state;
}

/** Why it is not restored: what is missing or replaced needs no words. */
function faultOf(disk: DiskRecord, states: ImageStates): string {
  const { state, reason } = states.get(disk) ?? PRESENT;
  return state === "changed" || state === "unreadable" ? `the image ${reason}` : "";
}

/** The result of `info --show backups --all`: every image, with what it builds on. */
export function imagesText(
  { chainId, runs }: Pick<Target, "chainId" | "runs">,
  states: ImageStates = new Map(),
  columns = Infinity,
): string {
  const rows = runs.flatMap((run) => {
    const time = localTime(new Date(run.pointInTime ?? run.started));
    // It failed before it knew its disks.
    if (run.disks.length === 0) {
      return [[time, "-", run.level, run.state, "-", "-", "-", run.id, run.error ?? ""]];
    }
    return run.disks.map((disk) => [
      time,
      disk.name,
      disk.level,
      resultText(disk, states),
      disk.result === "done" ? size(disk.bytesWritten) : "-",
      // It was committed into a later one, and is no longer there.
      disk.result === "superseded" ? "-" : disk.file,
      disk.parent ?? "-",
      run.id,
      disk.error ?? faultOf(disk, states),
    ]);
  });
  const titles = [
    "POINT IN TIME",
    "DISK",
    "LEVEL",
    "RESULT",
    "WRITTEN",
    "FILE",
    "BUILDS ON",
    "RUN",
  ];
  // If everything went well, there is nothing to explain.
  const hasReasons = rows.some((row) => row.at(-1) !== "");
  return [
    `Chain ${chainId ?? "(none)"}, ${runs.length} ${runs.length === 1 ? "run" : "runs"}\n`,
    table(
      hasReasons ? [[...titles, "WHY"], ...rows] : [titles, ...rows.map((r) => r.slice(0, -1))],
      columns,
    ),
  ].join("");
}
