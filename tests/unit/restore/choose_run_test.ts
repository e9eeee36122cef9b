import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { restorePoints } from "../../../src/repo/chains.ts";
import { adoptedId, type DiskRecord, type RunRecord } from "../../../src/repo/record.ts";
import { chooseRun, type RunChoice } from "../../../src/restore/choose_run.ts";
import type { RestorePoint } from "../../../src/restore/points.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

/** The disks of a run by their results; each run has images of its own. */
function run(
  night: number,
  disks: Record<string, DiskRecord["result"]>,
  change: Partial<RunRecord> = {},
): RunRecord {
  const at = `2026-11-2${night}T23:00:00.000Z`;
  const rows = Object.entries(disks).map(([name, result]) =>
    aDiskRecord(name, { result, file: `${name}/FULL-${night}-${name}` })
  );
  return aRun(rows, {
    id: `run${night}`,
    sequence: night,
    started: at,
    pointInTime: at,
    ...change,
  });
}

const leftOut = (device: string, gone = false) => ({
  leftOut: [{ device, reason: "x", ...(gone ? { gone } : {}) }],
});

function choose(runs: RunRecord[], choice: Partial<RunChoice> = {}) {
  const known = restorePoints(runs);
  const points = known.map(({ run, disk }): RestorePoint => ({
    name: disk.file.split("/")[1] ?? "",
    path: `/backup/${disk.file}`,
    folder: disk.folder,
    disk: disk.name,
    timeMs: Date.parse(run.started),
    level: disk.level,
    format: null,
    runId: run.id,
    target: "/backup",
    layers: () => [],
    layersNow: () => Promise.resolve([]),
  }));
  return chooseRun(known, points, { until: null, allowMissing: false, ...choice });
}

const FIRST = run(1, { disk0: "done", disk1: "done" });

Deno.test("chooseRun() takes the newest run, and says nothing where it has all disks", () => {
  const runs = [FIRST, run(2, { disk0: "done", disk1: "done" })];
  assertEquals(choose(runs), { runId: "run2", warnings: [] });
});

const INCOMPLETE: [what: string, second: RunRecord, words: RegExp][] = [
  ["did not finish", run(2, { disk0: "done", disk1: "failed" }), /disk "disk1" \(failed\)/],
  ["was told to leave out", run(2, { disk0: "done" }, leftOut("disk1")), /"disk1" \(left out\)/],
];
for (const [what, second, words] of INCOMPLETE) {
  Deno.test(`chooseRun() takes the run before one that ${what} a disk, and names the newer`, () => {
    const { runId, warnings } = choose([FIRST, second]);
    assertEquals([runId, warnings.length], ["run1", 1]);
    assertMatch(warnings[0] ?? "", words);
    assertMatch(warnings[0] ?? "", /One newer run lacks .* --until run2 --allow-missing/);
  });

  Deno.test(`chooseRun() refuses a run that ${what} a disk, with the choices`, () => {
    const error = assertThrows(() => choose([FIRST, second], { until: "run2" }), UsageError);
    assertMatch(error.message, words);
    assertMatch(error.message, /--until run1\).*--allow-missing/);
  });

  Deno.test(`chooseRun() takes a run that ${what} a disk where that is allowed`, () => {
    for (const until of ["run2", null]) {
      const { runId, warnings } = choose([FIRST, second], { until, allowMissing: true });
      assertEquals([runId, warnings.length], ["run2", 1]);
      assertMatch(warnings[0] ?? "", /"disk1" is not restored.* "disk1\/FULL-1-disk1"/);
    }
  });
}

Deno.test("chooseRun() refuses where no run has all disks", () => {
  const runs = [
    run(1, { disk0: "failed", disk1: "done" }),
    run(2, { disk0: "done", disk1: "failed" }),
  ];
  assertThrows(() => choose(runs), UsageError, "no run has all disks");
});

Deno.test("chooseRun() does not miss a disk that is gone, and says that there was one", () => {
  for (
    const second of [run(2, { disk0: "done" }, leftOut("disk1", true)), run(2, { disk0: "done" })]
  ) {
    const { runId, warnings } = choose([FIRST, second]);
    assertEquals([runId, warnings.length], ["run2", 1]);
    assertMatch(warnings[0] ?? "", /"disk1" is not in the run run2: the VM did not have it then/);
  }
});

Deno.test("chooseRun() does not miss a disk that was never backed up", () => {
  assertEquals(
    choose([FIRST, run(2, { disk0: "done", disk1: "done" }, leftOut("cd"))]).warnings,
    [],
  );
});

Deno.test("chooseRun() does not take a chain of the Python tool for all disks", () => {
  const at = (time: number, night: number, disk: string) =>
    run(night, { [disk]: "done" }, { id: adoptedId(time, "0a0a0a00") });
  const runs = [at(1000, 1, "disk0"), at(1001, 2, "disk1")];
  assertThrows(() => choose(runs), UsageError, '"disk0" (of another time): no run has all disks');
  assertEquals(choose(runs, { allowMissing: true }).warnings.length, 1);
});

Deno.test("chooseRun() misses an image that another one replaced", () => {
  const name = { file: "disk1/disk1.qcow2" };
  const first = run(1, { disk0: "done" });
  first.disks.push(aDiskRecord("disk1", name));
  const second = run(2, { disk0: "done" });
  second.disks.push(aDiskRecord("disk1", name));
  assertThrows(
    () => choose([first, second], { until: "run1" }),
    UsageError,
    '"disk1" (replaced by a later backup)',
  );
});
