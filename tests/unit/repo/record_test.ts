import { assertEquals, assertThrows } from "@std/assert";
import {
  type DiskRecord,
  formatRecord,
  halfAdopted,
  inOrder,
  parseRecord,
  RecordError,
  type RunRecord,
} from "../../../src/repo/record.ts";
import { aBackingImage, aDiskRecord, aRun } from "../_fixtures.ts";

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
    assertThrows(() => parseRecord("r.json", text), RecordError, 'The record "r.json" is not JSON');
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

for (const path of ["_qmpbackup/lock", "_qmpbackup/runs", "uuid", "disk0.qcow2.config"]) {
  Deno.test(`parseRecord() refuses the image "${path}", which is none`, () => {
    const folder = path.includes("/") ? "_qmpbackup" : ".";
    assertRefused("disks.0.file", {}, { folder, file: path });
    assertRefused("disks.0.parent", {}, { folder, file: "x", parent: path });
  });
}

for (const name of ["../../etc/cron.d/x", "a/b", "/x", "..", ".", "", "a\0"]) {
  Deno.test(`parseRecord() refuses a disk called ${JSON.stringify(name)}, which names a file`, () => {
    assertRefused("disks.0.name", {}, { name });
  });
}

Deno.test("parseRecord() refuses an image or a parent outside of the disk's folder", () => {
  for (
    const change of [{ file: "disk1/x" }, { file: "x" }, { folder: "." }, { parent: "disk1/x" }]
  ) {
    assertRefused("disks.0", {}, change);
  }
});

Deno.test("parseRecord() takes images that lie in the target itself", () => {
  const change = { folder: ".", file: "INC-2-x", parent: "FULL-1-x" };
  assertEquals(parseWith({}, change).disks[0]?.file, "INC-2-x");
});

Deno.test("parseRecord() refuses another program's bitmap, which a run would remove", () => {
  assertRefused("disks.0.bitmap", {}, { bitmap: "libvirt-backup" });
});

for (const sequence of [-1, 2 ** 53, 1e308, "1", null]) {
  Deno.test(`parseRecord() refuses the sequence ${sequence}`, () => {
    assertRefused("sequence", { sequence });
  });
}

for (const version of [0, -1, "1", null]) {
  Deno.test(`parseRecord() refuses the version ${JSON.stringify(version)}`, () => {
    assertRefused("version", { version });
  });
}

Deno.test("parseRecord() names the newer program whatever else a record of the future says", () => {
  const text = JSON.stringify({ format: run.format, version: 2, disks: "elsewhere" });
  assertThrows(() => parseRecord("r.json", text), RecordError, "a newer qmpbackup");
});

const numbered = (id: string, sequence: number, disk = "disk0", started = run.started) =>
  aRun([aDiskRecord(disk)], { id, sequence, started });

Deno.test("halfAdopted() finds what was written before the first of an adoption", () => {
  const adopted = (n: number, sequence: number) => numbered(`adopted-${n}-3f9a2c11`, sequence);
  const later = adopted(1700000100, 2);
  const found = (...runs: RunRecord[]) => halfAdopted([later, ...runs]).map(({ id }) => id);
  assertEquals(found(), [later.id]);
  assertEquals(found(numbered("20260101T000000Z-aaaaaaaa", 1, "disk1")), [later.id]);
  assertEquals(found(adopted(1700000000, 1)), []);
  // The first was removed by hand, long after.
  assertEquals(found(numbered("20260101T000000Z-aaaaaaaa", 3)), []);
});

Deno.test("inOrder() goes by the sequence, whatever the clock did", () => {
  const late = numbered("a", 2, "disk0", "2001-01-01T00:00:00.000Z");
  assertEquals(inOrder([late, numbered("b", 1)]).map(({ id }) => id), ["b", "a"]);
});

Deno.test("inOrder() refuses two runs of one disk in one place", () => {
  const twice = [numbered("a", 1), numbered("b", 1)];
  assertThrows(
    () => inOrder(twice),
    RecordError,
    'both say that they are number 1 of the disk "disk0"',
  );
});

Deno.test("inOrder() takes two disks in one place, which were adopted by two runs", () => {
  const earlier = numbered("b", 1, "disk1", "2001-01-01T00:00:00.000Z");
  assertEquals(inOrder([numbered("a", 1), earlier]).map(({ id }) => id), ["b", "a"]);
});

Deno.test("parseRecord() reads what watches a disk, and records of old without it", () => {
  const sentinel = { bitmap: "qmpbackup-disk0-f00dcafe-id(end)", countBytes: 65536 };
  const backing = [aBackingImage("a"), aBackingImage("b", { fileBytes: null, modified: null })];
  const run = aRun([aDiskRecord("disk0", { sentinel, backing })]);
  assertEquals(parseRecord("r.json", formatRecord(run)), run);
  const { sentinel: _, backing: __, ...old } = run.disks[0] as DiskRecord;
  const [row] = parseRecord("r.json", JSON.stringify({ ...run, disks: [old] })).disks;
  assertEquals([row?.sentinel, row?.backing], [null, null]);
});

Deno.test("parseRecord() refuses another program's bitmap as a sentinel", () => {
  const sentinel = { bitmap: "other", countBytes: 65536 };
  const text = JSON.stringify(aRun([aDiskRecord("disk0", { sentinel })]));
  assertThrows(() => parseRecord("r.json", text), RecordError, "watches a disk's end");
});
