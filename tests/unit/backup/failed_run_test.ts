import { assertEquals, assertThrows } from "@std/assert";
import { failedRecord } from "../../../src/backup/failed_run.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import { formatRecord, parseRecord } from "../../../src/repo/record.ts";
import { Failure, StoppedError, UsageError } from "../../../src/errors.ts";
import {
  aDisk,
  aDiskRecord,
  aDiskWithBitmap,
  aRequest,
  aRun,
  aTarget,
  factsAfter,
  NOW_SECONDS,
  someFacts,
} from "../_fixtures.ts";

const NOW = new Date(NOW_SECONDS * 1000);
const OFF = {
  id: "20261122T230000Z-f00dcafe",
  startedAt: NOW,
  toolVersion: "1.0.0",
  qemu: "",
  vm: null,
};

/** The record of a night on which the VM was off. */
function nightOff(
  runs: Parameters<typeof aTarget>[0] = [],
  error: Error = new Failure("It is off"),
) {
  return failedRecord(aTarget(runs), aRequest(), OFF, error, NOW);
}

Deno.test("failedRecord() can be read back, whatever was known", () => {
  const none = nightOff();
  for (const record of [none, nightOff([aRun([aDiskRecord()])]), nightOff([none])]) {
    assertEquals(parseRecord("x", formatRecord(record)), record);
  }
});

Deno.test("failedRecord() takes VM and chain from the records before, and comes after them", () => {
  const before = aRun([aDiskRecord()], { sequence: 7, vm: { name: "vm1", uuid: "u" } });
  const { sequence, vm, chain, state, disks, error } = nightOff([before]);
  assertEquals({ sequence, vm, chain }, { sequence: 8, vm: before.vm, chain: before.chain });
  assertEquals({ state, disks, error }, { state: "failed", disks: [], error: "It is off" });
});

Deno.test("failedRecord() says that a run was stopped", () => {
  assertEquals(nightOff([], new StoppedError("SIGTERM")).state, "cancelled");
});

Deno.test("failedRecord() keeps no reason without end", () => {
  assertEquals(nightOff([], new Failure("x".repeat(1 << 20))).error?.length, 2_000);
});

Deno.test("an increment builds on the last backup, whatever failed since", () => {
  const full = aRun([aDiskRecord()]);
  const facts = factsAfter([full], [aDiskWithBitmap()]);
  const runs = [full, nightOff([full])];
  const plan = planBackup(aRequest(), { ...facts, target: { ...facts.target, runs } });
  assertEquals(plan.disks[0]?.level, "inc");
  assertEquals(plan.disks[0]?.parent, full.disks[0]?.file);
  assertEquals(plan.sequence, 3);
});

Deno.test("a target that knows failed runs alone is new: for the level, the VM, and a missing mount", () => {
  const failed = aRun([aDiskRecord("disk0", { result: "failed" })], {
    vm: { name: "vm1", uuid: "" },
  });
  for (const runs of [[nightOff()], [failed]]) {
    const target = aTarget(runs, { chainId: null });
    const { disks, warnings } = planBackup(aRequest(), someFacts([aDiskWithBitmap()], { target }));
    assertEquals(disks[0]?.level, "full");
    assertEquals(warnings.filter((words) => words.includes("is new, but there are")).length, 1);
  }
});

Deno.test("a run that did not know its VM does not hide whose target it is", () => {
  const runs = [aRun([aDiskRecord()], { vm: { name: "other", uuid: "" } }), nightOff()];
  assertThrows(
    () => planBackup(aRequest(), someFacts([aDisk()], { target: aTarget(runs) })),
    UsageError,
    'this is "vm1"',
  );
});
