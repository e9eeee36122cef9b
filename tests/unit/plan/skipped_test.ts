import { assertEquals } from "@std/assert";
import { afterChoice, leftOutWarnings, withMissing } from "../../../src/plan/skipped.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import type { RunRecord } from "../../../src/repo/record.ts";
import { aDisk, aDiskRecord, aRequest, aRun, aTarget, someFacts } from "../_fixtures.ts";

const SHARE = { device: "share0", reason: "a shared folder", unasked: true };
const CD = { device: "cd0", reason: "read-only" };
const both = aRun([aDiskRecord("disk0"), aDiskRecord("disk1")]);

function missing(runs: RunRecord[], disks = [aDisk("disk0")], leftOut = [CD]) {
  return withMissing(runs, disks, [], leftOut);
}

Deno.test("leftOutWarnings() names what nobody asked to leave out, with what to do", () => {
  assertEquals(leftOutWarnings([SHARE, CD]), [
    '"share0" is not in this backup: a shared folder. If that is intended, say so with --exclude share0',
  ]);
});

Deno.test("afterChoice() takes what --exclude names for intended", () => {
  const { device, reason } = SHARE;
  assertEquals(afterChoice([SHARE, CD], { include: [], exclude: ["share0"] }), [
    { device, reason },
    CD,
  ]);
  assertEquals(afterChoice([SHARE], { include: [], exclude: ["other"] }), [SHARE]);
});

Deno.test("afterChoice() takes what --include does not name for intended", () => {
  assertEquals(leftOutWarnings(afterChoice([SHARE], { include: ["disk0"], exclude: [] })), []);
});

Deno.test("withMissing() names a disk of the last run that is gone", () => {
  assertEquals(missing([both]), [CD, {
    device: "disk1",
    reason: "it was in the last backup, but the VM does not have this disk any more",
    unasked: true,
    gone: true,
  }]);
});

Deno.test("withMissing() names a disk of the last run that can't be backed up any more", () => {
  assertEquals(missing([both], undefined, [{ device: "disk1", reason: "read-only" }]), [{
    device: "disk1",
    reason: "it was in the last backup, but is now: read-only",
    unasked: true,
  }]);
});

Deno.test("withMissing() knows a disk whose device is another one now", () => {
  const moved = [aDisk("disk0"), aDisk("disk1", { id: "/machine/peripheral/other" })];
  assertEquals(missing([both], moved), [CD]);
  const renamed = [aDisk("disk0"), aDisk("new", { source: "/vm/disk1.qcow2" })];
  assertEquals(missing([both], renamed), [CD]);
  const id = both.disks[1]?.id;
  assertEquals(withMissing([both], [aDisk("disk0"), aDisk("new")], [id], []), []);
});

Deno.test("withMissing() says it once", () => {
  const leftOut = [{ device: "disk1", reason: "it was in the last backup", unasked: true }];
  assertEquals(missing([both, aRun([aDiskRecord("disk0")], { leftOut })]), [CD]);
});

Deno.test("withMissing() looks past a run that was told to leave a disk out, and one that had none", () => {
  const leftOut = [{ device: "disk1", reason: "not named by --include" }];
  const alone = aRun([aDiskRecord("disk0")], { leftOut });
  const early = aRun([], { state: "failed" });
  assertEquals(missing([both, alone, early]).map(({ device }) => device), ["cd0", "disk1"]);
  assertEquals(missing([both, alone], [aDisk("disk0"), aDisk("disk1")]), [CD]);
});

Deno.test("planBackup() warns of a raw disk that nobody asked for", () => {
  const raw = aDisk("raw0", { format: "raw", holdsBitmaps: false });
  const warningsOf = (change: Parameters<typeof aRequest>[0]) =>
    planBackup(aRequest(change), someFacts([aDisk(), raw])).warnings;
  assertEquals(warningsOf({}), [
    '"raw0" is not in this backup: format raw: --include-raw or --include takes it. ' +
    "If that is intended, say so with --exclude raw0",
  ]);
  for (const change of [{ includeRaw: true }, { exclude: ["raw0"] }, { include: ["disk0"] }]) {
    assertEquals(warningsOf(change), []);
  }
});

Deno.test("planBackup() warns of a disk that was in the last month's last run, unless it is excluded", () => {
  const facts = someFacts([aDisk("disk0")], { pastRuns: [both] });
  const plan = planBackup(aRequest(), facts);
  assertEquals(plan.leftOut.map(({ device, unasked }) => [device, unasked]), [["disk1", true]]);
  assertEquals(plan.warnings.length, 1);
  assertEquals(planBackup(aRequest({ exclude: ["disk1"] }), facts).warnings, []);
  // A night that failed before this month's first backup says nothing of the disks.
  const night = { ...facts, target: aTarget([aRun([], { state: "failed" })]) };
  assertEquals(planBackup(aRequest(), night).warnings.length, 1);
  // Once this month has a run of its own, that one counts.
  const later = { ...facts, target: aTarget([aRun([aDiskRecord("disk0")])]) };
  assertEquals(planBackup(aRequest({ level: "full" }), later).leftOut, []);
});

Deno.test("planBackup() warns of a TPM or a shared folder that nobody excluded", () => {
  const facts = someFacts([aDisk()], { leftOut: [SHARE, CD] });
  assertEquals(planBackup(aRequest(), facts).warnings.length, 1);
  assertEquals(planBackup(aRequest({ exclude: ["share0"] }), facts).warnings, []);
});

Deno.test("planBackup() does not take a copy's new folder for one that is not mounted", () => {
  const bitmaps = [{
    name: "qmpbackup-disk0-0ld0ld00-0b6e5d1c-7b1f-4a6e-9a83-2f7f5f1f0c11",
    countBytes: 0,
    granularityBytes: 65536,
    recording: true,
    busy: false,
    persistent: true,
    inconsistent: false,
  }];
  const facts = someFacts([aDisk("disk0", { bitmaps })]);
  assertEquals(planBackup(aRequest({ level: "full" }), facts).warnings.length, 1);
  assertEquals(planBackup(aRequest({ level: "copy" }), facts).warnings, []);
});
