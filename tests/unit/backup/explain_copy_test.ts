import { assertEquals } from "@std/assert";
import { type CopyFault, explainCopy } from "../../../src/backup/explain_copy.ts";
import type { DiskPlan } from "../../../src/plan/plan.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import { aRequest, someFacts } from "../_fixtures.ts";

const disk = planBackup(aRequest(), someFacts()).disks[0] as DiskPlan;
const { source } = disk.disk;
const fleece = disk.fleeceFile;

function explain(
  fault: Partial<CopyFault>,
  { direct = false, limit = null as number | null } = {},
) {
  const nothing = { operation: null, reason: null, guest: null, why: [] };
  const plan = { ...disk, cbwTimeoutSeconds: limit };
  return explainCopy(plan, "/t/INC", direct, { ...nothing, ...fault });
}

Deno.test("explainCopy() names the disk's own storage first where its snapshot can't be read", () => {
  assertEquals(
    explain({ operation: "read", reason: "Input/output error" }),
    `The disk "disk0" can't be read: Input/output error. Check its storage, "${source}". ` +
      `Less likely: "${fleece}", which keeps what the guest overwrites, can't be read`,
  );
  assertEquals(
    explain({
      operation: "read",
      guest: { operation: "read", reason: "Input/output error" },
    }, { direct: true }),
    `The disk "disk0" can't be read: QEMU does not say why. Check its storage, "${source}". ` +
      "The guest could not read this disk either: Input/output error",
  );
});

Deno.test("explainCopy() names the fleece where the snapshot was given up", () => {
  const lost =
    'The disk "disk0" could not be copied to "/t/INC": what the guest overwrote meanwhile ' +
    `could not be kept in "${fleece}"`;
  assertEquals(
    explain({ operation: "read", reason: "Permission denied" }, { limit: 4 }),
    `${lost}. Its storage failed, or took more than 4 s, or the disk could not be read where the guest wrote`,
  );
  assertEquals(
    explain({ operation: "read", why: ['The file system of "/f" is full'] }),
    `${lost}. The file system of "/f" is full`,
  );
});

Deno.test("explainCopy() names the target where that could not be written", () => {
  const copied = 'The disk "disk0" could not be copied to "/t/INC"';
  assertEquals(
    explain({ operation: "write", reason: "Read-only file system" }),
    `${copied}: Read-only file system. The target could not be written: check its storage`,
  );
  assertEquals(
    explain({ operation: "write", reason: "No space left on device", why: ["It is full"] }),
    `${copied}: No space left on device. It is full`,
  );
  assertEquals(explain({ reason: "Bad luck" }), `${copied}: Bad luck`);
});
