import { assertEquals } from "@std/assert";
import { chooseWays } from "../../../src/backup/ways.ts";
import { Deadline } from "../../../src/fs/deadline.ts";
import type { Facts } from "../../../src/plan/facts.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import type { BackupRequest } from "../../../src/plan/request.ts";
import type { BlockErrors } from "../../../src/qmp/block_errors.ts";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { StopEvents } from "../../../src/vm/io_error.ts";
import { aDisk, aDiskRecord, aRequest, aRun, factsAfter, someFacts } from "../_fixtures.ts";

/** A QEMU that is told nothing. */
const SILENT = {
  qmp: {} as QmpClient,
  deadline: new Deadline(1000),
  stops: {} as StopEvents,
  leftovers: [],
};

function waysOf(facts: Facts, change: Partial<BackupRequest> = {}): string[] {
  const plan = planBackup(aRequest(change), facts);
  const { copies } = chooseWays({ ...SILENT, plan }, {} as BlockErrors);
  assertEquals(copies.map(({ disk }) => disk), plan.disks);
  return copies.map((copy) => copy.constructor.name);
}

const facts = someFacts([aDisk("disk0"), aDisk("disk1")]);
/** The bitmap of disk0 is gone, and disk1 has no backup yet. */
const lost = factsAfter([aRun([aDiskRecord()])], [aDisk("disk0"), aDisk("disk1")]);

Deno.test("chooseWays() copies each disk's snapshot where this QEMU can make one", () => {
  assertEquals(waysOf(facts), ["FleecedCopy", "FleecedCopy"]);
});

Deno.test("chooseWays() compares a disk whose bitmap was lost, and copies the others", () => {
  const ways = waysOf(lost, { onLostBitmap: "compare" });
  assertEquals(ways, ["ComparedCopy", "FleecedCopy"]);
});

Deno.test("chooseWays() copies all disks directly where this QEMU has no snapshots", () => {
  const features = { ...facts.features, fleecing: false };
  const ways = waysOf({ ...lost, features }, { onLostBitmap: "compare" });
  assertEquals(ways, ["DirectCopy", "DirectCopy"]);
});
