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

/** "disk0  45%  12.5 MiB/s  0:42 left". Pure. */
export function describe(track: Track): string {
  const { name, doneBytes, totalBytes } = track;
  const percent = totalBytes === 0 ? 100 : Math.floor(doneBytes / totalBytes * 100);
  const rate = rateOf(track);
  const left = rate !== null && rate > 0 && doneBytes < totalBytes
    ? `${clock((totalBytes - doneBytes) / rate)} left`
    : "";
  const speed = rate === null ? "" : `${size(Math.max(rate, 0))}/s`;
  return [printable(name), `${percent}%`.padStart(4), speed, left].filter((part) => part !== "")
    .join("  ");
}

/** The lines of the display, none wider than the terminal. Pure. */
export function draw(tracks: Track[], columns: number): string[] {
  return tracks.map((track) => {
    const words = describe(track);
    const room = columns - [...words].length - 4;
    const share = track.totalBytes === 0 ? 1 : Math.min(1, track.doneBytes / track.totalBytes);
    const width = Math.min(30, room);
    if (width < 5) return [...words].slice(0, Math.max(0, columns - 1)).join("");
    const filled = Math.round(share * width);
    return `[${"#".repeat(filled)}${".".repeat(width - filled)}] ${words}`;
  });
}

export class Progress implements Disposable {
  readonly #tracks = new Map<string, Track>();
  #drawnLines = 0;
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
    } else if (nowMs - this.#lineAtMs >= this.lineIntervalMs) {
      this.#lineAtMs = nowMs;
      for (const each of this.#tracks.values()) this.say(describe(each));
    }
  }

  /** Takes the display off the terminal, so that something else can be written there. */
  hide(): void {
    if (this.#drawnLines === 0) return;
    this.io.stderr(`\x1b[${this.#drawnLines}A\x1b[J`);
    this.#drawnLines = 0;
  }

  [Symbol.dispose]() {
    this.hide();
  }

  #redraw() {
    const lines = draw([...this.#tracks.values()], this.io.columns());
    const up = this.#drawnLines > 0 ? `\x1b[${this.#drawnLines}A\x1b[J` : "";
    this.io.stderr(up + lines.map((line) => line + "\n").join(""));
    this.#drawnLines = lines.length;
  }
}
