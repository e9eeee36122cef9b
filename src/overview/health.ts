/**
 * Whether a VM has a backup that is new enough, and what became of its last run. Pure.
 *
 * @module
 */

import { restorePoints } from "../repo/chains.ts";
import { runsWithPoints } from "../repo/complete_run.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import { span } from "../time.ts";
import { runsOf, type VmBackups, vmName } from "./find.ts";
import type { ImageStates } from "./image_states.ts";
import { type Night, nightsOf } from "./nights.ts";

/** The worst first. */
export const HEALTHS = ["unreadable", "never", "broken", "old", "failed", "warned", "ok"] as const;
export type Health = typeof HEALTHS[number];

export interface VmHealth {
  path: string;
  /** Its path in the folder that was asked for. */
  name: string;
  vm: string;
  health: Health;
  lastRun: Night | null;
  /** The newest run in which all disks are done. */
  lastComplete: Night | null;
  /** How old the newest complete backup is; null if there is none. */
  ageMs: number | null;
  /** A sentence about what is wrong; empty if nothing is. */
  reason: string;
}

/** The newest run that has all disks: what a restore takes if nothing else is said. */
export function lastCompleteRun(backups: Pick<VmBackups, "targets">): RunRecord | undefined {
  return runsToRestore(backups).findLast(({ lacking }) => lacking.length === 0)?.run;
}

function runsToRestore({ targets }: Pick<VmBackups, "targets">) {
  return runsWithPoints(targets.flatMap(({ runs }) => restorePoints(runs)));
}

/** The worst first; of the same kind, those whose backup is older. */
export function worstFirst(all: readonly VmHealth[]): VmHealth[] {
  const rank = ({ health }: VmHealth) => HEALTHS.indexOf(health);
  return all.toSorted((a, b) =>
    rank(a) - rank(b) || (b.ageMs ?? 0) - (a.ageMs ?? 0) || a.name.localeCompare(b.name, "en")
  );
}

/**
 * How it stands with a VM's backups.
 *
 * @param states What was seen of the images that the newest complete run needs.
 * @param maxAgeMs How old that run may be; null for any age.
 */
export function healthOf(
  backups: VmBackups,
  states: ImageStates,
  { nowMs, maxAgeMs }: { nowMs: number; maxAgeMs: number | null },
): VmHealth {
  const runs = runsOf(backups);
  const nights = nightsOf(runs, states);
  const last = nights.at(-1) ?? null;
  const toRestore = runsToRestore(backups);
  const completeRun = toRestore.findLast(({ lacking }) => lacking.length === 0)?.run;
  const complete = nights.find(({ run }) => run === completeRun) ?? null;
  const ageMs = complete && Math.max(0, nowMs - complete.timeMs);
  const [health, reason] = judge();
  return {
    path: backups.path,
    name: backups.name,
    vm: vmName(backups),
    health,
    lastRun: last,
    lastComplete: complete,
    ageMs,
    reason,
  };

  function judge(): [Health, string] {
    if (backups.error !== null) return ["unreadable", backups.error];
    if (backups.targets.length === 0) {
      return ["never", "no run is recorded (the Python qmpbackup?)"];
    }
    const lacking = toRestore.find(({ run }) => run === last?.run)?.lacking ?? [];
    const lastWords = last?.notes.join("; ") ||
      lacking.map(({ disk, why }) => `${disk} ${why}`).join(", ");
    if (complete === null || ageMs === null) {
      const words = toRestore.length > 0 ? ["no run has all disks"] : [];
      return ["never", [...words, lastWords].filter((text) => text !== "").join("; ")];
    }
    const fault = [...states].find(([, { state }]) => state !== "present");
    if (fault) return ["broken", faultWords(fault[0], fault[1].reason)];
    if (maxAgeMs !== null && ageMs > maxAgeMs) {
      const words = `older than ${span(maxAgeMs)}`;
      return ["old", last === complete || !lastWords ? words : `${words}; ${lastWords}`];
    }
    if (last !== complete) return ["failed", lastWords];
    return lastWords ? ["warned", lastWords] : ["ok", ""];
  }
}

function faultWords({ file }: DiskRecord, reason: string | null): string {
  return `the image "${file}" ${reason}`;
}
