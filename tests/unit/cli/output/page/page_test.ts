import { assert, assertEquals, assertMatch } from "@std/assert";
import { type Html } from "../../../../../src/cli/output/page/html.ts";
import {
  daysUpTo,
  depths,
  sizes,
  stateOf,
  timeline,
} from "../../../../../src/cli/output/page/charts.ts";
import { pageText, type VmPage } from "../../../../../src/cli/output/page/page.ts";
import { runsOf } from "../../../../../src/overview/find.ts";
import { healthOf } from "../../../../../src/overview/health.ts";
import { nightsOf } from "../../../../../src/overview/nights.ts";
import { chainTotals, depthsOf, outlookOf } from "../../../../../src/overview/totals.ts";
import { NOW_MS, sixtyNights } from "../../../overview/_nights.ts";

export function vmPage(name = "vm1", targets = sixtyNights()): VmPage {
  const backups = { path: `/backup/${name}`, name, error: null, targets };
  const nights = nightsOf(runsOf(backups), new Map());
  const depthOf = depthsOf(targets);
  return {
    health: healthOf(backups, new Map(), { nowMs: NOW_MS, maxAgeMs: null }),
    nights,
    depthOf: ({ run }) => depthOf.get(run) ?? 0,
    chains: chainTotals(targets, new Map()),
    outlook: outlookOf(nights, 1 << 30),
    verified: "",
  };
}

const count = ({ markup }: Html, pattern: RegExp) => markup.match(pattern)?.length ?? 0;

Deno.test("timeline() has a cell for each day, with what became of it", () => {
  const { nights } = vmPage();
  const days = daysUpTo(NOW_MS, nights);
  assert(days.length === 60 || days.length === 61, `${days.length}`);
  const drawn = timeline(days, nights);
  // Two nights with the VM off, one stopped; one without a disk, one with a warning; three with nothing.
  assertEquals(count(drawn, /class="bad"/g), 3);
  assertEquals(count(drawn, /class="cross"/g), 3);
  assertEquals(count(drawn, /class="part"/g), 2);
  assertEquals(count(drawn, /: no run</g), 3 + days.length - 60);
  assertEquals(count(drawn, /class="ok"/g), 52);
});

Deno.test("sizes() and depths() have a bar for each run", () => {
  const { nights, depthOf } = vmPage();
  assertEquals(count(sizes(nights), /class="full"/g), 4);
  assertEquals(count(sizes(nights), /class="inc"/g), 53);
  const drawn = depths(nights, depthOf);
  assertEquals(count(drawn, /: 1 images</g), 4);
  assertEquals(count(drawn, /: 27 images</g), 1);
  // The drawing, and the highest bar.
  assertEquals(count(drawn, / height="80"/g), 2);
});

Deno.test("stateOf() has a word for each colour", () => {
  const states = new Set(vmPage().nights.map(stateOf).map(({ word, kind }) => `${kind}: ${word}`));
  assertEquals([...states].sort(), [
    "bad: cancelled",
    "bad: failed",
    "ok: done",
    "part: 2 of 3 disks",
    "part: with warnings",
  ]);
});

Deno.test("pageText() has nothing from outside, no script, and no style but the one that is hashed", async () => {
  const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`;
  const targets = sixtyNights().map((target) => ({
    ...target,
    runs: target.runs.map((run) => ({
      ...run,
      vm: { name: evil, uuid: "" },
      disks: run.disks.map((disk) => ({ ...disk, name: evil })),
      ...(run.error === undefined ? {} : { error: evil }),
    })),
  }));
  const vm = { ...vmPage(evil, targets), verified: evil };
  const text = await pageText({ dir: evil, now: new Date(NOW_MS), version: evil, vms: [vm, vm] });
  const [head = "", style = "", body = ""] = text.split(/<style>|<\/style>/);
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(style));
  const base64 = btoa(String.fromCharCode(...new Uint8Array(hash)));
  assertMatch(
    head,
    /http-equiv="Content-Security-Policy" content="default-src &#39;none&#39;; style-src/,
  );
  assert(head.includes(`&#39;sha256-${base64}&#39;;`));
  const tags = new Set([...(head + body).matchAll(/<\/?([a-z0-9]+)/g)].map(([, tag]) => tag));
  for (const tag of ["script", "img", "link", "iframe", "object", "base", "form"]) {
    assertEquals(tags.has(tag), false, tag);
  }
  assertEquals(
    /\s(style|on[a-z]+|src)=(?!x on|alert)/.exec(body.replaceAll(/>[^<]*</g, "><")),
    null,
  );
  assertEquals(/url\(|@import|https?:/.exec(style), null);
  for (const { run } of vm.nights) assert(body.includes(`>${run.id}<`), run.id);
});
