import { assert, assertEquals } from "@std/assert";
import { isChainId } from "../../../src/repo/layout.ts";
import {
  bitmapName,
  exportId,
  inRemovalOrder,
  isBackupBitmap,
  isBitmapOfRun,
  isOurJob,
  isOurNode,
  isOurObject,
  isSentinel,
  JOB_ROLES,
  jobBitmapName,
  jobId,
  type JobRole,
  NODE_ROLES,
  nodeName,
  nodeRole,
  objectId,
  sentinelName,
  tagIn,
} from "../../../src/vm/names.ts";

const TAG = "f00dcafe";
const CHAIN = "3b1e1f2a-0c4d-4c5e-8f7a-9b8c7d6e5f40";

for (const role of NODE_ROLES) {
  Deno.test(`nodeName() makes the node "${role}", whose run and role can be read again`, () => {
    const name = nodeName(TAG, 12, role);
    assertEquals(name, `qmpbackup-${TAG}-12-${role}`);
    assertEquals([isOurNode(name), nodeRole(name), tagIn(name)], [true, role, TAG]);
    // QEMU takes no longer one (5.2 to 11.1).
    assert(nodeName(TAG, 999, role).length <= 31, name);
  });
}

for (const role of Object.keys(JOB_ROLES) as JobRole[]) {
  Deno.test(`jobId() makes the job "${role}", whose run can be read again`, () => {
    const id = jobId(TAG, "disk0", role);
    assertEquals([isOurJob(id), tagIn(id), isOurNode(id)], [true, TAG, false]);
  });
}

Deno.test("objectId() names a key that is known as ours, unlike nodes and marks", () => {
  assertEquals(objectId(TAG, 3), `qmpbackup-${TAG}-3-key`);
  const names = [objectId(TAG, 3), nodeName(TAG, 3, "target"), "qmpbackup-lock", "key", "x-key"];
  assertEquals(names.map(isOurObject), [true, false, false, false, false]);
});

Deno.test("exportId() and jobBitmapName() have the form of a node's name, and no node's role", () => {
  for (const name of [exportId(TAG, 0), jobBitmapName(TAG, 0)]) {
    assertEquals([isOurNode(name), tagIn(name), nodeRole(name)], [true, TAG, null], name);
  }
});

for (
  const name of [
    ...[
      "qmpbackup-lock",
      "qmpbackup-f00dcaf-0-gate",
      "qmpbackup-f00dcafe-gate",
      "x-f00dcafe-0-gate",
    ],
    ...[
      "qmpbackup-f00dcafe-0-gate2",
      "qmpbackup-F00DCAFE-0-gate",
      "qmpbackup.disk0",
      "",
      "drive-mirror",
    ],
    ...["qmpbackup-f00dcafe-0-gate\n", " qmpbackup.f00dcafe.disk0", bitmapName("d", TAG, CHAIN)],
  ]
) {
  Deno.test(`isOurNode() and isOurJob() refuse ${JSON.stringify(name)}`, () => {
    assertEquals([isOurNode(name), isOurJob(name), tagIn(name)], [false, false, null]);
  });
}

Deno.test("inRemovalOrder() puts what stands on others first, and the migration's blocker last", () => {
  const names = [...NODE_ROLES].map((role) => nodeName(TAG, 0, role));
  const other = `qmpbackup-${TAG}-0-later`;
  assertEquals(inRemovalOrder([...names.toReversed(), "disk0", other]), [
    ...names.slice(0, -1),
    other,
    ...names.slice(-1),
  ]);
});

Deno.test("isBitmapOfRun() knows what a run added for its backup, and nothing else", () => {
  for (const name of [bitmapName("d", TAG, CHAIN), sentinelName("d", TAG, CHAIN)]) {
    assert(isBitmapOfRun(name, TAG) && !isBitmapOfRun(name, "00000000"), name);
  }
  assert(!isBitmapOfRun(jobBitmapName(TAG, 0), TAG));
  assert(!isBitmapOfRun(`other-d-${TAG}-${CHAIN}`, TAG));
});

Deno.test("bitmapName() ends in the chain's id, where the Python qmpbackup looks for it", () => {
  assertEquals(bitmapName("disk0", "f00dcafe", CHAIN), `qmpbackup-disk0-f00dcafe-${CHAIN}`);
});

Deno.test("isBackupBitmap() knows our bitmaps and those of the Python qmpbackup", () => {
  const names = [bitmapName("d", "f00dcafe", CHAIN), `qmpbackup-d-${CHAIN}`, `qmpbackup-${CHAIN}`];
  for (const name of names) assert(isBackupBitmap(name, CHAIN), name);
});

Deno.test("sentinelName() does not end in any chain's id, where the Python qmpbackup looks for its bitmap", () => {
  const name = sentinelName("disk0", "f00dcafe", CHAIN);
  assertEquals(name, `qmpbackup-disk0-f00dcafe-${CHAIN}(end)`);
  for (let start = 0; start < name.length; start++) assert(!isChainId(name.slice(start)), name);
});

Deno.test("isBackupBitmap() takes the sentinel of its chain alone", () => {
  const name = sentinelName("disk0", "f00dcafe", CHAIN);
  assert(isBackupBitmap(name, CHAIN) && isBackupBitmap(name));
  assert(!isBackupBitmap(name, "other"));
});

Deno.test("isSentinel() knows sentinels by their names", () => {
  assert(isSentinel(sentinelName("disk0", "f00dcafe", CHAIN)));
  for (const name of [bitmapName("disk0", "f00dcafe", CHAIN), "other(end)", ""]) {
    assert(!isSentinel(name), name);
  }
});

Deno.test("isBackupBitmap() takes any chain's where none is given", () => {
  assert(isBackupBitmap("qmpbackup-disk0-whatever"));
});

Deno.test("isBackupBitmap() refuses another chain's", () => {
  assert(!isBackupBitmap("qmpbackup-disk0-f00dcafe-other", CHAIN));
});

Deno.test("isBackupBitmap() refuses an id that is only the end of the chain's", () => {
  assert(!isBackupBitmap("qmpbackup-disk0-f00dcafe-15", "5"));
});

Deno.test("isBackupBitmap() refuses other programs' bitmaps", () => {
  for (const name of ["backup-1", "libvirt-qmpbackup-", "", `x-${CHAIN}`]) {
    assert(!isBackupBitmap(name), name);
  }
});
