/**
 * Why a disk could not be copied: its own storage, the fleece, or the target. Pure.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { GuestError } from "../qmp/block_errors.ts";
import type { DiskPlan } from "../plan/plan.ts";

export interface CopyFault {
  /** What the job could not do; null where QEMU did not tell. */
  operation: "read" | "write" | null;
  /** The system's words; null where they are not known. */
  reason: string | null;
  /** An error that the guest got from this disk meanwhile. */
  guest: GuestError | null;
  /** What its file systems tell: one is full, or does not answer. */
  why: string[];
}

/** The sentence for a copy that was given up since it made no progress. */
export function stalled({ disk }: DiskPlan, image: string, stallTimeoutMs: number): Failure {
  return new Failure(
    `The copy of "${disk.name}" to "${image}" has made no progress for ${
      stallTimeoutMs / 1000
    } s ` +
      "(--stall-timeout). Check whether the storage of the target is still there",
  );
}

/** What reads of a snapshot that was given up end with (EACCES, strerror(3)). No disk says that. */
const BROKEN = "Permission denied";

/** The sentences for a disk that could not be copied, the likely cause first. */
export function explainCopy(
  { disk, fleeceFile, cbwTimeoutSeconds }: DiskPlan,
  image: string,
  direct: boolean,
  { operation, reason, guest, why }: CopyFault,
): string {
  const copied = `The disk "${disk.name}" could not be copied to "${image}"`;
  const heard = guest
    ? [`The guest could not ${guest.operation} this disk either: ${guest.reason}`]
    : [];
  if (operation !== "read") {
    const target = operation === "write" && why.length === 0
      ? ["The target could not be written: check its storage"]
      : [];
    return [`${copied}: ${reason ?? "QEMU does not say why"}`, ...why, ...target].join(". ");
  }
  if (!direct && (reason === BROKEN || why.length > 0)) {
    const limit = cbwTimeoutSeconds === null ? "" : `, or took more than ${cbwTimeoutSeconds} s`;
    const lost = `what the guest overwrote meanwhile could not be kept in "${fleeceFile}"`;
    const likely = why.length > 0
      ? why
      : [`Its storage failed${limit}, or the disk could not be read where the guest wrote`];
    return [`${copied}: ${lost}`, ...likely, ...heard].join(". ");
  }
  return [
    `The disk "${disk.name}" can't be read: ${reason ?? "QEMU does not say why"}`,
    `Check its storage, "${disk.source}"`,
    ...heard,
    ...why,
    ...(direct
      ? []
      : [`Less likely: "${fleeceFile}", which keeps what the guest overwrites, can't be read`]),
  ].join(". ");
}
