/**
 * What a list of runs says of each: level, size, disks, and in a few words what is not as it should be. Pure.
 *
 * @module
 */

import type { DiskRecord, RunRecord } from "../repo/record.ts";
import { NO_MARK, type RunMark } from "../repo/run_mark.ts";
import { DAY_MS } from "../time.ts";
import { type ImageStates, PRESENT } from "./image_states.ts";

/** A run's line. */
export interface Night {
  run: RunRecord;
  /** UTC milliseconds of its point in time, or of its start if it took none. */
  timeMs: number;
  /** "full", "inc", "copy", or "mixed"; what was asked for if nothing is done. */
  level: string;
  /** What the images take that are there. */
  sizeBytes: number;
  /** How many disks can be restored from this run, by its record and its images. */
  doneDisks: number;
  allDisks: number;
  /** Short words, the worst first: "failed: It is off", "disk1 missing". None if all is well. */
  notes: string[];
  /** Those of the notes that a user wrote: they say nothing bad of the run. */
  said: string[];
  /** How long there was no run before this one, if that is longer than usual. */
  gapMs: number | null;
}

/**
 * The lines of runs, the oldest first.
 *
 * @param disk Only what these runs hold of this disk; runs without it are left out.
 * @param marks What a user said of runs, by their ids.
 */
export function nightsOf(
  runs: readonly RunRecord[],
  states: ImageStates,
  disk: string | null = null,
  marks: ReadonlyMap<string, RunMark> = new Map(),
): Night[] {
  const wanted = disk === null ? runs : runs.map((run) => onlyDisk(run, disk))
    .filter(({ disks, state }) => disks.length > 0 || state !== "done");
  const usualMs = usualInterval(wanted.map(timeOf));
  const gone = goneBefore(runs);
  return wanted.map((run, i) => {
    const before = wanted[i - 1];
    const wasPruned = before && gone.get(before.id) !== gone.get(run.id);
    const gapMs = before && !wasPruned ? timeOf(run) - timeOf(before) : 0;
    const night = nightOf(run, states);
    const { isProtected, note } = marks.get(run.id) ?? NO_MARK;
    const said = [...(isProtected ? ["protected"] : []), ...(note === null ? [] : [`"${note}"`])];
    return {
      ...night,
      notes: [...night.notes, ...said],
      said,
      gapMs: gapMs > usualMs * 1.5 ? gapMs : null,
    };
  });
}

/** How often runs are gone before a run, by its id: numbers are missing. */
function goneBefore(runs: readonly RunRecord[]): Map<string, number> {
  let gone = 0;
  return new Map(runs.map(({ id, sequence }, i) => {
    if (i > 0 && sequence > (runs[i - 1]?.sequence ?? 0) + 1) gone++;
    return [id, gone];
  }));
}

function onlyDisk(run: RunRecord, name: string): RunRecord {
  return { ...run, disks: run.disks.filter((disk) => disk.name === name) };
}

function nightOf(run: RunRecord, states: ImageStates): Omit<Night, "gapMs" | "said"> {
  const there = run.disks.filter((disk) => isThere(disk, states));
  const levels = [...new Set(there.map(({ level }) => level))];
  return {
    run,
    timeMs: timeOf(run),
    level: levels.length > 1 ? "mixed" : levels[0] ?? run.level,
    sizeBytes: there.reduce((sum, { bytesWritten }) => sum + bytesWritten, 0),
    doneDisks: there.length,
    allDisks: run.disks.length,
    notes: notesOf(run, states),
  };
}

/** Whether a disk can be restored as this run left it, as far as its own image goes. */
export function isThere(disk: DiskRecord, states: ImageStates): boolean {
  return disk.result === "done" && (states.get(disk) ?? PRESENT).state === "present";
}

/** A run's point in time, or its start, in UTC milliseconds. */
export function timeOf({ pointInTime, started }: RunRecord): number {
  return Date.parse(pointInTime ?? started);
}

/** The usual time between two runs: the median, a day at least. */
export function usualInterval(timesMs: number[]): number {
  const intervals = timesMs.slice(1).map((time, i) => time - (timesMs[i] ?? time))
    .sort((a, b) => a - b);
  return Math.max(DAY_MS, intervals[Math.floor(intervals.length / 2)] ?? 0);
}

const STATE_WORDS: Record<RunRecord["state"], string> = {
  done: "",
  failed: "failed",
  cancelled: "stopped",
  running: "not finished",
};

const RESULT_WORDS: Record<DiskRecord["result"], string> = {
  done: "",
  failed: "failed",
  cancelled: "stopped",
  pending: "not finished",
  superseded: "merged into a later one",
};

/** What is not as it should be in a run, in a few words, the worst first. Add more states of a run here. */
function notesOf(run: RunRecord, states: ImageStates): string[] {
  const bad = run.disks.map((disk) => ({ disk, words: wordsOf(disk, states) }))
    .filter(({ words }) => words !== "");
  const reason = run.error ?? bad.find(({ disk }) => disk.error !== null)?.disk.error;
  const byWords = Map.groupBy(bad, ({ words }) => words);
  const head = run.disks.length === 0
    ? [STATE_WORDS[run.state]]
    : [...byWords].map(([words, ofIt]) =>
      `${ofIt.map(({ disk }) => disk.name).join(", ")} ${words}`
    );
  const unasked = run.leftOut.filter(({ unasked }) => unasked === true).length;
  const warnings = run.warnings.length;
  return [
    ...head.filter((words) => words !== "").map((words, i) =>
      i === 0 && reason ? `${words}: ${reason}` : words
    ),
    ...(unasked > 0 ? [`${unasked} left out`] : []),
    ...(warnings > unasked ? [warnings === 1 ? "1 warning" : `${warnings} warnings`] : []),
  ];
}

function wordsOf(disk: DiskRecord, states: ImageStates): string {
  if (disk.result !== "done") return RESULT_WORDS[disk.result];
  const { state } = states.get(disk) ?? PRESENT;
  return state === "present" ? "" : state;
}
