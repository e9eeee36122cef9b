/**
 * The drawings of the page, as SVG: attributes only, since its policy allows no style but the one. Pure.
 *
 * @module
 */

import type { Night } from "../../../overview/nights.ts";
import { DAY_MS, localTime } from "../../../time.ts";
import { size } from "../text.ts";
import { type Html, html } from "./html.ts";

/** How many days and runs the drawings show; the table below has all. */
export const SHOWN = 90;

const CELL = 10, CELL_HEIGHT = 18;

/** The words and the colour of a run. */
export function stateOf(
  { run, doneDisks, allDisks, notes, said }: Night,
): { word: string; kind: string } {
  if (doneDisks === 0) return { word: run.state === "done" ? "gone" : run.state, kind: "bad" };
  if (doneDisks < allDisks) return { word: `${doneDisks} of ${allDisks} disks`, kind: "part" };
  return notes.length > said.length
    ? { word: "with warnings", kind: "part" }
    : { word: "done", kind: "ok" };
}

const dayOf = (timeMs: number) => localTime(new Date(timeMs)).slice(0, "2026-11-22".length);

/** The days that all timelines show, the oldest first. */
export function daysUpTo(nowMs: number, nights: readonly Night[]): string[] {
  const firstMs = Math.min(nowMs, ...nights.map(({ timeMs }) => timeMs));
  const count = Math.min(SHOWN, Math.floor((nowMs - firstMs) / DAY_MS) + 2);
  const days = Array.from({ length: count }, (_, i) => dayOf(nowMs - (count - 1 - i) * DAY_MS));
  // Where the clock changes, a day can come twice.
  return [...new Set(days)];
}

const RANK = ["ok", "part", "bad"];

/** A cell for each day; a run that failed has a cross as well. */
export function timeline(days: readonly string[], nights: readonly Night[]): Html {
  const byDay = Map.groupBy(nights, ({ timeMs }) => dayOf(timeMs));
  const cells = days.map((day, i) => {
    const runs = (byDay.get(day) ?? []).map(stateOf);
    const worst = runs.toSorted((a, b) => RANK.indexOf(b.kind) - RANK.indexOf(a.kind))[0];
    const [x, right] = [i * CELL, i * CELL + CELL - 2];
    const title = `${day}: ${runs.map(({ word }) => word).join(", ") || "no run"}`;
    return html`<g><title>${title}</title><rect class="${
      worst?.kind ?? "none"
    }" x="${x}" y="0" width="${CELL - 2}" height="${CELL_HEIGHT}"/>${
      worst?.kind === "bad"
        ? html`
          <path class="cross"
            d="M${x} 0L${right} ${CELL_HEIGHT}M${x} ${CELL_HEIGHT}L${right} 0" />
        `
        : []
    }</g>`;
  });
  return drawing(days.length * CELL, CELL_HEIGHT, `${days[0]} to ${days.at(-1)}`, cells);
}

const BAR_HEIGHT = 80;

/** A bar for each run; heights grow with the square root, so that an increment is seen beside a full one. */
export function sizes(nights: readonly Night[]): Html {
  return bars(nights.map((night) => ({
    value: Math.sqrt(night.sizeBytes),
    kind: night.level === "full" || night.level === "mixed" ? "full" : "inc",
    title: `${localTime(new Date(night.timeMs))}: ${night.level}, ${size(night.sizeBytes)}`,
  })));
}

/** A bar for each run: how many images a restore from it reads. */
export function depths(nights: readonly Night[], depthOf: (night: Night) => number): Html {
  return bars(nights.map((night) => ({
    value: depthOf(night),
    kind: "inc",
    title: `${localTime(new Date(night.timeMs))}: ${depthOf(night)} images`,
  })));
}

function bars(all: { value: number; kind: string; title: string }[]): Html {
  const most = Math.max(1, ...all.map(({ value }) => value));
  const drawn = all.map(({ value, kind, title }, i) => {
    const height = value > 0 ? Math.max(1, Math.round(value / most * BAR_HEIGHT)) : 0;
    return html`
      <g>
        <title>${title}</title>
        <rect class="none" x="${i * CELL}" y="${BAR_HEIGHT - 1}" width="${CELL - 2}" height="1" />
        <rect class="${kind}" x="${i * CELL}" y="${BAR_HEIGHT - height}" width="${CELL - 2}"
          height="${height}" />
      </g>
    `;
  });
  return drawing(Math.max(1, all.length) * CELL, BAR_HEIGHT, `${all.length} runs`, drawn);
}

function drawing(width: number, height: number, label: string, content: Html[]): Html {
  return html`
    <svg role="img" aria-label="${label}" width="${width}" height="${height}"
      viewBox="0 0 ${width} ${height}">${content}</svg>
  `;
}
