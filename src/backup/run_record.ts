/**
 * The record of a run, as it is begun, and as it is closed when the run has failed. Pure.
 *
 * @module
 */

import { type DiskRecord, RECORD_HEAD, type RunRecord } from "../repo/record.ts";
import { messageOf, StoppedError } from "../errors.ts";
import type { Machine } from "../machine/machine.ts";
import type { QmpClient } from "../qmp/client.ts";
import type { DiskPlan, Plan } from "../plan/plan.ts";

/** What the record says of the surroundings of a run. */
export interface RecordContext {
  qmp: Pick<QmpClient, "version">;
  toolVersion: string;
  warnings: string[];
  machine: Machine | null;
}

/** The record of a run that is about to begin. */
export function draftRecord(
  plan: Plan,
  { qmp, toolVersion, warnings, machine }: RecordContext,
): RunRecord {
  const { save } = plan.request;
  return {
    ...RECORD_HEAD,
    id: plan.runId,
    sequence: plan.sequence,
    level: plan.request.level,
    state: "running",
    chain: plan.chainId,
    started: plan.startedAt.toISOString(),
    pointInTime: null,
    finished: null,
    tool: toolVersion,
    qemu: qmp.version,
    vm: plan.vm,
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks: plan.disks.map((disk) => draftDisk(disk, plan.request)),
    leftOut: plan.leftOut,
    warnings: [...warnings],
    ...(machine ? { machine } : {}),
    ...(save.length > 0
      ? { saved: save.map(({ name, contents }) => ({ name, sizeBytes: contents.length })) }
      : {}),
  };
}

function draftDisk(disk: DiskPlan, { encrypt }: Plan["request"]): DiskRecord {
  return {
    id: disk.disk.id,
    name: disk.disk.name,
    folder: disk.folder,
    source: disk.disk.source,
    format: disk.disk.format,
    node: disk.disk.node,
    level: disk.level,
    reason: disk.reason,
    bitmap: disk.nextBitmap,
    granularityBytes: disk.nextBitmap === null ? null : disk.granularityBytes,
    sentinel: disk.sentinel,
    backing: disk.disk.backing,
    fleece: disk.fleeceFile,
    file: disk.file,
    parent: disk.parent,
    unrecorded: disk.unrecorded,
    virtualSizeBytes: disk.disk.virtualSizeBytes,
    bytesWritten: 0,
    ...(encrypt ? { encrypted: true } : {}),
    result: "pending",
    error: null,
  };
}

/** What is kept of the source, beside the images. */
export function configText({ disk }: DiskPlan): string {
  return JSON.stringify(disk.image, null, 2) + "\n";
}

/** Closes the record of a run that was given up: no disk of it is done. */
export function failAll(record: RunRecord, error: unknown, leftovers: string[]): void {
  const cancelled = error instanceof StoppedError;
  record.state = cancelled ? "cancelled" : "failed";
  record.finished = new Date().toISOString();
  record.error = messageOf(error);
  record.warnings.push(...leftovers);
  for (const row of record.disks) {
    row.result = cancelled ? "cancelled" : "failed";
    row.error ??= messageOf(error);
  }
}
