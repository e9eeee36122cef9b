/**
 * The results of each subcommand, as text for people and as JSON for programs. Pure.
 *
 * @module
 */

import type { DiskRecord, RunRecord } from "../../repo/record.ts";
import type { Target } from "../../repo/repository.ts";
import type { Disk, LeftOut } from "../../vm/disks.ts";
import type { Restored } from "../../restore/merge.ts";
import { localTime } from "../../time.ts";
import { printable, printableJson, size, table } from "./text.ts";

/** One line of `--json` output. */
export function jsonLine(messageType: string, content: object): string {
  return printableJson({ message_type: messageType, ...content }) + "\n";
}

/** QEMU's `-name` is optional. */
function vmText(name: string): string {
  return name === "" ? "a VM without a name" : `the VM "${printable(name)}"`;
}

/** The result of `backup`. */
export function backupText(record: RunRecord): string {
  const rows = record.disks.map(({ name, level, bytesWritten, file, result, reason, error }) => [
    name,
    level,
    result,
    result === "done" ? size(bytesWritten) : "-",
    result === "done" ? file : "-",
    error ?? reason,
  ]);
  return [
    `Backup ${record.id} of ${vmText(record.vm.name)}: ${record.state}\n`,
    table([["DISK", "LEVEL", "RESULT", "WRITTEN", "FILE", "WHY"], ...rows]),
    record.pointInTime === null
      ? ""
      : `Point in time: ${localTime(new Date(record.pointInTime))}, ${holdText(record.hold)}\n`,
    ...record.leftOut.map(({ device, reason }) =>
      `Left out: ${printable(device)}, ${printable(reason)}\n`
    ),
    ...record.warnings.map((warning) => `Warning: ${printable(warning)}\n`),
  ].join("");
}

function holdText({ kind, pausedMs, frozenMs }: RunRecord["hold"]): string {
  const frozen = frozenMs === null ? "" : `, file systems frozen for ${frozenMs} ms`;
  if (kind === "stop") return `guest paused for ${pausedMs} ms${frozen}`;
  return (kind === "none" ? "guest not paused" : "guest was paused already") + frozen;
}

/** The result of `restore merge`. */
export function restoreText(restored: Restored[]): string {
  const rows = restored.map(({ disk, pointInTime, images, virtualSizeBytes, targetFile }) => [
    disk,
    localTime(new Date(pointInTime)),
    String(images),
    size(virtualSizeBytes),
    targetFile,
  ]);
  return table([["DISK", "POINT IN TIME", "IMAGES", "SIZE", "FILE"], ...rows]);
}

/** The result of `info --show blockdev`. */
export function disksText(disks: Disk[], leftOut: LeftOut[]): string {
  const rows = disks.map(({ name, format, virtualSizeBytes, id, source, bitmaps }) => [
    name,
    format,
    size(virtualSizeBytes),
    id,
    source,
    bitmaps.map((bitmap) => bitmap.name).join(" ") || "-",
  ]);
  return [
    table([["DISK", "FORMAT", "SIZE", "DEVICE", "FILE", "BITMAPS"], ...rows]),
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

/** How it stands with an image that a record promises, and why. */
export interface ImageState {
  state: "present" | "missing" | "changed" | "unreadable" | "replaced";
  reason: string | null;
}
export type ImageStates = ReadonlyMap<DiskRecord, ImageState>;

export const PRESENT: ImageState = { state: "present", reason: null };
export const REPLACED: ImageState = {
  state: "replaced",
  reason: "was replaced by a later backup (--no-timestamp)",
};

/** A run as `info --show backups --json` tells it. */
export function runJson(run: RunRecord, states: ImageStates) {
  const disks = run.disks.map((disk) => {
    const { state, reason } = states.get(disk) ?? { state: null, reason: null };
    return { ...disk, image: state, imageReason: reason };
  });
  return { ...run, disks };
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

/** The result of `info --show backups`. */
export function backupsText({ chainId, runs }: Target, states: ImageStates = new Map()): string {
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
      disk.file,
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
    ),
  ].join("");
}
