/**
 * A page to look at: one file without anything from outside, and without a script. Pure.
 *
 * @module
 */

import type { VmHealth } from "../../../overview/health.ts";
import type { Night } from "../../../overview/nights.ts";
import type { ChainTotal, Outlook } from "../../../overview/totals.ts";
import { localTime, span } from "../../../time.ts";
import { countsText, HEALTH_WORDS } from "../fleet.ts";
import { size } from "../text.ts";
import { daysUpTo, depths, SHOWN, sizes, stateOf, timeline } from "./charts.ts";
import { type Html, html } from "./html.ts";
import { STYLE } from "./style.ts";

/** What the page shows of one VM. */
export interface VmPage {
  health: VmHealth;
  nights: Night[];
  /** How many images a restore from a run reads. */
  depthOf: (night: Night) => number;
  chains: ChainTotal[];
  outlook: Outlook | null;
  /** What was said of the last verification; empty if there was none. */
  verified: string;
}

/** The page of these VMs, the worst first. */
export async function pageText(
  { dir, now, version, vms }: { dir: string; now: Date; version: string; vms: VmPage[] },
): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(STYLE));
  const policy = `default-src 'none'; style-src 'sha256-${base64(digest)}'; base-uri 'none'; ` +
    "form-action 'none'";
  const days = daysUpTo(now.getTime(), vms.flatMap(({ nights }) => nights));
  // The style is our own, and must stand in the file as it is hashed.
  const [before, after] = html`
    <!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta http-equiv="Content-Security-Policy" content="${policy}">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <title>Backups in ${dir}</title>
        <style>STYLE</style>
      </head>
      <body>
        <main>
    <h1>Backups in ${dir}</h1>
    <p>As of ${localTime(now)}. ${countsText(
      vms.map(({ health }) => health),
    )}. <span class="soft">Written by qmpbackup ${version}.</span></p>
    ${overview(vms)}
    ${timelines(vms, days)}
    ${vms.map(section)}
        </main>
      </body>
    </html>
  `.markup.split("STYLE", 2) as [string, string];
  return before + STYLE + after;
}

function base64(bytes: ArrayBuffer): string {
  return btoa(String.fromCharCode(...new Uint8Array(bytes)));
}

const KIND: Record<string, string> = { ok: "ok", warned: "part", failed: "part" };

function overview(vms: VmPage[]): Html {
  const rows = vms.map(({ health: { health, name, vm, lastComplete, ageMs, reason } }, i) =>
    html`
      <tr>
        <td data-title="State"><strong class="${KIND[health] ??
          "bad"}">${HEALTH_WORDS[health]}</strong></td>
        <td data-title="VM"><a href="#vm${i}">${name === vm ? name : `${name} (${vm})`}</a></td>
        <td data-title="Last backup of all disks">${timeOf(lastComplete)}</td>
        <td data-title="Age">${ageMs === null ? "-" : span(ageMs)}</td>
        <td data-title="Note">${reason}</td>
      </tr>
    `
  );
  return html`
    <table class="runs">
      <thead>
        <tr>
          <th>State</th>
          <th>VM</th>
          <th>Last backup of all disks</th>
          <th>Age</th>
          <th>Note</th>
        </tr>
      </thead>
      <tbody>
    ${rows}</tbody>
    </table>
  `;
}

function timelines(vms: VmPage[], days: string[]): Html {
  const rows = vms.map(({ health, nights }) =>
    html`
      <tr>
        <th scope="row">${health.name}</th>
        <td>${timeline(days, nights)}</td>
      </tr>
    `
  );
  return html`
    <h2>Timeline</h2>
    <p
      class="soft">A cell a day, ${days[0] ?? ""} to ${days.at(-1) ??
        ""}: <span class="ok">done</span>, <span class="part">not all disks, or with warnings</span>, <span class="bad">failed (crossed out)</span>; grey is a day without a run.</p>
    <div class="wide">
      <table class="timeline">
        <tbody>
    ${rows}</tbody>
      </table>
    </div>
  `;
}

function section(page: VmPage, i: number): Html {
  const { health, nights, depthOf, chains, outlook, verified } = page;
  const shown = nights.slice(-SHOWN);
  const failures = nights.filter((night) => stateOf(night).kind !== "ok").length;
  const last = nights.length > shown.length ? `, the last ${SHOWN}` : "";
  const mostBytes = Math.max(0, ...shown.map(({ sizeBytes }) => sizeBytes));
  return html`
    <section id="vm${i}">
    <h2>${health.name}</h2>
    <p>The VM "${health.vm}" in ${health.path}: ${nights
      .length} runs, ${failures} of them with something to look at. ${sentence(health.reason)}</p>
    ${mostBytes === 0 ? [] : html`
      <figure
        class="wide"><figcaption>Size of each run${last} (the most: ${size(
          mostBytes,
        )}; heights by the square root; grey is a full backup)</figcaption>${sizes(shown)}</figure>
    `}
    ${nights.length === 0 ? [] : html`
      <figure
        class="wide"><figcaption>Images that a restore reads${last} (the most: ${Math.max(
          0,
          ...shown.map(depthOf),
        )})</figcaption>${depths(shown, depthOf)}</figure>
    `}
    ${chainsTable(chains)}
    ${outlookLine(outlook)}
    <h3>Verification</h3>
    ${verified === ""
      ? html`<p>Never verified: see "restore verify".</p>`
      : html`<pre>${verified}</pre>`}
    ${runsTable(nights, depthOf)}
    </section>
  `;
}

/** A reason as a sentence of its own. */
function sentence(reason: string): string {
  return reason === "" ? "" : `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}

function chainsTable(chains: ChainTotal[]): Html | [] {
  if (chains.length === 0) return [];
  const rows = chains.map(({ disk, kind, sinceMs, untilMs, images, sizeBytes }) =>
    html`
      <tr>
        <td data-title="Disk">${disk}</td>
        <td data-title="What">${kind}</td>
        <td data-title="From">${localTime(new Date(sinceMs))}</td>
        <td data-title="To">${localTime(new Date(untilMs))}</td>
        <td data-title="Images">${images}</td>
        <td data-title="Size">${size(sizeBytes)}</td>
      </tr>
    `
  );
  return html`
    <h3>Chains</h3>
    <table class="runs">
      <thead>
        <tr>
          <th>Disk</th>
          <th>What</th>
          <th>From</th>
          <th>To</th>
          <th>Images</th>
          <th>Size</th>
        </tr>
      </thead>
      <tbody>
    ${rows}</tbody>
    </table>
  `;
}

function outlookLine(outlook: Outlook | null): Html | [] {
  if (outlook === null) return [];
  const { freeBytes, nights, nightBytes } = outlook;
  const room = nights === null || nightBytes === null
    ? ""
    : `, room for about ${nights} more nights of ${size(nightBytes)}, as the last ones`;
  return html`<p>Free: ${size(freeBytes)}${room}</p>`;
}

function runsTable(nights: Night[], depthOf: (night: Night) => number): Html | [] {
  if (nights.length === 0) return [];
  const rows = nights.toReversed().map((night) => {
    const { word, kind } = stateOf(night);
    const gap = night.gapMs === null ? [] : [`no run for ${span(night.gapMs)} before`];
    return html`
      <tr>
        <td data-title="Point in time">${localTime(new Date(night.timeMs))}</td>
        <td data-title="State"><strong class="${kind}">${word}</strong></td>
        <td data-title="Level">${night.level}</td>
        <td data-title="Size">${night.doneDisks > 0 ? size(night.sizeBytes) : "-"}</td>
        <td data-title="Disks">${night.doneDisks}/${night.allDisks}</td>
        <td data-title="Images">${depthOf(night) || "-"}</td>
        <td data-title="Note">${[...night.notes, ...gap].join("; ")}</td>
        <td data-title="Run" class="soft">${night.run.id}</td>
      </tr>
    `;
  });
  return html`
    <h3>Runs</h3>
    <table class="runs">
      <thead>
        <tr>
          <th>Point in time</th>
          <th>State</th>
          <th>Level</th>
          <th>Size</th>
          <th>Disks</th>
          <th>Images</th>
          <th>Note</th>
          <th>Run</th>
        </tr>
      </thead>
      <tbody>
    ${rows}</tbody>
    </table>
  `;
}

function timeOf(night: Night | null): string {
  return night ? localTime(new Date(night.timeMs)) : "-";
}
