/**
 * What `restore rollback` says. Pure.
 *
 * @module
 */

import type { Rollback } from "../../rollback/rollback.ts";
import { localTime } from "../../time.ts";
import { printable, size, table } from "./text.ts";

/** What was written to each disk, or would be. */
export function rolledBackText(rollback: Rollback, columns: number): string {
  const { state, run, pointInTime, safetyBackup, isReset, isRunning } = rollback;
  const isPlanned = state === "planned";
  const rows = rollback.disks.map((disk) => [
    printable(disk.disk),
    printable(disk.point),
    size(disk.changedBytes),
    size(disk.virtualSizeBytes),
    printable(disk.file),
  ]);
  const head = ["DISK", "POINT", isPlanned ? "TO WRITE" : "WRITTEN", "SIZE", "FILE"];
  const guest = isReset ? ", and was reset" : "";
  return [
    `The run ${run} of ${localTime(new Date(pointInTime))}\n`,
    table([head, ...rows], columns),
    ...(safetyBackup === null
      ? []
      : [`What the disks held before is in the run ${safetyBackup}\n`]),
    ...(isPlanned ? [] : [`The guest ${isRunning ? "runs" : "is stopped"}${guest}\n`]),
  ].join("");
}
