/**
 * The progress of a run: drawn in place on a terminal, a line now and then elsewhere.
 *
 * What is drawn is decided by pure functions; only `Progress` writes.
 *
 * @module
 */

import type { Io } from "./io.ts";
import { clock, printable, size } from "./text.ts";

/** How far one disk is. */
export interface Track {
  name: string;
  doneBytes: number;
  totalBytes: number;
  /** The latest looks at it, oldest first. */
  samples: { timeMs: number; doneBytes: number }[];
  /** It goes no further. */
  hasFailed?: true;
}

/** The rate is taken over this time: long enough to be calm, short enough to follow. */
const RATE_WINDOW_MS = 10_000;
/** A track with one more look at it. Pure. */
export function advance(
  track: Track,
  doneBytes: number,
  totalBytes: number,
  nowMs: number,
): Track {
  const recent = track.samples.filter(({ timeMs }) => nowMs - timeMs <= RATE_WINDOW_MS);
  return { ...track, doneBytes, totalBytes, samples: [...recent, { timeMs: nowMs, doneBytes }] };
}

/** Bytes per second over the latest samples; null where there is nothing to tell it by. Pure. */
export function rateOf({ samples }: Track): number | null {
  const first = samples[0], last = samples.at(-1);
  if (!first || !last || last.timeMs === first.timeMs) return null;
  return (last.doneBytes - first.doneBytes) * 1000 / (last.timeMs - first.timeMs);
}

/** "disk0  45%  451 MiB of 1 GiB  12.5 MiB/s  0:42 left". Pure. */
export function describe(track: Track, nameWidth = 0): string {
  const { doneBytes, totalBytes } = track;
  const name = printable(track.name).padEnd(nameWidth);
  const percent = totalBytes === 0 ? 100 : Math.floor(doneBytes / totalBytes * 100);
  if (track.hasFailed) return `${name}  failed${totalBytes > 0 ? ` at ${percent}%` : ""}`;
  const rate = rateOf(track);
  const left = rate !== null && rate > 0 && doneBytes < totalBytes
    ? `${clock((totalBytes - doneBytes) / rate)} left`
    : "";
  const bytes = `${size(doneBytes)} of ${size(totalBytes)}`;
  const speed = rate === null ? "" : `${size(Math.max(rate, 0))}/s`;
  return [name, `${percent}%`.padStart(4), bytes, speed, left]
    .filter((part) => part !== "").join("  ");
}

/** What the line about all disks is called. */
const ALL = "all";

/** All disks as one; null where there is one only. One that failed is no longer waited for. Pure. */
export function together(tracks: Track[]): Track | null {
  const going = tracks.filter(({ hasFailed }) => !hasFailed);
  if (tracks.length < 2 || going.length === 0) return null;
  const sum = (bytesOf: (track: Track) => number) =>
    going.reduce((all, track) => all + bytesOf(track), 0);
  const [doneBytes, rate] = [sum(({ doneBytes }) => doneBytes), sum((one) => rateOf(one) ?? 0)];
  const samples = rate > 0
    ? [{ timeMs: 0, doneBytes: doneBytes - rate }, { timeMs: 1000, doneBytes }]
    : [];
  return { name: ALL, doneBytes, totalBytes: sum(({ totalBytes }) => totalBytes), samples };
}

/**
 * The lines of the display, none wider than the terminal, and no more than it has: what was drawn can't be taken
 * away any more when it has moved out at the top. Those that failed are shown in any case, as far as there is
 * room. Pure.
 */
export function draw(tracks: Track[], columns: number, rows = Infinity): string[] {
  const all = together(tracks);
  const room = Math.max(1, rows - 1 - (all ? 1 : 0));
  const shown = [
    ...(tracks.length <= room ? tracks : mostTelling(tracks, room)),
    ...(all ? [all] : []),
  ];
  const nameWidth = Math.max(...shown.map(({ name }) => printable(name).length));
  const words = shown.map((track) => describe(track, nameWidth));
  const barWidth = Math.min(30, columns - Math.max(...words.map((text) => [...text].length)) - 4);
  return shown.map((track, i) => bar(track, barWidth) + cutOff(words[i] ?? "", columns, barWidth));
}

function mostTelling(tracks: Track[], count: number): Track[] {
  const rank = ({ hasFailed, doneBytes, totalBytes }: Track) =>
    hasFailed ? 0 : doneBytes < totalBytes ? 1 : 2;
  const best = new Set(tracks.toSorted((a, b) => rank(a) - rank(b)).slice(0, count));
  return tracks.filter((track) => best.has(track));
}

/** "[#####.....] "; nothing where there is no room for it. */
function bar({ doneBytes, totalBytes }: Track, width: number): string {
  if (width < 5) return "";
  const share = totalBytes === 0 ? 1 : Math.min(1, doneBytes / totalBytes);
  const filled = Math.round(share * width);
  return `[${"#".repeat(filled)}${".".repeat(width - filled)}] `;
}

function cutOff(words: string, columns: number, barWidth: number): string {
  if (barWidth >= 5) return words;
  return [...words].slice(0, Math.max(0, columns - 1)).join("").trimEnd();
}

export class Progress implements Disposable {
  readonly #tracks = new Map<string, Track>();
  #drawnLines = 0;
  #isOver = false;
  #lineAtMs: number;

  /**
   * @param say Writes a line where there is no terminal.
   * @param lineIntervalMs How often.
   */
  constructor(
    readonly io: Io,
    readonly say: (line: string) => void,
    readonly lineIntervalMs: number,
    startMs = performance.now(),
  ) {
    this.#lineAtMs = startMs;
  }

  /** Takes a look at one disk. */
  update(name: string, doneBytes: number, totalBytes: number, nowMs = performance.now()): void {
    const track = this.#tracks.get(name) ?? { name, doneBytes, totalBytes, samples: [] };
    this.#tracks.set(name, advance(track, doneBytes, totalBytes, nowMs));
    if (this.io.isTerminal) {
      this.#redraw();
    } else if (!this.#isOver && nowMs - this.#lineAtMs >= this.lineIntervalMs) {
      this.#lineAtMs = nowMs;
      const tracks = [...this.#tracks.values()];
      for (const each of [...tracks, together(tracks)]) if (each) this.say(describe(each));
    }
  }

  /** One disk goes no further. */
  fail(name: string): void {
    const track = this.#tracks.get(name) ?? { name, doneBytes: 0, totalBytes: 0, samples: [] };
    this.#tracks.set(name, { ...track, hasFailed: true });
    if (this.io.isTerminal) this.#redraw();
  }

  /** Takes the display away for good: what is still reported is not drawn. */
  end(): void {
    this.hide();
    this.#isOver = true;
  }

  /** Takes the display off the terminal, so that something else can be written there. */
  hide(): void {
    if (this.#drawnLines === 0) return;
    this.io.stderr(`\x1b[${this.#drawnLines}A\x1b[J`);
    this.#drawnLines = 0;
  }

  /** As `end()`, after Ctrl-C: the terminal shows that as `^C` where the next line is to stand. */
  interrupt(): void {
    this.end();
    if (this.io.isTerminal) this.io.stderr("\r\x1b[J");
  }

  [Symbol.dispose]() {
    this.end();
  }

  #redraw() {
    if (this.#isOver) return;
    const lines = draw([...this.#tracks.values()], this.io.columns(), this.io.rows());
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A\x1b[J` : "";
    this.io.stderr(up + lines.map((line) => line + "\n").join(""));
    this.#drawnLines = lines.length;
  }
}
