/**
 * The result of `info --show backups` for people: a line a run, and what all of it takes. Pure.
 *
 * @module
 */

import type { VmHealth } from "../../overview/health.ts";
import type { Night } from "../../overview/nights.ts";
import type { ChainTotal, Outlook } from "../../overview/totals.ts";
import { localTime, span } from "../../time.ts";
import { cut, printable, size, table } from "./text.ts";

/** What the list is made of. */
export interface BackupsView {
  health: VmHealth;
  /** All runs that are asked about; totals are of all. */
  nights: Night[];
  /** How many of the last are shown; null for all. */
  last: number | null;
  chains: ChainTotal[];
  /** Null where nobody may ask how much is free. */
  outlook: Outlook | null;
}

/** @param columns The terminal's width; no line of a run is longer. */
export function backupsText(view: BackupsView, columns = Infinity): string {
  const { health, nights, last, chains, outlook } = view;
  const shown = last === null ? nights : nights.slice(-last);
  const earlier = nights.length - shown.length;
  return [
    headText(health, nights),
    "\n",
    earlier > 0 ? `(${earlier} earlier ${earlier === 1 ? "run" : "runs"} not shown)\n` : "",
    nightsTable(shown, columns),
    "\n",
    totalsTable(chains, columns),
    outlook ? outlookText(outlook) : "",
  ].join("");
}

function headText({ vm, path, lastComplete, ageMs, reason, health }: VmHealth, nights: Night[]) {
  const done = nights.filter(({ run }) => run.state === "done").length;
  const rest = nights.length - done;
  const runs = `${nights.length} ${nights.length === 1 ? "run" : "runs"}`;
  const newest = lastComplete && ageMs !== null
    ? `Newest backup of all disks: ${localTime(new Date(lastComplete.timeMs))}, ${
      span(ageMs)
    } old\n`
    : "There is no backup of all disks\n";
  const isBad = health !== "ok" && health !== "warned" && reason !== "";
  return [
    `The VM "${printable(vm)}" in "${printable(path)}": ${runs}, ${done} done`,
    rest > 0 ? `, ${rest} failed or stopped\n` : "\n",
    newest,
    isBad ? `${health === "failed" ? "The last run" : "Look at this"}: ${printable(reason)}\n` : "",
  ].join("");
}

function nightsTable(nights: Night[], columns: number): string {
  const titles = ["POINT IN TIME", "LEVEL", "SIZE", "DISKS", "NOTE"];
  const rows = nights.flatMap((night) => [
    ...(night.gapMs === null ? [] : [[`no run for ${span(night.gapMs)}`, "", "", "", ""]]),
    [
      localTime(new Date(night.timeMs)),
      night.level,
      night.doneDisks > 0 ? size(night.sizeBytes) : "-",
      night.allDisks > 0 ? `${night.doneDisks}/${night.allDisks}` : "-",
      night.notes.join("; "),
    ],
  ]);
  const noteRoom = Math.max(8, columns - widthBefore([titles, ...rows]));
  return table([
    titles,
    ...rows.map((row) => [...row.slice(0, -1), oneLine(row.at(-1), noteRoom)]),
  ]);
}

/** How wide all columns but the last are. */
function widthBefore(rows: string[][]): number {
  const columns = (rows[0]?.length ?? 1) - 1;
  const widths = Array.from(
    { length: columns },
    (_, i) => Math.max(...rows.map((row) => (row[i] ?? "").length)),
  );
  return widths.reduce((sum, width) => sum + width + 2, 0);
}

/** Made visible before it is cut: what becomes longer by that must fit as well. */
function oneLine(text = "", columns: number): string {
  return cut(printable(text), columns);
}

/** A line a chain, and one for all of a disk that has several. */
function totalsTable(chains: ChainTotal[], columns: number): string {
  const rows = [...Map.groupBy(chains, ({ disk }) => disk)].flatMap(([disk, ofDisk]) => {
    const lines = ofDisk.map(({ kind, sinceMs, images, sizeBytes }) => [
      disk,
      kind,
      localTime(new Date(sinceMs)),
      String(images),
      size(sizeBytes),
    ]);
    const all = ["", "all", "", String(sumOf(ofDisk, "images")), size(sumOf(ofDisk, "sizeBytes"))];
    return ofDisk.length > 1 ? [...lines, all] : lines;
  });
  if (rows.length === 0) return "";
  const total = `All images: ${sumOf(chains, "images")}, ${size(sumOf(chains, "sizeBytes"))}\n`;
  return table([["DISK", "", "SINCE", "IMAGES", "SIZE"], ...rows], columns) + total;
}

function sumOf(chains: ChainTotal[], field: "images" | "sizeBytes"): number {
  return chains.reduce((sum, chain) => sum + chain[field], 0);
}

function outlookText({ freeBytes, nightBytes, nights }: Outlook): string {
  const free = `Free: ${size(freeBytes)}`;
  if (nightBytes === null || nights === null) return `${free}\n`;
  return `${free}, room for about ${nights} more ${nights === 1 ? "night" : "nights"} of ${
    size(nightBytes)
  }, as the last ones\n`;
}
