/**
 * Which of the guest's disks a backup takes, and why it leaves out the others. Pure.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import { type Disk, EMPTY, type LeftOut, READ_ONLY } from "../vm/disks.ts";
import type { Choice } from "./skipped.ts";
import type { BackupRequest } from "./request.ts";

/** Why a disk is left out that was not asked for. */
export const NOT_INCLUDED = "not named by --include";

/**
 * Sorts the disks by what was asked for.
 *
 * @param leftOutAnyway What can never be backed up.
 * @param recorded The names of the disks in earlier backups, which may be excluded when they are gone.
 * @throws {UsageError} If a name matches no disk, or no disk is left.
 */
export function selectDisks(
  disks: Disk[],
  leftOutAnyway: LeftOut[],
  request: Pick<BackupRequest, "include" | "exclude" | "includeRaw">,
  recorded: string[] = [],
): { selected: Disk[]; leftOut: LeftOut[] } {
  for (const name of request.include) {
    refuseLeftOut(name, disks, leftOutAnyway);
    refuseUnknown(name, disks);
  }
  // A drive that is empty tonight may well be excluded.
  const isKnown = (name: string) =>
    recorded.includes(name) || leftOutAnyway.some(({ device }) => device === name);
  for (const name of request.exclude) if (!isKnown(name)) refuseUnknown(name, disks);
  const selected: Disk[] = [];
  const leftOut: LeftOut[] = [];
  for (const disk of disks) {
    const choice = choiceAgainst(disk, request);
    if (choice !== null) leftOut.push({ device: disk.name, reason: choice });
    else if (isTaken(disk, request)) selected.push(disk);
    else leftOut.push({ device: disk.name, reason: rawReason(disk), unasked: true });
  }
  refuseNone(selected, [...leftOut, ...leftOutAnyway]);
  refuseOneNode(selected);
  return { selected, leftOut };
}

function refuseNone(selected: Disk[], leftOut: LeftOut[]) {
  if (selected.length > 0) return;
  const reasons = leftOut.map(({ device, reason }) => `"${device}" ${reason}`).join("; ");
  const isReadOnly = leftOut.some(({ reason }) => reason === READ_ONLY) &&
    leftOut.every(({ reason }) => [READ_ONLY, EMPTY].includes(reason));
  const what = isReadOnly
    ? "All disks of the VM are read-only, and there is nothing to back up"
    : "No disk is left to back up";
  throw new UsageError(`${what}${reasons && `: ${reasons}`}`);
}

/** Two devices may share a node (`share-rw`). A filter under one of them would not see the writes of the other. */
function refuseOneNode(selected: Disk[]) {
  for (const [i, disk] of selected.entries()) {
    const other = selected.slice(0, i).find(({ node }) => node === disk.node);
    if (!other) continue;
    throw new UsageError(
      `The devices "${other.id}" and "${disk.id}" share the node "${disk.node}", so neither can be ` +
        `backed up: leave it out with --exclude ${disk.node}`,
    );
  }
}

/** Why the user does not want a disk; null if they do, or did not say. */
function choiceAgainst(disk: Disk, { include, exclude }: Choice): string | null {
  const named = (names: string[]) => names.some((name) => answersTo(disk, name));
  if (include.length > 0) return named(include) ? null : NOT_INCLUDED;
  return named(exclude) ? "named by --exclude" : null;
}

/** Raw disks are taken only if that was asked for. */
function isTaken(
  disk: Disk,
  { include, includeRaw }: Pick<BackupRequest, "include" | "includeRaw">,
): boolean {
  return disk.format === "qcow2" || include.length > 0 || includeRaw || isFlash(disk);
}

function rawReason({ format }: Disk): string {
  return `format ${format}: --include-raw or --include takes it`;
}

/** UEFI variables: raw, but small, and a guest may not start without them. */
function isFlash({ id }: Disk): boolean {
  return /\.flash\d+$/.test(id);
}

function answersTo(disk: Disk, name: string): boolean {
  return [disk.name, disk.node, disk.rootNode, disk.device, disk.id].includes(name);
}

function refuseLeftOut(name: string, disks: Disk[], leftOut: LeftOut[]) {
  if (disks.some((disk) => answersTo(disk, name))) return;
  const known = leftOut.find(({ device }) => device === name);
  if (known) throw new UsageError(`"${name}" can't be backed up: ${known.reason}`);
}

function refuseUnknown(name: string, disks: Disk[]) {
  if (disks.some((disk) => answersTo(disk, name))) return;
  const known = disks.map((disk) => `"${disk.name}"`).join(", ");
  throw new UsageError(`No disk is called "${name}"; there are ${known || "none"}`);
}
