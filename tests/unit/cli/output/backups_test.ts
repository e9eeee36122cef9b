import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { backupsText, type BackupsView } from "../../../../src/cli/output/backups.ts";
import { runsOf, type VmBackups } from "../../../../src/overview/find.ts";
import { healthOf } from "../../../../src/overview/health.ts";
import type { ImageStates } from "../../../../src/overview/image_states.ts";
import { nightsOf } from "../../../../src/overview/nights.ts";
import { chainTotals, outlookOf } from "../../../../src/overview/totals.ts";
import { aDiskRecord, aRun, aTarget } from "../../_fixtures.ts";
import { AT_200, AT_80 } from "./_sixty_nights.ts";
import { NOW_MS, sixtyNights } from "../../overview/_nights.ts";

const NOTHING_WRONG: ImageStates = new Map();

function viewOf(
  backups: Pick<VmBackups, "targets">,
  { last = null, disk = null, states = NOTHING_WRONG }: {
    last?: number | null;
    disk?: string | null;
    states?: ImageStates;
  } = {},
): BackupsView {
  const whole = { path: "/backup/vm1", name: "vm1", error: null, ...backups };
  const nights = nightsOf(runsOf(whole), states, disk);
  return {
    health: healthOf(whole, states, { nowMs: NOW_MS, maxAgeMs: null }),
    nights,
    last,
    chains: chainTotals(whole.targets, states),
    outlook: outlookOf(nights, 78 * 2 ** 30),
  };
}

/** Wherever the test runs, its times are read in Greenwich. */
function inUtc(text: string): string {
  return text.replaceAll(
    /\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}/g,
    (time) => new Date(time).toISOString().replace("T", " ").replace(/\.\d+Z/, " +0000"),
  );
}

for (const [columns, expected] of [[80, AT_80], [200, AT_200], [Infinity, AT_200]] as const) {
  Deno.test(`backupsText() shows sixty nights in ${columns} columns`, () => {
    const text = inUtc(backupsText(viewOf({ targets: sixtyNights() }), columns));
    assertEquals(text, expected);
    assert(text.split("\n").every((line) => [...line].length <= columns));
  });
}

Deno.test("backupsText() shows the last runs, and says how many more there are", () => {
  const text = backupsText(viewOf({ targets: sixtyNights() }, { last: 2 }), 80);
  assertEquals(text.match(/ inc /g)?.length, 2);
  assertStringIncludes(text, "(55 earlier runs not shown)\n");
  // The totals are of all.
  assertStringIncludes(text, "All images: 161, 106 GiB\n");
});

Deno.test("backupsText() shows what is there of one disk", () => {
  const text = backupsText(viewOf({ targets: sixtyNights() }, { disk: "data" }), 80);
  assertStringIncludes(text, "   0/1    data failed: No space left");
  assertStringIncludes(text, "  1/1\n");
});

Deno.test("backupsText() says what is missing, and what was merged into a later one", () => {
  const full = aDiskRecord("disk0", { result: "superseded", file: "disk0/INC-2" });
  const inc = aDiskRecord("disk0", { bytesWritten: 7 << 20 });
  const gone = aDiskRecord("disk1");
  const runs = [aRun([full]), aRun([inc, gone], { id: "b", sequence: 2 })];
  const states: ImageStates = new Map([[gone, { state: "missing", reason: "is missing" }]]);
  const lines = backupsText(viewOf({ targets: [aTarget(runs)] }, { states }), 80).split("\n");
  const rows = lines.filter((line) => /^\d{4}-/.test(line)).map((line) => line.split(/ {2,}/));
  assertEquals(rows.map(([, ...cells]) => cells), [
    ["auto", "-", "0/1", "disk0 merged into a later one"],
    ["full", "7 MiB", "1/2", "disk1 missing"],
  ]);
  assert(lines.includes('Look at this: the image "disk1/FULL-1795302000-disk1.qcow2" is missing'));
});

Deno.test("backupsText() obeys no name, and cuts no line too late", () => {
  const evil = "\x1b[2J\u202e".repeat(20);
  const failed = aRun([], { state: "failed", error: evil, vm: { name: evil, uuid: "" } });
  const disk = aRun([aDiskRecord("d", { name: evil })], { sequence: 2, id: "b" });
  const text = backupsText(viewOf({ targets: [aTarget([failed, disk])] }), 80);
  assertEquals(/[^\n\P{Cc}]|\u202e/u.exec(text), null);
  const [row = ""] = text.split("\n").filter((line) => line.includes(" failed: "));
  assertEquals([...row].length, 80);
});
