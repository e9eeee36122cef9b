import { assertEquals, assertMatch } from "@std/assert";
import {
  fleetText,
  isCritical,
  pluginResult,
  pluginUnknown,
} from "../../../../src/cli/output/fleet.ts";
import type { VmBackups } from "../../../../src/overview/find.ts";
import {
  type Health,
  healthOf,
  type VmHealth,
  worstFirst,
} from "../../../../src/overview/health.ts";
import type { DiskRecord, RunRecord } from "../../../../src/repo/record.ts";
import { aDiskRecord, aRun, aTarget } from "../../_fixtures.ts";

/** The run of `aRun()` is this old. */
const HOUR_MS = 3600_000;
const NOW_MS = Date.parse("2026-11-21T23:00:01Z") + 20 * HOUR_MS;
const FAILED = aRun([], {
  id: "night",
  sequence: 2,
  started: "2026-11-22T01:00:00.000Z",
  pointInTime: null,
  state: "failed",
  error: "It is off",
});

interface Case {
  runs?: RunRecord[];
  error?: string;
  maxAgeHours?: number;
  broken?: DiskRecord;
  health: Health;
  reason: string;
}
const FULL = aDiskRecord();
const GOOD = aRun([FULL]);
const chosen = (device: string) => ({ leftOut: [{ device, reason: "not named by --include" }] });
const ONLY_DISK1 = aRun([aDiskRecord("disk1")], chosen("disk0"));
const WITHOUT_DISK1 = aRun([FULL], { id: "b", sequence: 2, ...chosen("disk1") });
const CASES: Record<string, Case> = {
  "a good night": { runs: [GOOD], health: "ok", reason: "" },
  "a night with a warning": {
    runs: [aRun([FULL], { warnings: ["Not frozen"] })],
    health: "warned",
    reason: "1 warning",
  },
  "a night that failed after a good one": {
    runs: [GOOD, FAILED],
    health: "failed",
    reason: "failed: It is off",
  },
  "a backup that is too old": {
    runs: [GOOD],
    maxAgeHours: 19,
    health: "old",
    reason: "older than 19 h",
  },
  "one that is too old, and why": {
    runs: [GOOD, FAILED],
    maxAgeHours: 1,
    health: "old",
    reason: "older than 60 min; failed: It is off",
  },
  "an image that is missing": {
    runs: [GOOD, FAILED],
    broken: FULL,
    health: "broken",
    reason: `the image "${FULL.file}" is missing`,
  },
  "a VM that never had a good night": {
    runs: [FAILED],
    health: "never",
    reason: "failed: It is off",
  },
  "a run that was told to leave out a disk": {
    runs: [aRun([aDiskRecord("disk1")], { id: "a" }), WITHOUT_DISK1],
    health: "failed",
    reason: "disk1 left out",
  },
  "runs that never have all disks": {
    runs: [{ ...ONLY_DISK1, id: "a" }, WITHOUT_DISK1],
    health: "never",
    reason: "no run has all disks; disk1 left out",
  },
  "a folder of the Python tools": {
    health: "never",
    reason: "no run is recorded (the Python qmpbackup?)",
  },
  "a record that can't be read": {
    error: "It is not JSON",
    health: "unreadable",
    reason: "It is not JSON",
  },
};
function backupsOf(name: string, { runs, error = undefined }: Partial<Case>): VmBackups {
  const targets = runs ? [aTarget(runs)] : [];
  return { path: `/backup/${name}`, name, targets, error: error ?? null };
}

function judge(name: string, one: Case): VmHealth {
  const states = new Map(
    one.broken ? [[one.broken, { state: "missing", reason: "is missing" } as const]] : [],
  );
  const maxAgeMs = one.maxAgeHours === undefined ? null : one.maxAgeHours * HOUR_MS;
  return healthOf(backupsOf(name, one), states, { nowMs: NOW_MS, maxAgeMs });
}

for (const [name, one] of Object.entries(CASES)) {
  Deno.test(`healthOf() judges ${name}`, () => {
    const { health, reason } = judge("vm1", one);
    assertEquals([health, reason], [one.health, one.reason]);
  });
}

const ALL = worstFirst(
  Object.entries(CASES).toReversed().map(([name, one]) => judge(name, one)),
);

Deno.test("worstFirst() puts what needs a look first", () => {
  assertEquals(ALL.map(({ health }) => health), [
    ...["unreadable", "never", "never", "never", "broken", "old", "old"],
    ...["failed", "failed", "warned", "ok"],
  ]);
});

Deno.test("fleetText() has a line a VM, and the counts", () => {
  const lines = fleetText(ALL.slice(-3)).split("\n");
  assertEquals(lines[0]?.split(/ {2,}/), ["STATE", "VM", "LAST BACKUP", "AGE", "SIZE", "NOTE"]);
  assertEquals(lines.slice(1, 4).map((line) => line.split(/ {2,}/).toSpliced(2, 1)), [
    ["FAILED", "a run that was told to leave out a disk (vm1)", "20 h", "5 MiB", "disk1 left out"],
    ["warnings", "a night with a warning (vm1)", "20 h", "5 MiB", "1 warning"],
    ["ok", "a good night (vm1)", "20 h", "5 MiB"],
  ]);
  assertEquals(lines[4], "3 VMs: 1 failed, 1 warnings, 1 ok");
});

/** https://www.monitoring-plugins.org/doc/guidelines.html#AEN197, one item after the other. */
const PERFDATA = new RegExp(
  "^'(?:[^'=|]|'')+'=(?:-?[0-9.]+(?:us|ms|s|%|B|KB|MB|TB|c)?|U)" +
    "(?:;(?:@?(?:~|-?[0-9.]+)?:?(?:-?[0-9.]+)?)){0,2}(?:;-?[0-9.]+){0,2}$",
);

function assertPlugin(line: string, state: string) {
  const [text = "", data, ...more] = line.replace(/\n$/, "").split("|");
  assertEquals(more, []);
  assertMatch(text, new RegExp(`^QMPBACKUP ${state} - [^\\p{Cc}|]+$`, "u"));
  assertMatch(line, /^[^\n]*\n$/);
  const items = data?.trim().match(/'(?:[^']|'')*'=\S+/g) ?? [];
  assertEquals(items.join(" "), data?.trim() ?? "");
  for (const item of items) assertMatch(item, PERFDATA);
  return items;
}

const PLUGIN: [health: Health, state: string, exitCode: number][] = [
  ["ok", "OK", 0],
  ["warned", "WARNING", 1],
  ["failed", "WARNING", 1],
  ["old", "CRITICAL", 2],
  ["broken", "CRITICAL", 2],
  ["never", "CRITICAL", 2],
  ["unreadable", "CRITICAL", 2],
];
for (const [health, state, exitCode] of PLUGIN) {
  Deno.test(`pluginResult() says ${state} for a VM that is ${health}`, () => {
    const all = ALL.filter((one) => one.health === health || one.health === "ok");
    const result = pluginResult(all, 26 * HOUR_MS);
    assertEquals(result.exitCode, exitCode);
    assertEquals(assertPlugin(result.line, state).length, all.length);
    assertEquals(all.some(isCritical), exitCode === 2);
  });
}

Deno.test("pluginResult() says the age in seconds, with the limit", () => {
  const { line } = pluginResult(ALL.slice(-1), 26 * HOUR_MS);
  assertEquals(line, "QMPBACKUP OK - 1 VM: 1 ok | 'a good night'=72000s;;93600;0\n");
});

Deno.test("pluginResult() stays in the grammar, whatever a VM is called", () => {
  for (const name of ["it's = a|b", "x\ny\x1b[2J", "'", "a b", "=", "ä 中"]) {
    const all = [judge(name, { error: "bad | = ' \n word", health: "unreadable", reason: "" })];
    assertEquals(assertPlugin(pluginResult(all, HOUR_MS).line, "CRITICAL").length, 1);
  }
});

Deno.test("pluginResult() knows nothing where there is nothing", () => {
  for (const result of [pluginResult([], HOUR_MS), pluginUnknown("no | such\nfolder")]) {
    assertEquals(result.exitCode, 3);
    assertPlugin(result.line, "UNKNOWN");
  }
});
