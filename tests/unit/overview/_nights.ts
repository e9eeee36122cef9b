/** Sixty nights of a VM of three disks, as a `--monthly` target has them, with all that can go wrong. */

import type { DiskRecord, RunRecord } from "../../../src/repo/record.ts";
import type { Target } from "../../../src/repo/repository.ts";
import { DAY_MS } from "../../../src/time.ts";
import { aDiskRecord, aRun, aTarget } from "../_fixtures.ts";

const MIB = 1 << 20;
const FIRST_NIGHT_MS = Date.UTC(2026, 8, 28, 1, 0, 4);
const DISKS = ["disk0", "disk1", "data"];

/** Nights on which nothing ran at all: the host was off. */
const HOST_OFF = [9, 10, 45];
const VM_OFF = [17, 33];
const NO_SPACE = [24];
const STOPPED = [40];
/** A new full backup in the middle of a month: the bitmaps were lost. */
const LOST_BITMAPS = [50];

/** The newest record is of this moment, eight hours before "now". */
export const NOW_MS = FIRST_NIGHT_MS + 59 * DAY_MS + 8 * 3600_000;

/** A target for each month. */
export function sixtyNights(path = "/backup/vm1"): Target[] {
  const months = new Map<string, RunRecord[]>();
  const lasts = new Map<string, DiskRecord>();
  for (let night = 0; night < 60; night++) {
    if (HOST_OFF.includes(night)) continue;
    const time = new Date(FIRST_NIGHT_MS + night * DAY_MS);
    const month = time.toISOString().slice(0, 7);
    const runs = months.get(month) ?? [];
    if (runs.length === 0) lasts.clear();
    months.set(month, [...runs, runOf(night, time, runs.length + 1, lasts)]);
  }
  return [...months].map(([month, runs]) => aTarget(runs, { path: `${path}/${month}` }));
}

function runOf(
  night: number,
  time: Date,
  sequence: number,
  lasts: Map<string, DiskRecord>,
): RunRecord {
  const started = time.toISOString();
  const head = { id: `night-${night}`, sequence, started, pointInTime: started };
  if (VM_OFF.includes(night)) {
    const error = 'The QMP socket "/run/vm1.qmp" does not exist: check that the VM runs';
    return aRun([], { ...head, pointInTime: null, state: "failed", error });
  }
  if (LOST_BITMAPS.includes(night)) lasts.clear();
  const disks = DISKS.map((name, i) => {
    const last = lasts.get(name);
    const seconds = time.getTime() / 1000;
    const disk = aDiskRecord(name, {
      level: last ? "inc" : "full",
      file: `${name}/${last ? "INC" : "FULL"}-${seconds}-${name}.qcow2`,
      parent: last?.file ?? null,
      bytesWritten: (last ? 40 + (night * 7 + i * 11) % 60 : (4 << 10) * (i + 1)) * MIB,
    });
    if (STOPPED.includes(night)) {
      return { ...disk, result: "cancelled" as const, error: "Stopped by SIGTERM" };
    }
    if (NO_SPACE.includes(night) && name === "data") {
      return { ...disk, result: "failed" as const, error: "No space left on device" };
    }
    lasts.set(name, disk);
    return disk;
  });
  const isDone = disks.every(({ result }) => result === "done");
  const state = isDone ? "done" : STOPPED.includes(night) ? "cancelled" : "failed";
  const warnings = night === 30 ? ["The guest's file systems are not frozen"] : [];
  return aRun(disks, { ...head, state, warnings });
}
