import { assertEquals } from "@std/assert";
import {
  backupJobs,
  chunkBytes,
  fileNode,
  filterNode,
  fleeceClusterBytes,
  fleeceNode,
  jobStallTimeoutMs,
  readOnlyTarget,
  snapshotNode,
  targetNode,
} from "../../../src/backup/block_options.ts";
import type { DiskPlan } from "../../../src/plan/plan.ts";
import type { Facts } from "../../../src/plan/facts.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import type { BackupRequest } from "../../../src/plan/request.ts";
import {
  aDisk,
  aDiskRecord,
  aDiskWithBitmap,
  aRequest,
  aRun,
  CHAIN,
  factsAfter,
  OLD_TAG,
  someFacts,
} from "../_fixtures.ts";

interface Action {
  type: string;
  data: Record<string, unknown>;
}

/** The actions of the transaction for the first disk. */
function actionsOf(facts: Facts, change: Partial<BackupRequest> = {}): Action[] {
  const plan = planBackup(aRequest(change), facts);
  return backupJobs(plan, [plan.disks[0] as DiskPlan])["actions"] as Action[];
}

/** Of a disk with little in it, less is copied. */
const FULL = { allocatedBytes: 16 << 20 };
const full = someFacts([aDisk("disk0", FULL)]);
const afterFull = factsAfter([aRun([aDiskRecord()])], [aDiskWithBitmap()]);

const PLAIN = { direct: false, preallocBytes: 0, aio: null };

Deno.test("backupJobs() copies all of the snapshot for a full backup, and keeps count of the rest", () => {
  const bitmap = "qmpbackup-f00dcafe-0-job";
  const node = "qmpbackup-f00dcafe-0-snap";
  assertEquals(actionsOf(full), [{
    type: "block-dirty-bitmap-add",
    data: { node, name: bitmap, granularity: 65536, disabled: true },
  }, {
    type: "blockdev-backup",
    data: {
      "job-id": "qmpbackup.f00dcafe.disk0",
      device: "qmpbackup-f00dcafe-0-snap",
      target: "qmpbackup-f00dcafe-0-target",
      speed: 0,
      compress: false,
      "auto-dismiss": false,
      "auto-finalize": false,
      "on-source-error": "stop",
      "x-perf": { "max-workers": 32, "max-chunk": 262144 },
      sync: "full",
      bitmap,
      "bitmap-mode": "always",
    },
  }]);
});

Deno.test("backupJobs() copies all of the snapshot for a copy", () => {
  const actions = actionsOf(full, { level: "copy" });
  assertEquals(actions.map(({ type, data }) => [type, data["sync"]]), [
    ["block-dirty-bitmap-add", undefined],
    ["blockdev-backup", "full"],
  ]);
});

Deno.test("backupJobs() merges the disk's bitmap into the job's own for an increment", () => {
  const [add, merge] = actionsOf(afterFull);
  const node = "qmpbackup-f00dcafe-0-snap";
  assertEquals(add, {
    type: "block-dirty-bitmap-add",
    data: { node, name: "qmpbackup-f00dcafe-0-job", granularity: 65536, disabled: true },
  });
  assertEquals(merge, {
    type: "block-dirty-bitmap-merge",
    data: {
      node,
      target: "qmpbackup-f00dcafe-0-job",
      bitmaps: [{ node: "disk0", name: `qmpbackup-disk0-${OLD_TAG}-${CHAIN}` }],
    },
  });
});

Deno.test("backupJobs() copies by the job's own bitmap, which holds the rest afterwards", () => {
  const { sync, bitmap, "bitmap-mode": mode } = actionsOf(afterFull)[2]?.data ?? {};
  assertEquals([sync, bitmap, mode], ["bitmap", "qmpbackup-f00dcafe-0-job", "always"]);
});

const thin = someFacts();

Deno.test("backupJobs() copies of a thin disk what its bitmap says is allocated", () => {
  const [add, merge, backup] = actionsOf(thin);
  assertEquals([add?.type, merge?.type, backup?.type], [
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-merge",
    "blockdev-backup",
  ]);
  const bitmap = "qmpbackup-f00dcafe-0-job";
  assertEquals(merge?.data, {
    node: "qmpbackup-f00dcafe-0-snap",
    target: bitmap,
    bitmaps: [{ node: "disk0", name: bitmap }],
  });
  assertEquals([backup?.data["sync"], backup?.data["bitmap"]], ["bitmap", bitmap]);
});

Deno.test("backupJobs() leaves it to QEMU what is allocated where there is no fleece", () => {
  const { features } = thin;
  const [backup, ...rest] = actionsOf({ ...thin, features: { ...features, fleecing: false } });
  assertEquals([backup?.data["sync"], rest], ["top", []]);
});

Deno.test("backupJobs() clears no bitmap", () => {
  const types = actionsOf(afterFull).map(({ type }) => type);
  assertEquals(types, [
    "block-dirty-bitmap-add",
    "block-dirty-bitmap-merge",
    "blockdev-backup",
  ]);
});

Deno.test("backupJobs() passes speed and compression on", () => {
  const job = actionsOf(someFacts(), { speedLimitBytesPerSecond: 5000, compress: "zlib" }).at(-1);
  assertEquals([job?.data["speed"], job?.data["compress"]], [5000, true]);
});

Deno.test("backupJobs() leaves out x-perf where QEMU does not know it", () => {
  const features = { ...someFacts().features, backupPerf: false };
  assertEquals("x-perf" in (actionsOf({ ...someFacts(), features }).at(-1)?.data ?? {}), false);
});

const KIB = 1024;
const CHUNKS: [clusterKib: number, wideReads: boolean, chunkKib: number, fleeceKib: number][] = [
  [4, true, 256, 64],
  [64, true, 256, 64],
  [512, true, 512, 64],
  [2048, true, 2048, 64],
  [4, false, 64, 64],
  [64, false, 64, 64],
  [512, false, 512, 512],
  [2048, false, 2048, 2048],
];
for (const [clusterKib, wideReads, chunkKib, fleeceKib] of CHUNKS) {
  const how = wideReads ? "what the fleece keeps is small" : "both are the same";
  Deno.test(`chunkBytes() is no smaller than clusters of ${clusterKib} KiB, and ${how}`, () => {
    const disk = aDisk("disk0", { clusterSizeBytes: clusterKib * KIB });
    assertEquals([chunkBytes(disk, { wideReads }), fleeceClusterBytes(disk, { wideReads })], [
      chunkKib * KIB,
      fleeceKib * KIB,
    ]);
  });
}

Deno.test("backupJobs() copies in chunks of that size", () => {
  const disk = { ...aDiskWithBitmap(), clusterSizeBytes: 2 << 20 };
  assertEquals(actionsOf(someFacts([disk])).at(-1)?.data["x-perf"], {
    "max-workers": 32,
    "max-chunk": 2 << 20,
  });
});

Deno.test("backupJob() leaves half of QEMU's threads to the guest, however many disks there are", () => {
  const workersOf = (count: number) => {
    const disks = Array.from({ length: count }, (_, i) => aDisk(`disk${i}`));
    const perf = actionsOf(someFacts(disks)).at(-1)?.data["x-perf"] as { "max-workers": number };
    return perf["max-workers"];
  };
  assertEquals([1, 2, 5, 32, 40].map(workersOf), [32, 16, 6, 1, 1]);
});

Deno.test("jobStallTimeoutMs() allows for what a chunk takes at the speed limit", () => {
  const timeoutOf = (speedLimitBytesPerSecond: number, clusterSizeBytes = 65536) => {
    const request = aRequest({ speedLimitBytesPerSecond, stallTimeoutMs: 1000 });
    const plan = planBackup(request, someFacts([aDisk("disk0", { clusterSizeBytes })]));
    return jobStallTimeoutMs(plan, plan.disks[0] as DiskPlan);
  };
  assertEquals(timeoutOf(0), 1000);
  assertEquals(timeoutOf(262144), 3000);
  assertEquals(timeoutOf(65536, 2 << 20), 65_000);
});

const FLEECE = fleeceNode("fleece", "/vm/fleece");

Deno.test("filterNode() fails the backup, not the guest's write", () => {
  assertEquals(filterNode("cbw", "disk0", FLEECE, null), {
    driver: "copy-before-write",
    "node-name": "cbw",
    file: "disk0",
    target: FLEECE,
    discard: "unmap",
    "on-cbw-error": "break-snapshot",
  });
});

Deno.test("snapshotNode() reads through the filter", () => {
  assertEquals(snapshotNode("snap", "cbw"), {
    driver: "snapshot-access",
    "node-name": "snap",
    file: "cbw",
  });
});

Deno.test("targetNode() hides the parent from the job", () => {
  assertEquals(targetNode("target", "file", PLAIN), {
    driver: "qcow2",
    "node-name": "target",
    file: "file",
    backing: null,
    discard: "unmap",
    "detect-zeroes": "unmap",
  });
});

Deno.test("targetNode() names the key of an encrypted image, and readOnlyTarget() does too", () => {
  const encrypt = { format: "luks", "key-secret": "key" };
  assertEquals(targetNode("target", "file", PLAIN, "key").encrypt, encrypt);
  const nodes = { target: "target", file: "file" };
  const reopened = readOnlyTarget(nodes, PLAIN, "x-blockdev-reopen", "key");
  assertEquals(reopened["encrypt"], encrypt);
});

Deno.test("readOnlyTarget() reopens the target with the options that QEMU takes then", () => {
  const nodes = { target: "target", file: "file", fleece: "", filter: "", gate: "", snapshot: "" };
  assertEquals(readOnlyTarget(nodes, PLAIN, "blockdev-reopen"), {
    options: [{
      driver: "qcow2",
      "node-name": "target",
      file: "file",
      backing: null,
      discard: "unmap",
      "read-only": true,
    }],
  });
});

Deno.test("readOnlyTarget() gives the command of before 6.1 its one node", () => {
  const nodes = { target: "target", file: "file", fleece: "", filter: "", gate: "", snapshot: "" };
  const before = readOnlyTarget(nodes, PLAIN, "x-blockdev-reopen");
  assertEquals(readOnlyTarget(nodes, PLAIN, "blockdev-reopen"), { options: [before] });
});

Deno.test("backupJobs() reads from the disk itself where there is no fleece", () => {
  const features = { ...afterFull.features, fleecing: false };
  const [add, merge, backup] = actionsOf({ ...afterFull, features });
  assertEquals([add?.data["node"], merge?.data["node"], backup?.data["device"]], [
    "disk0",
    "disk0",
    "disk0",
  ]);
  assertEquals(backup?.data["bitmap-mode"], "never");
});

Deno.test("fileNode() and fleeceNode() take a path as it is", () => {
  const path = "/vm/json:{:odd'name";
  assertEquals(fileNode("file", path, PLAIN), {
    "node-name": "file",
    driver: "file",
    filename: path,
    discard: "unmap",
    "read-only": false,
  });
  assertEquals(fleeceNode("fleece", path).file, {
    driver: "file",
    filename: path,
    discard: "unmap",
  });
});

Deno.test("fileNode() and targetNode() pass the user's cache and aio on", () => {
  const how = { ...PLAIN, direct: true, aio: "io_uring" } as const;
  assertEquals(fileNode("file", "/t", how), {
    "node-name": "file",
    driver: "file",
    filename: "/t",
    discard: "unmap",
    "read-only": false,
    cache: { direct: true },
    aio: "io_uring",
  });
  assertEquals(targetNode("target", "file", how).cache, { direct: true });
});

Deno.test("fileNode() sets blocks aside by a node of its own, with the file's name", () => {
  assertEquals(fileNode("file", "/t", { direct: true, preallocBytes: 4096, aio: "threads" }), {
    "node-name": "file",
    driver: "preallocate",
    "prealloc-size": 4096,
    discard: "unmap",
    "read-only": false,
    cache: { direct: true },
    file: {
      driver: "file",
      filename: "/t",
      discard: "unmap",
      "read-only": false,
      cache: { direct: true },
      aio: "threads",
    },
  });
});

Deno.test("filterNode() passes the time-out on", () => {
  assertEquals(filterNode("cbw", "disk0", FLEECE, 3)["cbw-timeout"], 3);
});
