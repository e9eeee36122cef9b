/**
 * What is not in a backup, and whether the user has to be told. If users may count on it and did not leave it out
 * themselves, it is a warning. Pure.
 *
 * @module
 */

import type { DiskRecord, RunRecord } from "../repo/record.ts";
import type { Disk, LeftOut } from "../vm/disks.ts";
import type { BackupRequest } from "./request.ts";

/** What the user chose of the disks. */
export type Choice = Pick<BackupRequest, "include" | "exclude">;

/** Takes the mark off those that the user chose to leave out. */
export function afterChoice(leftOut: LeftOut[], { include, exclude }: Choice): LeftOut[] {
  return leftOut.map((item) => {
    const isChosen = include.length > 0 || exclude.includes(item.device);
    const { unasked: _, ...chosen } = item;
    return isChosen ? chosen : item;
  });
}

/** The warning for each device that was left out without being asked to. */
export function leftOutWarnings(leftOut: LeftOut[]): string[] {
  return leftOut.filter(({ unasked }) => unasked === true).map(({ device, reason }) =>
    `"${device}" is not in this backup: ${reason}. If that is intended, say so with --exclude ${device}`
  );
}

/**
 * Adds the disks of the last run that the VM does not have any more, or that can't be backed up any more.
 *
 * @param runs The target's, in order.
 * @param chainIds For each disk of the VM the id under which its last backup is recorded.
 * @param leftOut What is left out of this run otherwise.
 */
export function withMissing(
  runs: RunRecord[],
  disks: Disk[],
  chainIds: (string | undefined)[],
  leftOut: LeftOut[],
): LeftOut[] {
  const ids = new Set([...disks.map(({ id }) => id), ...chainIds]);
  // Another device may have the image now, or another image the name.
  const isPresent = (row: DiskRecord) =>
    ids.has(row.id) || disks.some(({ source, name }) => source === row.source || name === row.name);
  const missing = disksOfLastRun(runs).filter((row) => !isPresent(row));
  const names = new Set(missing.map(({ name }) => name));
  const known = leftOut.map((item): LeftOut =>
    names.delete(item.device)
      ? { ...item, reason: `it was in the last backup, but is now: ${item.reason}`, unasked: true }
      : item
  );
  const gone = [...names].map((name): LeftOut => ({
    device: name,
    reason: "it was in the last backup, but the VM does not have this disk any more",
    unasked: true,
    gone: true,
  }));
  return [...known, ...gone];
}

/**
 * The disks of the last run, and those of earlier runs that it was told to leave out: after a run of one disk alone
 * the others are still expected.
 */
function disksOfLastRun(runs: RunRecord[]): DiskRecord[] {
  // A run that failed early has no disks.
  const [last, ...earlier] = runs.filter(({ disks }) => disks.length > 0).toReversed();
  if (!last) return [];
  const found = [...last.disks];
  const sought = new Set(
    last.leftOut.filter(({ unasked }) => unasked !== true).map(({ device }) => device),
  );
  for (const { disks } of earlier) {
    found.push(...disks.filter(({ name }) => sought.delete(name)));
  }
  return found;
}
