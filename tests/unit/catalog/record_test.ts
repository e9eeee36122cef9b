import { assertEquals, assertThrows } from "@std/assert";
import {
  formatRecord,
  parseRecord,
  RecordError,
  type RunRecord,
} from "../../../src/catalog/record.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

const run = aRun([aDiskRecord()]);

/** Decodes a record with one field changed, of the run or of its disk. */
function parseWith(change: Record<string, unknown>, diskChange: Record<string, unknown> = {}) {
  const disks = [{ ...run.disks[0], ...diskChange }];
  return parseRecord("r.json", JSON.stringify({ ...run, disks, ...change }));
}

function assertRefused(
  where: string,
  change: Record<string, unknown>,
  diskChange: Record<string, unknown> = {},
) {
  assertThrows(() => parseWith(change, diskChange), RecordError, `at "${where}"`);
}

Deno.test("parseRecord() reads what formatRecord() writes", () => {
  assertEquals(parseRecord("r.json", formatRecord(run)), run);
});

Deno.test("parseRecord() reads the record of a run that has not taken its point in time", () => {
  const unfinished: Partial<RunRecord> = { state: "running", pointInTime: null, finished: null };
  assertEquals(parseWith(unfinished).state, "running");
});

Deno.test("parseRecord() passes over fields that it does not know", () => {
  assertEquals(parseWith({ future: 1 }, { future: 1 }), run);
});

Deno.test("formatRecord() ends in a line end", () => {
  assertEquals(formatRecord(run).at(-1), "\n");
});

const HOSTILE_PATHS = [
  ...[
    "../disk.qcow2",
    "disk0/../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "",
    "disk0/",
    "disk0//x",
  ],
  ...["disk0/sub/x", "./disk0", "disk0/.", "disk0/x\0"],
];
for (const path of HOSTILE_PATHS) {
  Deno.test(`parseRecord() refuses the path ${JSON.stringify(path)}`, () => {
    assertRefused("disks.0.file", {}, { file: path });
    // The target itself is a folder that disks may share.
    if (path !== ".") assertRefused("disks.0.folder", {}, { folder: path });
    assertRefused("disks.0.parent", {}, { parent: path });
  });
}

for (const id of ["../../../etc/cron", "a/b", "/etc/passwd", "..", "", "a\0b"]) {
  Deno.test(`parseRecord() refuses the run id ${JSON.stringify(id)}, which names its file`, () => {
    assertRefused("id", { id });
  });
}

Deno.test("parseRecord() refuses a newer version, with the remedy", () => {
  assertThrows(() => parseWith({ version: 2 }), RecordError, "was written by a newer qmpbackup");
});

Deno.test("parseRecord() refuses a newer version whatever else is in it", () => {
  const text = JSON.stringify({ format: "qmpbackup-run", version: 9 });
  assertThrows(() => parseRecord("r.json", text), RecordError, "was written by a newer qmpbackup");
});

Deno.test("parseRecord() refuses another program's JSON", () => {
  assertRefused("format", { format: "another" });
});

for (const text of ["", "{", formatRecord(run).slice(0, -10), "\0".repeat(100)]) {
  Deno.test(`parseRecord() refuses ${text.length} bytes that are no JSON`, () => {
    assertThrows(() => parseRecord("r.json", text), RecordError, 'The record "r.json" is no JSON');
  });
}

for (const text of ["null", "[]", "1", '"text"']) {
  Deno.test(`parseRecord() refuses the JSON ${text}`, () => {
    assertThrows(() => parseRecord("r.json", text), RecordError, "damaged or not ours");
  });
}

const DAMAGED: [string, Record<string, unknown>][] = [
  ["sequence", { sequence: 0 }],
  ["sequence", { sequence: 1.5 }],
  ["sequence", { sequence: 1e21 }],
  ["chain", { chain: "../../etc/passwd" }],
  ["level", { level: "diff" }],
  ["state", { state: "unknown" }],
  ["started", { started: "yesterday" }],
  ["started", { started: "2026-11-22T23:00:00+99:99" }],
  ["pointInTime", { pointInTime: 1763852400 }],
  ["disks", { disks: {} }],
  ["vm", { vm: null }],
  ["hold.kind", { hold: { kind: "freeze", pausedMs: 0, frozenMs: null } }],
];
for (const [where, change] of DAMAGED) {
  Deno.test(`parseRecord() refuses ${JSON.stringify(change)}`, () => assertRefused(where, change));
}

const DAMAGED_DISKS: Record<string, unknown>[] = [
  ...[{ level: "auto" }, { result: "ok" }, { bitmap: 1 }, { virtualSizeBytes: -1 }, { id: null }],
  ...[{ bytesWritten: "5" }],
];
for (const change of DAMAGED_DISKS) {
  Deno.test(`parseRecord() refuses a disk with ${JSON.stringify(change)}`, () => {
    assertRefused(`disks.0.${Object.keys(change)[0]}`, {}, change);
  });
}

Deno.test("parseRecord() refuses a size that is too large for a number", () => {
  const text = formatRecord(run).replace(`"bytesWritten": ${5 << 20}`, '"bytesWritten": 1e999');
  assertThrows(() => parseRecord("r.json", text), RecordError, 'at "disks.0.bytesWritten"');
});
