/**
 * What a prune does, as text for people and as JSON for programs. Pure.
 *
 * @module
 */

import type { PrunePlan } from "../../prune/prune.ts";
import { localTime } from "../../time.ts";
import { size, table } from "./text.ts";

/** What becomes of a run's points. */
export interface PrunedPoint {
  run: string;
  target: string;
  pointInTime: string;
  disks: string[];
  state: "kept" | "removed";
  /** The rules that keep it, and what else does. */
  keptBy: string[];
  note: string | null;
}

/** Taken before the plan is carried out, which changes the records. */
export function prunePoints({ verdicts }: PrunePlan): PrunedPoint[] {
  return verdicts.map(({ point: { run, target, points, mark, timeMs }, reasons }) => ({
    run: run.id,
    target,
    pointInTime: new Date(timeMs).toISOString(),
    disks: points.map(({ disk }) => disk.name),
    state: reasons.length > 0 ? "kept" : "removed",
    keptBy: reasons,
    note: mark.note,
  }));
}

/** The table, and what it wins. */
export function pruneText(points: PrunedPoint[], wonBytes: number, isDryRun: boolean): string {
  const rows = points.map(({ pointInTime, run, disks, state, keptBy, note }) => [
    localTime(new Date(pointInTime)),
    run,
    disks.join(" "),
    state === "kept" ? "kept" : isDryRun ? "goes" : "removed",
    keptBy.join(", ") || "-",
    note ?? "",
  ]);
  const titles = ["POINT IN TIME", "RUN", "DISKS", "STATE", "KEPT BY", "NOTE"];
  const columns = rows.some((row) => row.at(-1) !== "") ? titles.length : titles.length - 1;
  const removed = points.filter(({ state }) => state === "removed").length;
  const won = wonBytes < 0 ? `${size(-wonBytes)} more are used` : `${size(wonBytes)} freed`;
  return table([titles, ...rows].map((row) => row.slice(0, columns))) +
    (isDryRun
      ? `${removed} of ${points.length} points would be removed, about ${won}\n`
      : `${removed} of ${points.length} points removed, ${won}\n`);
}
