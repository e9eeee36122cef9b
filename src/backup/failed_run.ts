/**
 * The record of a run that failed before it knew what to back up: the VM was off, say, or the target too
 * full. It has no disks, so it changes no chain. It says why there is no backup of
 * that night.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { RECORD_HEAD, type RunRecord } from "../repo/record.ts";
import { readTarget, type Target, writeRun } from "../repo/repository.ts";
import { exitCodeOf, messageOf, StoppedError } from "../errors.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import type { BackupRequest } from "../plan/request.ts";

const log = getLogger(["qmpbackup", "backup"]);

/** What is known of a run that failed. */
export interface FailedRun {
  id: string;
  startedAt: Date;
  toolVersion: string;
  /** QEMU's version; empty where it could not be asked. */
  qemu: string;
  /** Null where QEMU could not be asked. */
  vm: VmIdentity | null;
}

/** Wrong usage, such as another VM's target, and a run that found another one at work. */
const UNRECORDED_EXIT_CODES = [2, 11];

/**
 * Records a run that failed, unless it has a record already; the target is locked. A record that can't be
 * written is a warning.
 */
export async function recordFailure(
  deadline: Deadline,
  request: BackupRequest,
  run: FailedRun,
  error: unknown,
): Promise<void> {
  if (UNRECORDED_EXIT_CODES.includes(exitCodeOf(error))) return;
  try {
    const target = await readTarget(deadline, request.target);
    if (target.runs.some(({ id }) => id === run.id)) return;
    const record = failedRecord(target, request, run, error, new Date());
    await writeRun(deadline, request.target, record, request.mode);
  } catch (later) {
    log.warn("The failed run could not be recorded: {words}", { words: messageOf(later) });
  }
}

/** Much longer than any sentence of ours: it may quote what QEMU said. */
const MAX_ERROR_LENGTH = 2_000;

/** The record. Where QEMU could not be asked, the VM is the one of the records before. Pure. */
export function failedRecord(
  target: Pick<Target, "chainId" | "runs">,
  request: Pick<BackupRequest, "level" | "uuid">,
  run: FailedRun,
  error: unknown,
  now: Date,
): RunRecord {
  const last = target.runs.findLast(({ disks }) => disks.length > 0) ?? target.runs.at(-1);
  return {
    ...RECORD_HEAD,
    id: run.id,
    sequence: Math.max(0, ...target.runs.map(({ sequence }) => sequence)) + 1,
    level: request.level,
    state: error instanceof StoppedError ? "cancelled" : "failed",
    chain: target.chainId ?? last?.chain ?? request.uuid ?? run.id,
    started: run.startedAt.toISOString(),
    pointInTime: null,
    finished: now.toISOString(),
    tool: run.toolVersion,
    qemu: run.qemu,
    vm: run.vm ?? last?.vm ?? { name: "", uuid: "" },
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks: [],
    leftOut: [],
    warnings: [],
    error: messageOf(error).slice(0, MAX_ERROR_LENGTH),
  };
}
