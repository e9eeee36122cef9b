import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import * as report from "../../../../src/cli/output/report.ts";
import {
  bitmapsJson,
  type Destination,
  disksText,
  imagesText,
  jsonLine,
  restoreText,
  runJson,
} from "../../../../src/cli/output/report.ts";
import { type ImageStates, PRESENT } from "../../../../src/overview/image_states.ts";
import type { RunRecord } from "../../../../src/repo/record.ts";
import { localTime } from "../../../../src/time.ts";
import {
  aBitmap,
  aDisk,
  aDiskRecord,
  aDiskWithBitmap,
  aRun,
  aTarget,
  CHAIN,
  OLD_TAG,
} from "../../_fixtures.ts";

const POINT_IN_TIME = localTime(new Date("2026-11-21T23:00:01Z"));
const CONTROL = "a\x1b[2Jb\n";
const SHOWN = "a\\x1b[2Jb\\x0a";

/** The cells of a table's line. */
const cells = (line = "") => line.split(/ {2,}/);

Deno.test("jsonLine() is one line with its type first", () => {
  assertEquals(
    jsonLine("summary", { text: "a\nb", n: 1 }),
    '{"message_type":"summary","text":"a\\nb","n":1}\n',
  );
});

const DESTINATION: Destination = { target: "/backup/vm1", freeBytes: 78 * 2 ** 30 };
const backupText = (record: RunRecord) => report.backupText(record, DESTINATION);

Deno.test("backupText() says what became of each disk", () => {
  const failed = aDiskRecord("disk1", { result: "failed", error: "No space left", level: "inc" });
  const text = backupText(aRun([aDiskRecord(), failed], { state: "failed" }));
  const [head, titles, first, second] = text.split("\n");
  assertEquals(head, `Backup 20261121T230000Z-${OLD_TAG} of the VM "vm1": failed`);
  assertEquals(cells(titles), ["DISK", "LEVEL", "RESULT", "WRITTEN", "FILE"]);
  assertEquals(cells(first), ["disk0", "full", "done", "5 MiB", aDiskRecord().file]);
  // Why, the log has said when it happened.
  assertEquals(cells(second), ["disk1", "inc", "failed", "-", "-"]);
  assertStringIncludes(
    text,
    "\n1 of 2 disks, 5 MiB in 0:09 (569 kiB/s) to /backup/vm1, 78 GiB free\n",
  );
  const nameless = backupText({ ...aRun([]), vm: { name: "", uuid: "" } });
  assertMatch(nameless, /^Backup \S+ of a VM without a name: done\n/);
});

const HOLDS = [
  [{ kind: "none", pausedMs: 0, frozenMs: null }, "guest not paused"],
  [{ kind: "stop", pausedMs: 1.5, frozenMs: null }, "guest paused for 1.5 ms"],
  [{ kind: "already-stopped", pausedMs: 0, frozenMs: null }, "guest was paused already"],
  [
    { kind: "stop", pausedMs: 2, frozenMs: 30 },
    "guest paused for 2 ms, file systems frozen for 30 ms",
  ],
] as const;
for (const [hold, words] of HOLDS) {
  Deno.test(`backupText() says: ${words}`, () => {
    assertStringIncludes(
      backupText(aRun([aDiskRecord()], { hold })),
      `\nPoint in time: ${POINT_IN_TIME}, ${words}\n`,
    );
  });
}

Deno.test("backupText() says no point in time where none was taken", () => {
  const text = backupText(aRun([aDiskRecord()], { pointInTime: null }));
  assertEquals(text.includes("Point in time"), false);
});

Deno.test("backupText() names what is left out, but for what was a warning", () => {
  const leftOut = [
    { device: "cd0", reason: "read-only" },
    { device: "raw0", reason: "format raw", unasked: true },
  ];
  const text = backupText(aRun([], { leftOut, warnings: ["raw0 is not in this backup"] }));
  assertEquals(text.match(/^Left out: .*$/gm), ["Left out: cd0, read-only"]);
  assertEquals(text.includes("raw0"), false);
});

Deno.test("backupText() says no speed where nothing was written, and no room where it is not known", () => {
  const record = aRun([aDiskRecord("disk0", { bytesWritten: 0 })]);
  const text = report.backupText(record, { target: "/b", freeBytes: null });
  assertStringIncludes(text, "\n1 of 1 disk, 0 B in 0:09 to /b\n");
});

Deno.test("backupText() obeys no name", () => {
  const text = backupText(
    aRun([aDiskRecord("d", { name: CONTROL, error: CONTROL, file: CONTROL })], {
      vm: { name: CONTROL, uuid: "" },
      leftOut: [{ device: CONTROL, reason: CONTROL }],
      warnings: [CONTROL],
    }),
  );
  assertEquals(text.includes("\x1b"), false);
  assertEquals(text.split(SHOWN).length - 1, 5);
});

Deno.test("restoreText() says what was restored, and from when", () => {
  const [titles, row] = restoreText([{
    disk: "disk0",
    point: "INC-2000-disk0.qcow2",
    pointInTime: "2026-11-21T23:00:01.000Z",
    images: 3,
    format: "qcow2",
    virtualSizeBytes: 16 << 20,
    targetFile: "/vm/new.qcow2",
  }]).split("\n");
  assertEquals(cells(titles), ["DISK", "POINT IN TIME", "IMAGES", "SIZE", "FILE"]);
  assertEquals(cells(row), ["disk0", POINT_IN_TIME, "3", "16 MiB", "/vm/new.qcow2"]);
});

Deno.test("disksText() shows each disk with its bitmaps' names", () => {
  const [, row] = disksText([aDiskWithBitmap()], []).split("\n");
  assertEquals(cells(row), [
    "disk0",
    "qcow2",
    "16 MiB",
    aDisk().id,
    "/vm/disk0.qcow2",
    `qmpbackup-disk0-${OLD_TAG}-${CHAIN}`,
  ]);
});

Deno.test("disksText() names what is no disk to back up", () => {
  const text = disksText([], [{ device: "cd0", reason: "the drive is empty" }]);
  assertStringIncludes(text, "No disk to back up: cd0, the drive is empty\n");
});

Deno.test("disksText() obeys no name", () => {
  const text = disksText([aDisk("d", { source: CONTROL })], [{ device: CONTROL, reason: "" }]);
  assertEquals(text.includes("\x1b"), false);
});

Deno.test("bitmapsJson() has what scripts look for", () => {
  const text = JSON.stringify(bitmapsJson([aDiskWithBitmap()]), null, 2);
  assertMatch(text, /"recording": true/);
});

Deno.test("bitmapsJson() calls QEMU's fields by QEMU's names", () => {
  const disk = aDisk("disk0", { bitmaps: [aBitmap("b", { countBytes: 1, granularityBytes: 2 })] });
  assertEquals(bitmapsJson([disk])[0]?.bitmaps, [{
    name: "b",
    recording: true,
    busy: false,
    persistent: true,
    inconsistent: false,
    count: 1,
    granularity: 2,
  }]);
});

Deno.test("imagesText() shows each image and what it builds on", () => {
  const full = aDiskRecord();
  const inc = aDiskRecord("disk0", { level: "inc", file: "disk0/INC-1-x", parent: full.file });
  const text = imagesText(aTarget([aRun([full]), aRun([inc], { id: "run2", sequence: 2 })]));
  const [head, titles, , row] = text.split("\n");
  assertEquals(head, `Chain ${CHAIN}, 2 runs`);
  assertEquals(cells(titles)[0], "POINT IN TIME");
  assertEquals(cells(row), [
    POINT_IN_TIME,
    "disk0",
    "inc",
    "done",
    "5 MiB",
    "disk0/INC-1-x",
    full.file,
    "run2",
  ]);
});

Deno.test("imagesText() and runJson() say what became of an image that is done", () => {
  const [full, inc, plain] = [aDiskRecord(), aDiskRecord("disk1"), aDiskRecord("disk2")];
  const run = aRun([full, inc, plain]);
  const states: ImageStates = new Map([
    [full, { state: "missing", reason: "is missing" }],
    [inc, { state: "changed", reason: "was changed: it has 0 bytes" }],
    [plain, PRESENT],
  ]);
  const text = imagesText(aTarget([run]), states);
  const rows = text.split("\n").slice(2, 5).map(cells);
  assertEquals(rows.map((row) => row[3]), ["missing", "changed", "done"]);
  assertEquals(rows.map((row) => row[8] ?? ""), [
    "",
    "the image was changed: it has 0 bytes",
    "",
  ]);
  const { disks } = runJson(run, states);
  assertEquals(disks.map(({ result, image, imageReason }) => [result, image, imageReason]), [
    ["done", "missing", "is missing"],
    ["done", "changed", "was changed: it has 0 bytes"],
    ["done", "present", null],
  ]);
});

Deno.test("imagesText() shows when a run started that took no point in time", () => {
  const run = aRun([aDiskRecord("disk0", { result: "failed" })], { pointInTime: null });
  const [, , row] = imagesText(aTarget([run])).split("\n");
  assertEquals(cells(row)[0], localTime(new Date(run.started)));
});

Deno.test("imagesText() has a row for a run that failed before it knew its disks, with the reason", () => {
  const night = aRun([], { id: "night", state: "failed", pointInTime: null, error: "It is off" });
  const disk = aDiskRecord("disk1", { result: "failed", error: "It is full" });
  const text = imagesText(aTarget([aRun([aDiskRecord(), disk]), night]));
  const [, titles, good, bad, row] = text.split("\n").map((line) => cells(line));
  assertEquals([titles?.at(-1), bad?.at(-1)], ["WHY", "It is full"]);
  assertEquals(good?.length, 8);
  const time = localTime(new Date(night.started));
  assertEquals(row, [time, "-", "auto", "failed", "-", "-", "-", "night", "It is off"]);
});

Deno.test("imagesText() says that there is no chain", () => {
  assertStringIncludes(imagesText(aTarget()), "Chain (none), 0 runs\n");
});
