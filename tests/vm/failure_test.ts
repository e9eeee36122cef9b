import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import {
  assertNothingLeft,
  filesOf,
  queryBlock,
  type Scene,
  scene,
  setSpeed,
  until,
  untilSwitched,
} from "../support/scene.ts";
import { fullThenChanges, nextHoldsAll, runsOf } from "../support/next_run.ts";
import { compare } from "../support/qemu_img.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { command, mountTmpfs } from "../support/tmpfs.ts";
import { asNobody } from "../support/vm.ts";

const MIB = 1 << 20;
/** Slow enough that a job is still at work when the test steps in. */
const SLOW = ["--speed-limit", String(MIB)];

/** The failed run left nothing, and the next increment holds what it would have held. */
async function nothingLeftAndNextHoldsAll(s: Scene) {
  await assertNothingLeft(s.vm, 1);
  await nextHoldsAll(s);
}

for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  Deno.test(`backup undoes all at ${signal}, and the next increment holds both`, async () => {
    await using s = await scene();
    await fullThenChanges(s);
    const before = await filesOf(s.target);
    const child = startTool(s.backupArgs("inc", ...SLOW));
    await untilSwitched(s.vm);
    // What the guest writes now goes through the filter, and must outlive its removal.
    await s.vm.write("vd0", 0x53, 5 * MIB, MIB);
    child.kill(signal);
    const { code, stderr } = await ended(child);
    assertEquals(code, { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 }[signal], stderr);
    assertStringIncludes(stderr, `Stopped by ${signal}`);
    assertEquals(await filesOf(s.target), before);
    assertEquals((await runsOf(s)).map(({ state }) => state), ["done", "cancelled"]);
    await nothingLeftAndNextHoldsAll(s);
  });
}

Deno.test("backup undoes all when it is stopped at any of its steps", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  for (const delayMs of [0, 10, 20, 30, 40, 60, 80, 100, 150]) {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(new StoppedError("SIGINT")), delayMs);
    const { code } = await tool(s.backupArgs("inc", ...SLOW), stop.signal);
    clearTimeout(timer);
    assertEquals(code, 130, `stopped after ${delayMs} ms`);
    await assertNothingLeft(s.vm, 1);
    assertEquals((await s.vm.execute("query-status") as { running: boolean }).running, true);
  }
  await s.vm.execute("stop");
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup fails on a full target, the guest writes on, the next increment holds both", async () => {
  await using s = await scene();
  await using target = await mountTmpfs(s.dir.join("target"), 48 * MIB);
  await fullThenChanges(s);
  const failing = tool(
    s.backupArgs("inc", "--fleece-dir", s.dir.path, "--speed-limit", `${MIB}`),
  );
  await untilSwitched(s.vm);
  await target.fill();
  await s.vm.write("vd0", 0x54, 6 * MIB, MIB);
  await s.vm.write("vd1", 0x55, 25 * MIB, MIB);
  await setSpeed(s.vm);
  const { code, stdout, stderr } = await failing;
  assertEquals(code, 1, stderr);
  assertMatch(stdout, /disk0 +inc +failed/);
  assertMatch(stderr, /ERROR Disk disk0: .*No space left/);
  await target.empty();
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup fails when the fleece is full, and the guest does not notice", async () => {
  await using s = await scene();
  await using fleece = await mountTmpfs(s.dir.join("fleece"), 16 * MIB);
  await fullThenChanges(s);
  const failing = tool(s.backupArgs("inc", "--fleece-dir", s.dir.join("fleece"), ...SLOW));
  await untilSwitched(s.vm);
  await fleece.fill();
  for (let i = 0; i < 12; i++) await s.vm.write("vd0", 0x55 + i, i * MIB, MIB);
  const { code, stdout } = await failing;
  assertEquals(code, 1);
  assertMatch(stdout, /disk0 +inc +failed/);
  // The other disk's fleece was not touched: its increment is good, and its bitmap has moved on.
  assertMatch(stdout, /disk1 +inc +done/);
  assertEquals((await queryBlock(s.vm)).map(({ inserted }) => inserted?.["node-name"]), [
    "disk0",
    "disk1",
  ]);
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup says how many bytes are missing before it writes any", async () => {
  await using s = await scene();
  await using _target = await mountTmpfs(s.dir.join("target"), 4 * MIB);
  for (const disk of ["vd0", "vd1"]) await s.vm.flush(disk);
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /too full for the backup of "disk0".*: \d+ bytes \(.*\) are needed, \d+ bytes/,
  );
  assertEquals(await filesOf(s.target), []);
  await assertNothingLeft(s.vm, 0);
});

Deno.test("backup needs no room for what a disk has allocated and not in it", async () => {
  await using s = await scene({ disks: 1 });
  await using target = await mountTmpfs(s.target, 32 * MIB);
  await command("fallocate", "--keep-size", "-l", String(256 * MIB), s.dir.join("disk0.qcow2"));
  await s.vm.flush("vd0");
  await s.remember("full");
  const { stderr: warned } = await succeed(s.backupArgs("full"));
  assertMatch(warned, /WARNING The file system of .* counts all that the disks have allocated/);
  await s.assertRestores("full");
  // And what is in it is looked at, too.
  await s.vm.write("vd0", 0x71, 0, 40 * MIB);
  await s.vm.flush("vd0");
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(stderr, /too full for the backup of "disk0"/);
  assert(target.freeBytes() > 16 * MIB);
});

Deno.test("backup tells when QEMU, as another user, can't write the target", async () => {
  await using s = await scene({ vm: { qemuArgs: await asNobody() } });
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /QEMU can't open ".*\.partial": .*Permission denied.*run qmpbackup as QEMU's/,
  );
  await assertNothingLeft(s.vm, 0);
  assertEquals(await filesOf(s.target), []);
});

Deno.test("backup gives up within its time-out when QEMU hangs, and QEMU puts all back later", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  const failing = tool(s.backupArgs("inc", ...SLOW, "--timeout", "1"));
  await untilSwitched(s.vm);
  s.vm.kill("SIGSTOP");
  const start = performance.now();
  const { code, stderr } = await failing;
  assertEquals(code, 1);
  assertStringIncludes(stderr, "Check whether it hangs");
  assertEquals(performance.now() - start < 60_000, true);
  s.vm.kill("SIGCONT");
  await nextHoldsAll(s);
});

Deno.test("backup auto takes a full of the disk that was added, and increments of the others", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  const path = s.dir.join("disk2.qcow2");
  await s.vm.addDisk({ id: "vd2", node: "disk2", path, format: "qcow2", sizeBytes: 32 * MIB });
  await s.vm.write("vd2", 0x77, MIB, 2 * MIB);
  const inc = await tool(s.backupArgs("inc"));
  assertEquals(inc.code, 1);
  assertStringIncludes(inc.stderr, 'the disk "disk2": no backup of this disk in the target yet');
  await s.remember("inc");
  await s.vm.snapshotContents("vd2", s.dir.join("vd2.raw"));
  await succeed(s.backupArgs("auto"));
  const rows = (await runsOf(s)).at(-1)?.disks ?? [];
  assertEquals(rows.map(({ level }) => level), ["inc", "inc", "full"]);
  await s.assertRestores("inc");
  const out = s.dir.join("disk2.out");
  await succeed(["restore", "merge", "--dir", join(s.target, "disk2"), "--targetfile", out]);
  await compare(s.dir.join("vd2.raw"), "raw", out, "qcow2");
});

Deno.test("backup auto starts anew after QEMU was killed, and says why", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  await s.restart();
  await s.vm.write("vd0", 0x71, 3 * MIB, MIB);
  await s.remember("inc");
  const inc = await tool(s.backupArgs("inc"));
  assertEquals(inc.code, 1);
  assertMatch(inc.stderr, /the disk "disk0": its bitmap ".*" is gone \(QEMU was killed/);
  await succeed(s.backupArgs("auto"));
  const rows = (await runsOf(s)).at(-1)?.disks ?? [];
  assertEquals(rows.map(({ level }) => level), ["full", "full"]);
  assertMatch(rows[0]?.reason ?? "", /is gone \(QEMU was killed/);
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup auto starts anew where a bitmap is inconsistent, and goes on after a clean restart", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  // A clean end writes the bitmaps into the images: the chain goes on.
  await s.vm.quit();
  await s.restart();
  await s.vm.write("vd1", 0x72, 3 * MIB, MIB);
  await s.remember("a");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("a");
  // Once loaded from the image, a bitmap is inconsistent after a crash.
  await s.vm.quit();
  await s.restart();
  await s.restart();
  await s.vm.write("vd1", 0x73, 4 * MIB, MIB);
  await s.remember("b");
  const inc = await tool(s.backupArgs("inc"));
  assertMatch(inc.stderr, /is inconsistent \(QEMU was killed\)/);
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("b");
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup reports within seconds that QEMU was killed in the middle", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  const failing = tool(s.backupArgs("inc", ...SLOW));
  await untilSwitched(s.vm);
  const start = performance.now();
  s.vm.kill("SIGKILL");
  const { code, stderr } = await failing;
  assertEquals(code, 1);
  assertMatch(stderr, /QEMU closed the QMP connection|QMP connection broke/);
  assertEquals(performance.now() - start < 60_000, true);
  // Now of all times: what the run had to leave is in nobody's way.
  await s.assertRestores("full");
  await s.restart();
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("auto");
});

Deno.test("backup cleans up behind a run that was killed with -9, and loses nothing", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const child = startTool(s.backupArgs("inc", ...SLOW));
  await untilSwitched(s.vm);
  await s.vm.write("vd0", 0x56, 7 * MIB, MIB);
  child.kill("SIGKILL");
  await ended(child);
  await s.vm.write("vd1", 0x57, 26 * MIB, MIB);
  await s.remember("auto");
  const { stderr } = await succeed(s.backupArgs("auto"));
  assertMatch(stderr, /died and left this VM locked: taking over/);
  assertEquals((await runsOf(s)).map(({ state }) => state), ["done", "failed", "done"]);
  assertEquals((await runsOf(s)).at(-1)?.disks.map(({ level }) => level), ["inc", "inc"]);
  await s.assertRestores("auto");
  await s.vm.execute("stop");
  await nothingLeftAndNextHoldsAll(s);
});

Deno.test("backup lets a guest go on that a run of ours left paused", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const child = startTool(s.backupArgs("inc", ...SLOW));
  await untilSwitched(s.vm);
  child.kill("SIGKILL");
  await ended(child);
  // It died between stop and cont, or we make it look so: the mark is set before the stop.
  const mark = { "qom-type": "secret", id: "qmpbackup-paused", data: "2026-11-22T00:00:00Z" };
  await s.vm.execute("object-add", mark).catch(() => {});
  await s.vm.execute("stop");
  const { stderr } = await succeed(s.backupArgs("auto"));
  assertStringIncludes(stderr, "by a run that died: resuming it");
  await until(async () => (await s.vm.execute("query-status") as { running: boolean }).running);
  await assertNothingLeft(s.vm, 1);
});
