import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { formatRecord, type RunRecord } from "../../src/repo/record.ts";
import { create } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";

const HOUR_MS = 3600_000;

/** A target with these runs, and the images that they are done with. */
async function writeTarget(target: string, runs: RunRecord[]) {
  await Deno.mkdir(join(target, "_qmpbackup/runs"), { recursive: true });
  for (const run of runs) {
    await Deno.writeTextFile(join(target, `_qmpbackup/runs/${run.id}.json`), formatRecord(run));
    for (const { folder, file } of run.disks.filter(({ result }) => result === "done")) {
      await Deno.mkdir(join(target, folder), { recursive: true });
      await create(join(target, file), 1 << 20);
    }
  }
}

/** A full backup of one disk, so many hours ago. */
function nightOf(hoursAgo: number, sequence = 1, change: Partial<RunRecord> = {}): RunRecord {
  const time = new Date(Date.now() - hoursAgo * HOUR_MS).toISOString();
  const file = `disk0/FULL-${Math.floor(Date.parse(time) / 1000)}-disk0.qcow2`;
  return aRun([aDiskRecord("disk0", { file })], {
    id: `run-${sequence}`,
    sequence,
    started: time,
    pointInTime: time,
    ...change,
  });
}

const failedNight = (hoursAgo: number, sequence: number) =>
  nightOf(hoursAgo, sequence, {
    disks: [],
    pointInTime: null,
    state: "failed",
    error: "It is off",
  });

/** Four VMs: one is well, one failed last night, one is old (in months), of one an image is gone. */
async function writeFleet(dir: string) {
  await writeTarget(join(dir, "good"), [nightOf(7)]);
  await writeTarget(join(dir, "host1/failed"), [nightOf(25), failedNight(1, 2)]);
  await writeTarget(join(dir, "months/2026-01"), [nightOf(900)]);
  await writeTarget(join(dir, "months/2026-02"), [failedNight(40, 1)]);
  await writeTarget(join(dir, "gone"), [nightOf(2)]);
  await Deno.remove(join(dir, "gone/disk0"), { recursive: true });
  await Deno.mkdir(join(dir, "nothing/here"), { recursive: true });
  // None of these three is a VM.
  await Deno.writeTextFile(join(dir, "file"), "");
  await Deno.symlink(join(dir, "file"), join(dir, "link"));
  await mustRun("mkfifo", [join(dir, "pipe")]);
}

const rowsOf = (stdout: string) =>
  stdout.trimEnd().split("\n").slice(1).map((line) => line.split(/ {2,}/).toSpliced(2, 1));

Deno.test("`info` of a folder of VMs has a line each, the worst first, and the exit code of --max-age", async (t) => {
  await using dir = await tempDir();
  await writeFleet(dir.path);
  const info = (...args: string[]) => tool(["info", "--dir", dir.path, ...args]);
  await t.step("as text", async () => {
    const { code, stdout, stderr } = await info("--max-age", "26h");
    assertEquals([code, stderr], [1, ""]);
    const rows = rowsOf(stdout);
    assertEquals(rows.map(([state, vm, age]) => [state, vm, age]), [
      ["BROKEN", "gone (vm1)", "2 h"],
      ["OLD", "months (vm1)", "37 days"],
      ["FAILED", "host1/failed (vm1)", "25 h"],
      ["ok", "good (vm1)", "7 h"],
      ["4 VMs: 1 broken, 1 old, 1 failed, 1 ok", undefined, undefined],
    ]);
    assertMatch(stdout, /the image "disk0\/FULL-\d+-disk0\.qcow2" is missing/);
    assertMatch(stdout, /older than 26 h; failed: It is off/);
  });
  await t.step("as JSON", async () => {
    const { code, stdout } = await info("--json");
    // Only an age that was asked for makes the exit code.
    assertEquals(code, 0);
    const lines = stdout.trimEnd().split("\n").map((line) => JSON.parse(line));
    const told = lines.map(({ message_type, path, health }) => [message_type, path, health]);
    assertEquals(told, [
      ["vm", dir.join("gone"), "broken"],
      ["vm", dir.join("months"), "failed"],
      ["vm", dir.join("host1/failed"), "failed"],
      ["vm", dir.join("good"), "ok"],
      ["summary", undefined, undefined],
    ]);
  });
  await t.step("for Nagios", async () => {
    const { code, stdout } = await info("--nagios");
    assertEquals(code, 2);
    assertMatch(
      stdout,
      /^QMPBACKUP CRITICAL - 4 VMs: .* \| 'gone'=\d+s;;93600;0 'months'=[^\n]*\n$/,
    );
    const good = await tool(["info", "--dir", dir.join("good"), "--nagios", "--max-age", "8h"]);
    assertEquals(good.code, 0);
    assertMatch(good.stdout, /^QMPBACKUP OK - 1 VM: 1 ok \| 'good'=252\d\ds;;28800;0\n$/);
    const old = await tool(["info", "--dir", dir.join("good"), "--nagios", "--max-age", "6h"]);
    assertEquals(old.code, 2);
    const failed = await tool(["info", "--dir", dir.join("host1/failed"), "--nagios"]);
    assertEquals(failed.code, 1);
  });
  await t.step("for Nagios, where nothing can be told", async () => {
    for (const args of [["--dir", dir.join("none")], ["--dir", dir.path, "--nonsense"], []]) {
      const { code, stdout } = await tool(["info", "--nagios", ...args]);
      assertEquals(code, 3);
      assertMatch(stdout, /^QMPBACKUP UNKNOWN - [^\n|]+\n$/);
    }
  });
  await t.step("and one that can't be read does not hide the others", async () => {
    await Deno.writeTextFile(dir.join("good/_qmpbackup/runs/x.json"), "{");
    const { code, stdout } = await info("--max-age", "100d");
    assertEquals(code, 1);
    const [first, ...others] = rowsOf(stdout);
    assertEquals([first?.[0], first?.[1], others.length], ["UNREADABLE", "good", 4]);
    assertMatch(stdout, /x\.json" is not JSON/);
  });
});

Deno.test("`info` of the folder of the months lists all of them", async () => {
  await using dir = await tempDir();
  await writeTarget(dir.join("2026-01"), [nightOf(49), failedNight(25, 2)]);
  await writeTarget(dir.join("2026-02"), [nightOf(1)]);
  const { code, stdout } = await tool(["info", "--dir", dir.path, "--max-age", "2h"]);
  assertEquals(code, 0);
  assertStringIncludes(stdout, ": 3 runs, 2 done, 1 failed or stopped\n");
  assertEquals(stdout.match(/^\d{4}-.* (full|auto) /gm)?.length, 3);
  assertMatch(stdout, /\nFree: .+, room for about \d+ more nights of 5 MiB, as the last ones\n/);
  const { stdout: json } = await tool(["info", "--dir", dir.path, "--json", "--last", "2"]);
  const lines = json.trimEnd().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.map(({ notes }) => notes), [["failed: It is off"], [], undefined]);
  const { runs, chains, lastComplete, health, nightBytes } = lines.at(-1);
  assertEquals([runs, chains.length, lastComplete, health, nightBytes], [
    2,
    2,
    "run-1",
    "ok",
    5 << 20,
  ]);
});

Deno.test("`info` refuses what does not go together", async () => {
  await using dir = await tempDir();
  await writeTarget(dir.join("vm1"), [nightOf(1)]);
  await writeTarget(dir.join("vm2"), [nightOf(1)]);
  const cases: [words: string, ...args: string[]][] = [
    ["--last is for the backups of one VM", "--dir", dir.path, "--last", "3"],
    ["--last must be 1 or more", "--dir", dir.join("vm1"), "--last", "0"],
    ['No run has the disk "disk9" (--disk): there are "disk0"', ...["--dir", dir.join("vm1")], ...[
      "--disk",
      "disk9",
    ]],
    ["--max-age takes a time such as 26h", "--dir", dir.path, "--max-age", "1w"],
    ["--all is for backups", "--socket", "none", "--all"],
  ];
  for (const [words, ...args] of cases) {
    const { code, stderr } = await tool(["info", ...args]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, words);
  }
});
