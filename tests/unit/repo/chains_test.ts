import { assertEquals, assertThrows } from "@std/assert";
import { ChainError, chainOf, lastInChain, restorePoints } from "../../../src/repo/chains.ts";
import type { DiskRecord, RunRecord } from "../../../src/repo/record.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

const full = (file: string, change: Partial<DiskRecord> = {}) =>
  aDiskRecord("disk0", { file, ...change });
const inc = (file: string, parent: string | null, change: Partial<DiskRecord> = {}) =>
  aDiskRecord("disk0", { level: "inc", file, parent, ...change });

/** Runs of one disk each, in this order. */
function runsOf(...disks: DiskRecord[]): RunRecord[] {
  return disks.map((disk, index) => aRun([disk], { sequence: index + 1 }));
}

const pointsOf = (...disks: DiskRecord[]) => restorePoints(runsOf(...disks));
const filesOf = (points: { disk: DiskRecord }[]) => points.map(({ disk }) => disk.file);

Deno.test("restorePoints() goes by the sequence, not by the clock", () => {
  const runs = [
    aRun([full("d/2")], { sequence: 2, started: "2020-01-01T00:00:00.000Z" }),
    aRun([full("d/1")], { sequence: 1, started: "2026-01-01T00:00:00.000Z" }),
  ];
  assertEquals(filesOf(restorePoints(runs)), ["d/1", "d/2"]);
});

for (const result of ["pending", "failed", "cancelled"] as const) {
  Deno.test(`restorePoints() leaves out a disk that is ${result}`, () => {
    const disks = [full("d/1"), full("e/1", { result })];
    assertEquals(filesOf(restorePoints([aRun(disks, { state: "failed" })])), ["d/1"]);
  });
}

Deno.test("lastInChain() finds the newest backup of the disk", () => {
  const points = pointsOf(full("d/1"), inc("d/2", "d/1"), full("e/3", { id: "other" }));
  assertEquals(lastInChain(points, full("").id)?.disk.file, "d/2");
});

Deno.test("lastInChain() passes over copies", () => {
  const points = pointsOf(full("d/1"), full("d/2", { level: "copy" }));
  assertEquals(lastInChain(points, full("").id)?.disk.file, "d/1");
});

Deno.test("lastInChain() finds nothing for a disk that was never backed up", () => {
  assertEquals(lastInChain(pointsOf(full("d/1")), "other"), undefined);
});

Deno.test("chainOf() lists the images from the full backup on", () => {
  const points = pointsOf(full("d/1"), inc("d/2", "d/1"), inc("d/3", "d/2"), inc("d/4", "d/3"));
  assertEquals(filesOf(chainOf(points, "d/3")), ["d/1", "d/2", "d/3"]);
});

Deno.test("chainOf() keeps to one of two chains", () => {
  const points = pointsOf(full("d/1"), inc("d/2", "d/1"), full("d/3"), inc("d/4", "d/3"));
  assertEquals(filesOf(chainOf(points, "d/4")), ["d/3", "d/4"]);
});

Deno.test("chainOf() takes a copy alone", () => {
  const points = pointsOf(full("d/1"), full("d/2", { level: "copy" }));
  assertEquals(filesOf(chainOf(points, "d/2")), ["d/2"]);
});

Deno.test("chainOf() refuses a link that leads nowhere", () => {
  const points = pointsOf(full("d/1"), inc("d/3", "d/2"));
  assertThrows(() => chainOf(points, "d/3"), ChainError, 'No record of "d/2"');
});

Deno.test("chainOf() refuses a circle", () => {
  const points = pointsOf(inc("d/1", "d/2"), inc("d/2", "d/1"));
  assertThrows(() => chainOf(points, "d/2"), ChainError, "circle");
});

Deno.test("chainOf() refuses an image that builds on itself", () => {
  assertThrows(() => chainOf(pointsOf(inc("d/1", "d/1")), "d/1"), ChainError, "circle");
});

Deno.test("chainOf() refuses an increment that builds on nothing", () => {
  const points = pointsOf(inc("d/1", null));
  assertThrows(() => chainOf(points, "d/1"), ChainError, "does not start with a full backup");
});

Deno.test("chainOf() refuses a link to an image that is not done", () => {
  const points = pointsOf(full("d/1", { result: "failed" }), inc("d/2", "d/1"));
  assertThrows(() => chainOf(points, "d/2"), ChainError, 'No record of "d/1"');
});
