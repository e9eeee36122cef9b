import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { basename } from "@std/path";
import type { DiskPlan } from "../../../src/plan/plan.ts";
import type { Facts } from "../../../src/plan/facts.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import type { BackupRequest, Level } from "../../../src/plan/request.ts";
import type { DiskRecord } from "../../../src/repo/record.ts";
import { Failure, UsageError } from "../../../src/errors.ts";
import type { Disk } from "../../../src/vm/disks.ts";
import {
  aBitmap,
  aDisk,
  aDiskRecord,
  aDiskWithBitmap,
  aRequest,
  aRun,
  aTarget,
  CHAIN,
  factsAfter,
  filesOf,
  NOW_SECONDS,
  OLD_TAG,
  someFacts,
} from "../_fixtures.ts";

const OLD_BITMAP = `qmpbackup-disk0-${OLD_TAG}-${CHAIN}`;
const OLD_FULL = `disk0/FULL-${NOW_SECONDS - 86400}-disk0.qcow2`;

function disksOf(facts: Facts, change: Partial<BackupRequest> = {}): DiskPlan[] {
  return planBackup(aRequest(change), facts).disks;
}

/** What is planned for the only disk. */
function diskOf(facts: Facts, change: Partial<BackupRequest> = {}): DiskPlan {
  const disks = disksOf(facts, change);
  assertEquals(disks.length, 1);
  return disks[0] as DiskPlan;
}

/** One disk, backed up in full yesterday. */
function yesterday(
  disk = aDiskWithBitmap(),
  record: Partial<DiskRecord> = {},
  change: Partial<Facts> = {},
): Facts {
  return factsAfter([aRun([aDiskRecord("disk0", record)])], [disk], change);
}

Deno.test("planBackup() takes a full backup for auto in a new target", () => {
  const { level, reason, parent, previousBitmap, obsoleteBitmaps } = diskOf(someFacts());
  assertEquals({ level, reason, parent, previousBitmap, obsoleteBitmaps }, {
    level: "full",
    reason: "no backup of this disk in the target yet",
    parent: null,
    previousBitmap: null,
    obsoleteBitmaps: [],
  });
});

Deno.test("planBackup() takes an increment for auto where it can", () => {
  const { level, parent, previousBitmap, obsoleteBitmaps } = diskOf(yesterday());
  assertEquals({ level, parent, previousBitmap, obsoleteBitmaps }, {
    level: "inc",
    parent: OLD_FULL,
    previousBitmap: OLD_BITMAP,
    obsoleteBitmaps: [OLD_BITMAP],
  });
});

Deno.test("planBackup() takes a full backup for auto where it must, with the reason", () => {
  const { level, reason, parent } = diskOf(yesterday(aDisk()));
  assertEquals([level, parent], ["full", null]);
  assertStringIncludes(reason, "is gone");
});

Deno.test("planBackup() decides on the level of each disk by itself", () => {
  const facts = factsAfter([aRun([aDiskRecord()])], [aDiskWithBitmap(), aDisk("added")]);
  assertEquals(disksOf(facts).map(({ level }) => level), ["inc", "full"]);
});

Deno.test("planBackup() builds an increment on the newest image", () => {
  const inc = aDiskRecord("disk0", {
    level: "inc",
    file: "disk0/INC-1795350000-disk0.qcow2",
    parent: OLD_FULL,
    bitmap: "qmpbackup-disk0-newer",
  });
  const runs = [aRun([aDiskRecord()]), aRun([inc], { id: "2", sequence: 2 })];
  const disk = aDisk("disk0", { bitmaps: [aBitmap("qmpbackup-disk0-newer")] });
  assertEquals(diskOf(factsAfter(runs, [disk])).parent, inc.file);
});

Deno.test("planBackup() takes a full backup if it is asked for one", () => {
  const { level, reason, parent, obsoleteBitmaps } = diskOf(yesterday(), { level: "full" });
  assertEquals({ level, reason, parent, obsoleteBitmaps }, {
    level: "full",
    reason: "asked for",
    parent: null,
    obsoleteBitmaps: [OLD_BITMAP],
  });
});

Deno.test("planBackup() leaves all bitmaps alone for a copy", () => {
  const { level, parent, previousBitmap, nextBitmap, obsoleteBitmaps } = diskOf(yesterday(), {
    level: "copy",
  });
  assertEquals({ level, parent, previousBitmap, nextBitmap, obsoleteBitmaps }, {
    level: "copy",
    parent: null,
    previousBitmap: null,
    nextBitmap: null,
    obsoleteBitmaps: [],
  });
});

Deno.test("planBackup() spends this target's bitmaps only", () => {
  const others = [aBitmap(`qmpbackup-disk0-other7-${CHAIN}`), aBitmap("other-program")];
  const disk = aDisk("disk0", { bitmaps: [...others, aBitmap(OLD_BITMAP)] });
  assertEquals(diskOf(yesterday(disk)).obsoleteBitmaps, [OLD_BITMAP]);
});

Deno.test("planBackup() refuses an increment that can't be taken, with disk and remedy", () => {
  assertThrows(
    () => diskOf(someFacts(), { level: "inc" }),
    Failure,
    'No increment can be taken of the disk "disk0": no backup of this disk in the target yet. ' +
      "Use --level auto",
  );
});

Deno.test("planBackup() refuses an increment of all disks where one has no basis", () => {
  const facts = factsAfter([aRun([aDiskRecord()])], [aDiskWithBitmap(), aDisk("added")]);
  assertThrows(() => disksOf(facts, { level: "inc" }), Failure, 'the disk "added"');
});

Deno.test("planBackup() refuses an increment after a full backup that failed", () => {
  const facts = yesterday(aDiskWithBitmap(), { result: "failed" });
  assertThrows(() => diskOf(facts, { level: "inc" }), Failure, "no backup of this disk");
});

Deno.test("planBackup() takes a full backup for auto after one that failed", () => {
  assertEquals(diskOf(yesterday(aDiskWithBitmap(), { result: "failed" })).level, "full");
});

/** The newest image is there, the full backup that it builds on is not. */
function withoutFull(): Facts {
  const inc = aDiskRecord("disk0", {
    level: "inc",
    file: "disk0/INC-1795350000-disk0.qcow2",
    parent: OLD_FULL,
  });
  const runs = [aRun([aDiskRecord("disk0", { bitmap: "spent" })]), aRun([inc], { sequence: 2 })];
  const files = filesOf([aRun([inc])]);
  return factsAfter(runs, [aDiskWithBitmap()], { files });
}

Deno.test("planBackup() refuses an increment whose full backup is missing", () => {
  assertThrows(() => diskOf(withoutFull(), { level: "inc" }), Failure, "missing");
});

Deno.test("planBackup() takes a full backup for auto where an older one is missing", () => {
  assertEquals(diskOf(withoutFull()).level, "full");
});

const CHANGED: Partial<Facts> = {
  imageFaults: new Map([[OLD_FULL, { state: "changed", reason: "was changed: it has 0 bytes" }]]),
};

Deno.test("planBackup() builds on no image that was changed, and compares with none", () => {
  const facts = factsAfter([aRun([aDiskRecord()])], [aDisk()], CHANGED);
  for (const onLostBitmap of ["full", "compare"] as const) {
    assertThrows(
      () => planBackup(aRequest({ level: "inc", onLostBitmap }), facts),
      Failure,
      `the image "${OLD_FULL}" was changed: it has 0 bytes`,
    );
  }
});

Deno.test("planBackup() takes a full backup for auto where an image was changed, and warns", () => {
  const facts = factsAfter([aRun([aDiskRecord()])], [aDiskWithBitmap()], CHANGED);
  const plan = planBackup(aRequest({ onLostBitmap: "compare" }), facts);
  assertEquals(plan.disks[0]?.level, "full");
  assertStringIncludes(plan.disks[0]?.reason ?? "", `"${OLD_FULL}" was changed`);
  assertEquals(plan.warnings.length, 1);
  assertStringIncludes(plan.warnings[0] ?? "", `"${OLD_FULL}" was changed`);
  // That it is gone, whoever removed it knows.
  assertEquals(planBackup(aRequest(), withoutFull()).warnings, []);
});

const V2 = aDisk("disk0", { holdsBitmaps: false });
for (const level of ["full", "inc", "auto"] satisfies Level[]) {
  Deno.test(`planBackup() refuses ${level} of a qcow2 image that holds no bitmap`, () => {
    assertThrows(() => diskOf(someFacts([V2]), { level }), Failure, "use --level copy, or upgrade");
  });
}

Deno.test("planBackup() takes a copy of a qcow2 image that holds no bitmap", () => {
  assertEquals(diskOf(someFacts([V2]), { level: "copy" }).level, "copy");
});

Deno.test("planBackup() takes a raw disk in full, with a bitmap", () => {
  const raw = aDisk("raw0", { format: "raw", holdsBitmaps: false, clusterSizeBytes: null });
  const { level, nextBitmap } = diskOf(someFacts([raw]), { includeRaw: true });
  assertEquals([level, nextBitmap === null], ["full", false]);
});

Deno.test("planBackup() estimates a full backup by what the image takes", () => {
  assertEquals(diskOf(someFacts()).estimateBytes, 5 << 20);
});

Deno.test("planBackup() estimates an increment by what the bitmap marks", () => {
  assertEquals(diskOf(yesterday()).estimateBytes, 3 << 16);
});

Deno.test("planBackup() names image, bitmap, job and nodes of a disk", () => {
  const { file, nextBitmap, job, nodes } = diskOf(someFacts());
  assertEquals({ file, nextBitmap, job, nodes }, {
    file: `disk0/FULL-${NOW_SECONDS}-disk0.qcow2`,
    nextBitmap: "qmpbackup-disk0-f00dcafe-a-new-chain",
    job: "qmpbackup.f00dcafe.disk0",
    nodes: {
      target: "qmpbackup-f00dcafe-0-target",
      file: "qmpbackup-f00dcafe-0-file",
      fleece: "qmpbackup-f00dcafe-0-fleece",
      filter: "qmpbackup-f00dcafe-0-cbw",
      switchNode: "qmpbackup-f00dcafe-0-gate",
      snapshot: "qmpbackup-f00dcafe-0-snap",
      end: "qmpbackup-f00dcafe-0-end",
      empty: "qmpbackup-f00dcafe-0-empty",
    },
  });
});

Deno.test("planBackup() looks what a thin disk holds, unless there are iothreads", () => {
  const isThin = (change: Partial<Facts>) => diskOf(someFacts([aDisk()], change)).isThin;
  assertEquals([isThin({}), isThin({ hasIothreads: true })], [true, false]);
  assertEquals(diskOf(factsAfter([aRun([aDiskRecord()])], [aDiskWithBitmap()])).isThin, false);
});

Deno.test("planBackup() gives QEMU no node name that it refuses", () => {
  // QEMU ends node names at 31 bytes.
  const disks = Array.from({ length: 1000 }, (_, i) => aDisk(`a-disk-with-a-long-name-${i}`));
  const names = disksOf(someFacts(disks)).flatMap(({ nodes }) => Object.values(nodes));
  assertEquals(names.filter((name) => name.length > 31), []);
  assertEquals(new Set(names).size, 8000);
});

Deno.test("planBackup() goes on in the folder of the disk's chain when its node is renamed", () => {
  const renamed = { ...aDiskWithBitmap(), node: "snap1", rootNode: "snap1", name: "snap1" };
  const { folder, file, level } = diskOf(yesterday(renamed));
  assertEquals([folder, file, level], ["disk0", `disk0/INC-${NOW_SECONDS}-disk0.qcow2`, "inc"]);
});

Deno.test("planBackup() gives two disks with one file name a folder each", () => {
  const disks = ["a", "b"].map((name) => aDisk(name, { source: `/vm/${name}/disk.qcow2` }));
  assertEquals(disksOf(someFacts(disks)).map(({ file }) => file), [
    `a/FULL-${NOW_SECONDS}-disk.qcow2`,
    `b/FULL-${NOW_SECONDS}-disk.qcow2`,
  ]);
});

Deno.test("planBackup() gives two disks with one file name a config file each", () => {
  const disks = ["a", "b"].map((name) => aDisk(name, { source: `/vm/${name}/disk.qcow2` }));
  assertEquals(disksOf(someFacts([...disks, aDisk("c")])).map(({ configFile }) => configFile), [
    "a.disk.qcow2.config",
    "b.disk.qcow2.config",
    "c.qcow2.config",
  ]);
});

Deno.test("planBackup() gives a disk the same config file whichever disks go with it", () => {
  const disks = ["a", "b"].map((name) => aDisk(name, { source: `/vm/${name}/disk.qcow2` }));
  assertEquals(diskOf(someFacts(disks), { include: ["b"] }).configFile, "b.disk.qcow2.config");
});

/** A device without an id was put before `disk0`, whose path by number it has now. */
function shifted(): Disk[] {
  const source = "/vm/new/disk0.qcow2";
  return [
    aDisk("new", { id: "/machine/peripheral-anon/device[0]", source }),
    { ...aDiskWithBitmap(), id: "/machine/peripheral-anon/device[1]" },
  ];
}

const ANONYMOUS = aRun([aDiskRecord("disk0", { id: "/machine/peripheral-anon/device[0]" })]);

Deno.test("planBackup() never gives two disks one folder", () => {
  const disks = shifted().map((disk) => ({ ...disk, bitmaps: [] }));
  const folders = disksOf(factsAfter([ANONYMOUS], disks)).map(({ folder }) => folder);
  assertEquals(new Set(folders).size, 2, folders.join(" "));
});

Deno.test("planBackup() goes on with a chain on the disk that holds its bitmap", () => {
  const plans = disksOf(factsAfter([ANONYMOUS], shifted()));
  assertEquals(plans.map(({ folder, level }) => [folder, level]), [["new", "full"], [
    "disk0",
    "inc",
  ]]);
});

Deno.test("planBackup() gives a disk that took another's name a folder of its own", () => {
  const swapped = [
    { ...aDiskWithBitmap(), name: "disk1", node: "disk1" },
    aDisk("disk0", { id: "/machine/peripheral/other/virtio-backend" }),
  ];
  const folders = disksOf(factsAfter([aRun([aDiskRecord()])], swapped))
    .map(({ folder }) => folder);
  assertEquals(folders[0], "disk0");
  assertEquals(new Set(folders).size, 2, folders.join(" "));
});

Deno.test("planBackup() takes no folder of the name of the chain's file", () => {
  for (const name of ["uuid", "RESTORE.txt"]) {
    const { folder } = diskOf(someFacts([aDisk(name)]));
    assertEquals(folder === name, false, folder);
  }
});

Deno.test("planBackup() gives a second run in one second a later name", () => {
  const file = `disk0/FULL-${NOW_SECONDS}-disk0.qcow2`;
  assertEquals(
    diskOf(yesterday(aDiskWithBitmap(), { file })).file,
    `disk0/INC-${NOW_SECONDS + 1}-disk0.qcow2`,
  );
});

Deno.test("planBackup() gives a run after the clock was set back a later name", () => {
  const file = `disk0/FULL-${NOW_SECONDS + 3600}-disk0.qcow2`;
  assertEquals(
    diskOf(yesterday(aDiskWithBitmap(), { file })).file,
    `disk0/INC-${NOW_SECONDS + 3601}-disk0.qcow2`,
  );
});

Deno.test("planBackup() gives all images of a run one time", () => {
  const taken = aDiskRecord("disk0", { file: `disk0/FULL-${NOW_SECONDS + 9}-disk0.qcow2` });
  const facts = factsAfter([aRun([taken])], [aDiskWithBitmap(), aDisk("disk1")]);
  assertEquals(disksOf(facts).map(({ file }) => /-(\d+)-/.exec(file)?.[1]), [
    String(NOW_SECONDS + 10),
    String(NOW_SECONDS + 10),
  ]);
});

Deno.test("planBackup() counts the target's runs", () => {
  const runs = [aRun([aDiskRecord()]), aRun([], { sequence: 7 })];
  assertEquals(planBackup(aRequest(), factsAfter(runs, [aDisk()])).sequence, 8);
  assertEquals(planBackup(aRequest(), someFacts()).sequence, 1);
  // As behind a chain that was adopted late.
  assertEquals(planBackup(aRequest(), factsAfter(runs.toReversed(), [aDisk()])).sequence, 8);
});

for (const level of ["full", "inc", "auto"] satisfies Level[]) {
  Deno.test(`planBackup() refuses ${level} beside another program's partial`, () => {
    const files = new Map([["disk0", ["FULL-1-disk0.qcow2.partial"]]]);
    assertThrows(
      () => diskOf(yesterday(aDiskWithBitmap(), {}, { files }), { level }),
      Failure,
      '"/backup/vm1/disk0/FULL-1-disk0.qcow2.partial" was left by another program',
    );
  });
}

Deno.test("planBackup() does not mind a partial of a disk that it leaves out", () => {
  const files = new Map([["disk1", ["FULL-1-disk1.qcow2.partial"]]]);
  const facts = someFacts([aDisk(), aDisk("disk1")], { files });
  assertEquals(diskOf(facts, { exclude: ["disk1"] }).level, "full");
});

const vm = (name: string, uuid = "") => ({ name, uuid });
const SAME_VM = [
  [vm("vm1"), vm("vm1")],
  [vm("vm1", "u1"), vm("renamed", "u1")],
  [vm("vm1", "u1"), vm("vm1")],
  [vm("vm1"), vm("vm1", "u1")],
  [vm(""), vm("")],
] as const;
for (const [then, now] of SAME_VM) {
  Deno.test(`planBackup() takes ${JSON.stringify(now)} for ${JSON.stringify(then)}`, () => {
    const facts = factsAfter([aRun([aDiskRecord()], { vm: then })], [aDiskWithBitmap()]);
    assertEquals(diskOf({ ...facts, vm: now }).level, "inc");
  });
}

const OTHER_VM = [
  [vm("vm1"), vm("vm2")],
  [vm("vm1", "u1"), vm("vm1", "u2")],
  [vm("vm1"), vm("")],
  [vm("vm1", "u1"), vm("vm2")],
] as const;
for (const [then, now] of OTHER_VM) {
  Deno.test(`planBackup() refuses ${JSON.stringify(now)} for ${JSON.stringify(then)}`, () => {
    const facts = factsAfter([aRun([aDiskRecord()], { vm: then })], [aDiskWithBitmap()]);
    assertThrows(() => diskOf({ ...facts, vm: now }), UsageError, "name another target");
  });
}

const chainOf = (facts: Facts, uuid: string | null = null) =>
  planBackup(aRequest({ uuid }), facts).chainId;

Deno.test("planBackup() makes a chain's id up for a new target", () => {
  assertEquals(chainOf(someFacts()), "a-new-chain");
});

Deno.test("planBackup() takes --uuid for a new target", () => {
  assertEquals(chainOf(someFacts(), "mine"), "mine");
});

Deno.test("planBackup() goes on with the target's chain", () => {
  assertEquals(chainOf(yesterday()), CHAIN);
});

Deno.test("planBackup() takes a --uuid that is the target's", () => {
  assertEquals(chainOf(yesterday(), CHAIN), CHAIN);
});

Deno.test("planBackup() refuses another --uuid than the target's", () => {
  assertThrows(() => chainOf(yesterday(), "mine"), UsageError, `has the id "${CHAIN}"`);
});

Deno.test("planBackup() takes the id from the records where the uuid file is gone", () => {
  const run = aRun([aDiskRecord()]);
  const target = aTarget([run], { chainId: null });
  assertEquals(chainOf(yesterday(aDiskWithBitmap(), {}, { target })), CHAIN);
});

Deno.test("planBackup() starts a chain of its own beside copies", () => {
  const target = aTarget([aRun([aDiskRecord("disk0", { level: "copy" })])], { chainId: null });
  assertEquals(chainOf(someFacts([aDisk()], { target })), "a-new-chain");
});

const STILL = ["suspended", "shutdown", "guest-panicked", "io-error", "watchdog", "internal-error"];
for (const runState of ["running", "paused", "prelaunch", "debug", ...STILL]) {
  Deno.test(`planBackup() takes a VM in the state ${runState}`, () => {
    const plan = planBackup(aRequest(), someFacts([aDisk()], { runState }));
    assertEquals([plan.disks[0]?.level, plan.runState], ["full", runState]);
  });
}

for (
  const [runState, remedy] of [
    ["inmigrate", "Back it up where it runs now, or here once it has arrived"],
    ["finish-migrate", "Back it up where it runs then"],
    ["postmigrate", "Back it up where it runs now; if it runs nowhere else, resume it here first"],
    ["save-vm", "Run again when that is done"],
    ["restore-vm", "Run again when that is done"],
    ["colo", "Back up the other side"],
    ["preconfig", "Let QEMU go on first"],
    ["of tomorrow", "Stop or resume the VM first"],
  ] as const
) {
  Deno.test(`planBackup() refuses a VM in the state ${runState}, and says what to do`, () => {
    const facts = someFacts([aDisk()], { runState });
    assertThrows(() => diskOf(facts), Failure, `in the state "${runState}"`);
    assertThrows(() => diskOf(facts), Failure, remedy);
  });
}

Deno.test("planBackup() stops the guest where it is asked to, or an old QEMU has iothreads", () => {
  const pauseOf = (asked: boolean, hasIothreads: boolean, busyIothreads: boolean) => {
    const facts = someFacts([aDisk()], { hasIothreads });
    facts.features.busyIothreads = busyIothreads;
    return planBackup(aRequest({ pause: asked }), facts).pause;
  };
  assertEquals(pauseOf(false, false, false), null);
  assertEquals(pauseOf(false, true, true), null);
  assertEquals(pauseOf(true, false, true), "asked for");
  assertMatch(pauseOf(false, true, false) ?? "", /iothread/);
});

Deno.test("planBackup() reads from the disks themselves where QEMU can't fleece, and says so", () => {
  const features = { ...someFacts().features, fleecing: false };
  const plan = planBackup(aRequest(), someFacts([aDisk()], { features }));
  assertEquals(plan.direct, true);
  assertStringIncludes(plan.warnings.join(), "the guest's writes wait for the target");
  const facts = { ...yesterday(), features, disks: [aDisk()] };
  const compared = planBackup(aRequest({ onLostBitmap: "compare" }), facts);
  assertEquals(compared.disks.map(({ level }) => level), ["full"]);
  assertStringIncludes(compared.warnings.join(), "compare was left out");
  const verified = planBackup(aRequest({ verify: true }), facts);
  assertEquals([verified.request.verify, verified.nbdSocket], [false, null]);
  assertStringIncludes(
    verified.warnings.join(),
    "--verify was left out, and the new images were not",
  );
});

Deno.test("planBackup() has the point in time served where new images are compared with it", () => {
  const plan = planBackup(aRequest({ verify: true, level: "full" }), someFacts());
  assertEquals(plan.nbdSocket, "/vm/qmpbackup-f00dcafe.nbd");
  assertEquals(plan.request.verify, true);
  assertEquals(planBackup(aRequest({ level: "full" }), someFacts()).nbdSocket, null);
});

Deno.test("planBackup() puts the fleece beside the disk", () => {
  assertEquals(diskOf(someFacts()).fleeceFile, "/vm/qmpbackup-f00dcafe-0.fleece");
});

Deno.test("planBackup() puts the fleece into the target where it can't be beside the disk", () => {
  const disk = aDisk("disk0", { source: "/dev/vg0/lv0" });
  const facts = someFacts([disk], { besideDisk: new Map([[disk.id, null]]) });
  assertEquals(
    diskOf(facts).fleeceFile,
    "/backup/vm1/_qmpbackup/qmpbackup-f00dcafe-0.fleece",
  );
});

Deno.test("planBackup() puts the fleece where --fleece-dir says", () => {
  const { fleeceFile } = diskOf(someFacts(), { fleeceDir: "/ssd" });
  assertEquals(fleeceFile, "/ssd/qmpbackup-f00dcafe-0.fleece");
});

for (const [cluster, granularity] of [[512, 4096], [16384, 16384], [2 << 20, 65536]] as const) {
  Deno.test(`planBackup() counts changes by ${granularity} bytes in clusters of ${cluster}`, () => {
    const disk = aDisk("disk0", { clusterSizeBytes: cluster });
    assertEquals(diskOf(someFacts([disk])).granularityBytes, granularity);
  });
}

Deno.test("planBackup() counts changes by 65536 bytes where there are no clusters", () => {
  const raw = aDisk("raw0", { format: "raw", clusterSizeBytes: null });
  assertEquals(diskOf(someFacts([raw]), { includeRaw: true }).granularityBytes, 65536);
});

Deno.test("planBackup() names all that is left out", () => {
  const leftOut = [{ device: "cd0", reason: "the drive is empty" }];
  const facts = someFacts([aDisk(), aDisk("disk1")], { leftOut });
  assertEquals(planBackup(aRequest({ exclude: ["disk1"] }), facts).leftOut, [
    { device: "cd0", reason: "the drive is empty" },
    { device: "disk1", reason: "named by --exclude" },
  ]);
});

Deno.test("planBackup() bounds the wait for a fleece that is not beside its disk", () => {
  const facts = someFacts();
  const timeoutOf = (change: Parameters<typeof aRequest>[0] = {}) =>
    planBackup(aRequest(change), facts).disks[0]?.cbwTimeoutSeconds;
  assertEquals(timeoutOf(), null);
  assertEquals(timeoutOf({ fleeceDir: "/vm" }), null);
  assertEquals(timeoutOf({ fleeceDir: "/ssd" }), 4);
  facts.besideDisk.clear();
  assertEquals(timeoutOf(), 4);
  assertEquals(timeoutOf({ cbwTimeoutSeconds: 2 }), 2);
  assertEquals(timeoutOf({ fleeceDir: "/ssd" }), 4);
});

Deno.test("planBackup() warns of a new target where the disks remember backups: is it mounted?", () => {
  const warningsOf = (facts: Facts) => planBackup(aRequest(), facts).warnings;
  assertEquals(warningsOf(someFacts([aDisk()])), []);
  assertStringIncludes(
    warningsOf(someFacts([aDiskWithBitmap()])).join(),
    "check that the file system is mounted",
  );
  assertEquals(warningsOf(yesterday()), []);
});

Deno.test("planBackup() compares a disk whose bitmap was lost, if that is asked for", () => {
  const facts = yesterday();
  facts.disks = [aDisk()];
  const of = (change: Partial<BackupRequest>) => planBackup(aRequest(change), facts);
  assertEquals(of({}).disks.map(({ level, compare }) => [level, compare]), [["full", false]]);
  const plan = of({ onLostBitmap: "compare", compress: "zlib" });
  assertEquals(plan.disks.map(({ level, compare }) => [level, compare]), [["inc", true]]);
  assertEquals(plan.disks[0]?.parent, lastFile(facts));
  assertEquals(plan.nbdSocket, "/vm/qmpbackup-f00dcafe.nbd");
  assertStringIncludes(plan.warnings.join(), "--compress have no effect");
  assertThrows(() => of({ level: "inc" }), Failure, "or add --on-lost-bitmap compare");
});

Deno.test("planBackup() compares no disk in an iothread where that ends QEMU", () => {
  const facts = { ...yesterday(), hasIothreads: true, disks: [aDisk()] };
  const of = (busyIothreads: boolean) =>
    planBackup(aRequest({ onLostBitmap: "compare" }), {
      ...facts,
      features: { ...facts.features, busyIothreads },
    });
  assertEquals([of(true), of(false)].map(({ disks }) => disks[0]?.compare), [true, false]);
  assertStringIncludes(of(false).warnings.join(), "compare was left out");
});

const lastFile = ({ target }: Facts) => target.runs.at(-1)?.disks[0]?.file ?? "";

/** All disks' full backups in one folder, named as their files are. */
const PLAIN = { level: "full", subdir: false, timestamp: false } as const;

Deno.test("planBackup() never gives two disks one file", () => {
  const disks = [
    aDisk("x", { source: "/vm/a.f" }),
    aDisk("a", { source: "/vm/1/f" }),
    aDisk("b", { source: "/vm/2/f" }),
  ];
  const files = disksOf(someFacts(disks), { subdir: false, timestamp: false })
    .map(({ file }) => file);
  assertEquals(files, ["a.f", "a.2.f", "b.f"]);
});

Deno.test("planBackup() leaves room for `.partial` where a disk's name is put before a long one", () => {
  const source = `${"x".repeat(300)}.qcow2`;
  const disks = ["a", "b"].map((c) => aDisk(c.repeat(64), { source: `/vm/${c}/${source}` }));
  const sizes = disksOf(someFacts(disks), { level: "copy", subdir: false })
    .map(({ file }) => file.length + ".partial".length);
  assertEquals(sizes.filter((size) => size > 255), []);
});

Deno.test("planBackup() does not replace another disk's backup", () => {
  const others = aDiskRecord("old", {
    folder: ".",
    file: "disk0.qcow2",
    source: "/old/disk0.qcow2",
  });
  assertThrows(
    () =>
      disksOf(
        factsAfter([aRun([others])], [aDisk()], { files: new Map([[".", [others.file]]]) }),
        PLAIN,
      ),
    Failure,
    '"disk0.qcow2" is the backup of another disk, "old"',
  );
});

Deno.test("planBackup() does not put a full backup under the increments of one that is gone", () => {
  const full = aDiskRecord("disk0", { folder: ".", file: "disk0.qcow2" });
  const inc = aDiskRecord("disk0", {
    ...{ folder: ".", file: "INC-1-disk0.qcow2", level: "inc", parent: full.file },
  });
  const facts = factsAfter([aRun([full]), aRun([inc], { sequence: 2 })], [aDisk()], {
    files: new Map([[".", [inc.file]]]),
  });
  assertThrows(() => disksOf(facts, PLAIN), Failure, 'builds on "disk0.qcow2"');
  assertEquals(disksOf({ ...facts, files: new Map() }, PLAIN).map(({ file }) => file), [full.file]);
});

Deno.test("planBackup() gives a full backup that nobody asked for a time where increments build on the last", () => {
  const full = aDiskRecord("disk0", { file: "disk0/disk0.qcow2" });
  const inc = aDiskRecord("disk0", {
    ...{ file: "disk0/INC-1-disk0.qcow2", level: "inc", parent: full.file, bitmap: null },
  });
  const runs = [aRun([full]), aRun([inc], { sequence: 2 })];
  const facts = factsAfter(runs, [aDisk()], {
    files: new Map([["disk0", ["disk0.qcow2", "INC-1-disk0.qcow2"]]]),
  });
  const { disks: [disk], warnings } = planBackup(aRequest({ timestamp: false }), facts);
  assertEquals([disk?.level, disk?.file, disk?.replaces, disk?.link], [
    ...["full", `disk0/FULL-${NOW_SECONDS}-disk0.qcow2`, false, null],
  ]);
  assertStringIncludes(warnings.join(), "has a time in its name");
});

Deno.test("planBackup() needs one full backup after an image that no record knows", () => {
  const foreign = "INC-5-disk0.qcow2";
  const known = basename(aDiskRecord().file);
  const after = (unrecorded: string[]) =>
    disksOf(factsAfter([aRun([aDiskRecord("disk0", { unrecorded })])], [aDiskWithBitmap()], {
      files: new Map([["disk0", [known, foreign]]]),
    })).map(({ level, unrecorded }) => ({ level, unrecorded }));
  assertEquals(after([]), [{ level: "full", unrecorded: [foreign] }]);
  assertEquals(after([foreign]), [{ level: "inc", unrecorded: [foreign] }]);
});

Deno.test("planBackup() makes no link that would be read as an image with a time", () => {
  const [disk] = disksOf(someFacts([aDisk("d", { source: "/vm/1-root.qcow2" })]), PLAIN);
  assertEquals([disk?.file, disk?.link], ["1-root.qcow2", null]);
});

Deno.test("planBackup() lets the copy of a disk not go on with its chain", () => {
  const copy = { ...aDiskWithBitmap(), id: "/machine/peripheral/copy", node: "copy", name: "copy" };
  const plans = disksOf({ ...yesterday(), disks: [copy, aDiskWithBitmap()] });
  assertEquals(plans.map(({ folder, level }) => [folder, level]), [["copy", "full"], [
    "disk0",
    "inc",
  ]]);
});

Deno.test("planBackup() lets two chains not mix in a folder that went from one disk to another", () => {
  const id = "/machine/peripheral/other";
  const bitmap = "qmpbackup-other-aaaaaaaa-x";
  const file = "disk0/FULL-5-other.qcow2";
  const runs = [
    aRun([aDiskRecord()]),
    aRun([aDiskRecord("disk0", { id, bitmap, file })], { sequence: 2 }),
  ];
  const disks = [aDiskWithBitmap(), aDisk("other", { id, bitmaps: [aBitmap(bitmap)] })];
  const plans = disksOf(factsAfter(runs, disks));
  assertEquals(plans.map(({ folder, level }) => [folder, level]), [
    ["disk0", "inc"],
    ["disk0.2", "full"],
  ]);
});

const SENTINEL = { bitmap: `qmpbackup-disk0-${OLD_TAG}-${CHAIN}(end)`, countBytes: 65536 };

/** The day after a backup with a sentinel. */
function watched(change: Partial<Disk> = {}) {
  const { bitmaps, ...disk } = aDiskWithBitmap();
  const sentinel = aBitmap(SENTINEL.bitmap, { recording: false, countBytes: SENTINEL.countBytes });
  const runs = [aRun([aDiskRecord("disk0", { sentinel: SENTINEL })])];
  return factsAfter(runs, [{ ...disk, bitmaps: [...bitmaps, sentinel], ...change }]);
}

const sentinelsOf = ({ sentinel, isNewSentinel, previousSentinel, obsoleteBitmaps }: DiskPlan) => ({
  sentinel: sentinel?.bitmap,
  isNewSentinel,
  previousSentinel,
  obsoleteBitmaps,
});

const NEW_SENTINEL = `qmpbackup-disk0-f00dcafe-${CHAIN}(end)`;

Deno.test("planBackup() keeps the sentinel for as long as it watches the disk's end", () => {
  assertEquals(sentinelsOf(diskOf(watched())), {
    sentinel: SENTINEL.bitmap,
    isNewSentinel: false,
    previousSentinel: SENTINEL,
    obsoleteBitmaps: [OLD_BITMAP],
  });
});

Deno.test("planBackup() replaces the sentinel of a disk that has grown, which goes on with increments", () => {
  const disk = diskOf(watched({ virtualSizeBytes: 32 << 20 }));
  assertEquals(disk.level, "inc");
  assertEquals(sentinelsOf(disk), {
    sentinel: NEW_SENTINEL,
    isNewSentinel: true,
    previousSentinel: SENTINEL,
    obsoleteBitmaps: [OLD_BITMAP, SENTINEL.bitmap],
  });
});

Deno.test("planBackup() makes a sentinel where the last backup has none, and none for a copy", () => {
  assertEquals(sentinelsOf(diskOf(yesterday())), {
    sentinel: NEW_SENTINEL,
    isNewSentinel: true,
    previousSentinel: null,
    obsoleteBitmaps: [OLD_BITMAP],
  });
  assertEquals(diskOf(watched(), { level: "copy" }).sentinel, null);
  assertEquals(diskOf(watched(), { level: "copy" }).obsoleteBitmaps, []);
});
