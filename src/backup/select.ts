/**
 * Which of the guest's disks a backup takes, and why it leaves out the others. Pure.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import type { Disk, LeftOut } from "../vm/disks.ts";
import type { BackupRequest } from "./request.ts";

/**
 * Sorts the disks by what was asked for.
 *
 * @throws {UsageError} If a name matches no disk, or no disk is left.
 */
export function selectDisks(
  disks: Disk[],
  leftOutAnyway: LeftOut[],
  request: Pick<BackupRequest, "include" | "exclude" | "includeRaw">,
): { selected: Disk[]; leftOut: LeftOut[] } {
  for (const name of request.include) refuseUnknown(name, disks);
  // A drive that is empty tonight may well be excluded.
  const isLeftOut = (name: string) => leftOutAnyway.some(({ device }) => device === name);
  for (const name of request.exclude) if (!isLeftOut(name)) refuseUnknown(name, disks);
  const selected: Disk[] = [];
  const leftOut: LeftOut[] = [];
  for (const disk of disks) {
    const reason = reasonAgainst(disk, request);
    if (reason) leftOut.push({ device: disk.name, reason });
    else selected.push(disk);
  }
  if (selected.length === 0) {
    const reasons = leftOut.map(({ device, reason }) => `"${device}" ${reason}`).join("; ");
    throw new UsageError(`No disk is left to back up${reasons && `: ${reasons}`}`);
  }
  refuseOneNode(selected);
  return { selected, leftOut };
}

/** Two devices may share a node (`share-rw`); what a backup puts under one of them the other goes past. */
function refuseOneNode(selected: Disk[]) {
  for (const [i, disk] of selected.entries()) {
    const other = selected.slice(0, i).find(({ node }) => node === disk.node);
    if (!other) continue;
    throw new UsageError(
      `The devices "${other.id}" and "${disk.id}" share the node "${disk.node}", under which nothing can ` +
        `be put then: leave it out with --exclude ${disk.node}`,
    );
  }
}

function reasonAgainst(
  disk: Disk,
  { include, exclude, includeRaw }: Pick<BackupRequest, "include" | "exclude" | "includeRaw">,
): string | null {
  const named = (names: string[]) => names.some((name) => answersTo(disk, name));
  if (include.length > 0) return named(include) ? null : "not named by --include";
  if (named(exclude)) return "named by --exclude";
  if (disk.format !== "qcow2" && !includeRaw && !isFlash(disk)) {
    return `format ${disk.format}: --include-raw or --include takes it`;
  }
  return null;
}

/** UEFI variables: raw, but small, and a guest may not start without them. */
function isFlash({ id }: Disk): boolean {
  return /\.flash\d+$/.test(id);
}

function answersTo(disk: Disk, name: string): boolean {
  return [disk.name, disk.node, disk.rootNode, disk.device, disk.id].includes(name);
}

function refuseUnknown(name: string, disks: Disk[]) {
  if (disks.some((disk) => answersTo(disk, name))) return;
  const known = disks.map((disk) => `"${disk.name}"`).join(", ");
  throw new UsageError(`No disk is called "${name}"; there are ${known || "none"}`);
}
