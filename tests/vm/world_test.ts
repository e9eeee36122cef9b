/** What others do to the VM, its disks and the clock while a run is at work, or between two. */

import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { basename } from "@std/path";
import { countingProxy } from "../support/counting_proxy.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { fullThenChanges, nextHoldsAll, runsOf } from "../support/next_run.ts";
import { compare, convertToRaw, create } from "../support/qemu_img.ts";
import {
  assertNothingLeft,
  filesOf,
  queryBlock,
  type Scene,
  scene,
  setSpeed,
  until,
  untilCopying,
  untilJobs,
  untilSwitched,
} from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { command } from "../support/tmpfs.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";

const MIB = 1 << 20;
const SLOW = ["--speed-limit", String(MIB)];

/** Runs an increment, in whose middle something happens to the VM. */
async function during(s: Scene, change: () => Promise<unknown>): Promise<ToolResult> {
  await s.remember("inc");
  const running = ended(startTool(s.backupArgs("inc", ...SLOW)));
  await untilCopying(s.vm);
  await change();
  // Where QEMU is still there.
  await setSpeed(s.vm).catch(() => {});
  return await running;
}

/** The first disk's image of each run, in the order of the records. */
async function runFiles(s: Scene): Promise<string[]> {
  return (await runsOf(s)).map(({ disks }) => disks[0]?.file ?? "");
}

async function status(s: Scene): Promise<string> {
  return (await s.vm.execute("query-status") as { status: string }).status;
}

for (
  const { what, commands, then } of [
    { what: "stopped", commands: ["stop"], then: "paused" },
    { what: "stopped and resumed", commands: ["stop", "cont"], then: "running" },
    { what: "reset", commands: ["system_reset"], then: "running" },
  ]
) {
  Deno.test(`a VM that is ${what} by someone else during a run stays so, and the run is done`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    const { code, stderr } = await during(s, async () => {
      for (const command of commands) await s.vm.execute(command);
    });
    assertEquals(code, 0, stderr);
    assertEquals(await status(s), then);
    await s.assertRestores("inc");
    await nextHoldsAll(s);
    assertEquals(await status(s), then);
  });
}

Deno.test("a VM that is resumed by someone else during a run stays so, and the run is done", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  const { code, stderr } = await during(s, () => s.vm.execute("cont"));
  assertEquals(code, 0, stderr);
  assertEquals(await status(s), "running");
  await s.assertRestores("inc");
  await nextHoldsAll(s);
});

Deno.test("a VM that is ended during a run fails it with a sentence, and the chain goes on", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const { code, stderr } = await during(s, () => s.vm.quit());
  assertEquals(code, 1);
  assertMatch(stderr, /Disk disk0: (QEMU closed the QMP connection: has|The QMP connection broke)/);
  await s.restart();
  await nextHoldsAll(s);
});

/** What "sd2" needs, a disk that is unplugged at once, with no guest that must agree. */
const SCSI = ["-device", "virtio-scsi-pci,id=scsi"];

async function plugIn(s: Scene) {
  const path = s.dir.join("disk2.qcow2");
  const disk = { id: "sd2", node: "disk2", path, format: "qcow2", sizeBytes: 64 * MIB } as const;
  await s.vm.addDisk({ ...disk, driver: "scsi-hd" });
  await s.vm.write("sd2", 0x33, 0, 4 * MIB);
}

async function unplug(s: Scene) {
  await s.vm.execute("device_del", { id: "sd2" });
  await until(async () => (await queryBlock(s.vm)).length === s.disks);
}

async function assertSd2Restores(s: Scene, moment: string) {
  const restored = s.dir.join(`${moment}.sd2.out`);
  await succeed(["restore", "merge", "--dir", `${s.target}/disk2`, "--targetfile", restored]);
  await compare(s.dir.join(`${moment}.sd2.raw`), "raw", restored, "qcow2");
}

Deno.test("a disk that is unplugged during a run is in it, and goes on when it is plugged in again", async () => {
  await using s = await scene({ vm: { running: true, qemuArgs: SCSI } });
  await plugIn(s);
  await fullThenChanges(s);
  await s.vm.write("sd2", 0x34, 2 * MIB, 12 * MIB);
  await s.vm.snapshotContents("sd2", s.dir.join("inc.sd2.raw"));
  const { code, stderr } = await during(s, () => unplug(s));
  assertEquals(code, 0, stderr);
  await s.assertRestores("inc");
  await assertSd2Restores(s, "inc");
  await nextHoldsAll(s);
  await s.vm.execute("device_add", { driver: "scsi-hd", id: "sd2", drive: "disk2" });
  await s.vm.write("sd2", 0x35, 8 * MIB, MIB);
  await s.vm.snapshotContents("sd2", s.dir.join("auto.sd2.raw"));
  await nextHoldsAll(s, ["inc", "inc", "inc"]);
  await assertSd2Restores(s, "auto");
});

Deno.test("a disk that is unplugged just when it is let go of is in the run", async () => {
  await using s = await scene({ disks: 1, vm: { running: true, qemuArgs: SCSI } });
  await plugIn(s);
  await fullThenChanges(s);
  await s.vm.snapshotContents("sd2", s.dir.join("inc.sd2.raw"));
  let unplugged = 0;
  // Its gate leads past the filter again, and is about to be taken away.
  await using line = countingProxy(s.dir.join("proxy.qmp"), s.vm.socket, async (message) => {
    if (!message.startsWith("→") || !/blockdev-reopen.*"file":"disk2"/.test(message)) return;
    unplugged++;
    await s.vm.execute("device_del", { id: "sd2" });
  });
  await succeed(["backup", "--socket", line.path, "--level", "auto", "--target", s.target]);
  assertEquals(unplugged, 1);
  await assertSd2Restores(s, "inc");
  await nextHoldsAll(s, ["inc"]);
});

Deno.test("a disk that is plugged in during a run is in the next one", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const path = s.dir.join("disk2.qcow2");
  const { code, stderr } = await during(
    s,
    () => s.vm.addDisk({ id: "vd2", node: "disk2", path, format: "qcow2", sizeBytes: 32 * MIB }),
  );
  assertEquals(code, 0, stderr);
  await s.assertRestores("inc");
  await s.vm.write("vd2", 0x77, MIB, 2 * MIB);
  await s.vm.snapshotContents("vd2", s.dir.join("vd2.raw"));
  await nextHoldsAll(s, ["inc", "inc", "full"]);
  const restored = s.dir.join("disk2.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/disk2`, "--targetfile", restored]);
  await compare(s.dir.join("vd2.raw"), "raw", restored, "qcow2");
});

Deno.test("a disk that is grown by its drive's name during a run is in it as it was, and in the next as it is", async () => {
  await using dir = await tempDir();
  const disk = dir.join("disk.qcow2");
  await create(disk, 64 * MIB);
  const drive = `if=none,id=drive-scsi0,format=qcow2,file=${disk}`;
  const scsi = [...SCSI, "-drive", drive, "-device", "scsi-hd,drive=drive-scsi0,id=scsi0"];
  await using s = await scene({ disks: 1, vm: { running: true, qemuArgs: scsi } });
  const write = (pattern: number, mib: number, lengthMib: number) =>
    s.vm.execute("human-monitor-command", {
      "command-line": `qemu-io -d scsi0 "write -P ${pattern} ${mib}M ${lengthMib}M"`,
    });
  const remember = async (moment: string) => {
    await s.vm.execute("human-monitor-command", { "command-line": 'qemu-io -d scsi0 "flush"' });
    await convertToRaw(disk, "qcow2", dir.join(moment));
  };
  const assertRestores = async (moment: string) => {
    const restored = dir.join(`${moment}.out`);
    const folder = `${s.target}/drive-scsi0`;
    await succeed(["restore", "merge", "--dir", folder, "--targetfile", restored]);
    await compare(dir.join(moment), "raw", restored, "qcow2");
  };
  await write(0x41, 0, 12);
  await fullThenChanges(s);
  await write(0x42, 4, 12);
  await remember("inc");
  const { code, stderr } = await during(s, async () => {
    await s.vm.execute("block_resize", { device: "drive-scsi0", size: 80 * MIB });
    await write(0x43, 70, 1);
  });
  assertEquals(code, 0, stderr);
  await s.assertRestores("inc");
  await assertRestores("inc");
  await write(0x44, 71, 1);
  await remember("auto");
  await nextHoldsAll(s);
  await assertRestores("auto");
});

Deno.test("a disk can't be grown during a run, but after it, and its chain goes on", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const grow = () => s.vm.execute("block_resize", { "node-name": "disk0", size: 80 * MIB });
  const { code, stderr } = await during(s, () => assertRejects(grow, Error, "block_resize"));
  assertEquals(code, 0, stderr);
  await grow();
  await s.vm.write("vd0", 0x62, 70 * MIB, MIB);
  await nextHoldsAll(s);
});

Deno.test("a snapshot that someone takes of a disk during a run stays, and the disk begins anew", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const overlay = s.dir.join("overlay.qcow2");
  const { code, stderr } = await during(s, async () => {
    await s.vm.execute("blockdev-snapshot-sync", {
      "node-name": "disk0",
      "snapshot-file": overlay,
      "snapshot-node-name": "overlay0",
    });
    await s.vm.write("vd0", 0x63, 3 * MIB, MIB);
  });
  assertEquals(code, 0, stderr);
  assertEquals(await rootNodes(s), ["overlay0", "disk1"]);
  await s.assertRestores("inc");
  const { stdout, stderr: log } = await succeed(s.backupArgs("auto"));
  assertMatch(stdout, /overlay0 +full +done /);
  assertMatch(log, /Disk overlay0: full \(.* the disk got another image/);
  await s.vm.write("vd0", 0x64, 4 * MIB, MIB);
  await rememberOverlay(s, "second");
  await succeed(s.backupArgs("inc"));
  await assertDisk0Restores(s, "second");
});

for (const moment of ["query-block", '"copy-before-write"', '"driver":"raw"', '"qom-set"']) {
  Deno.test(`a snapshot that someone takes at ${moment}, before the point in time, is not undone`, async () => {
    await using s = await scene({ vm: { running: true } });
    await fullThenChanges(s);
    let isPrepared = false, isTaken = false;
    await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, async (message) => {
      // The last thing that is prepared for the second disk.
      isPrepared ||= message.startsWith("→") && message.includes('"name":"qmpbackup-disk1-');
      if (isTaken || !isPrepared || !message.startsWith("→") || !message.includes(moment)) return;
      isTaken = true;
      await s.vm.execute("blockdev-snapshot-sync", {
        "node-name": "disk0",
        "snapshot-file": s.dir.join("overlay.qcow2"),
        "snapshot-node-name": "overlay0",
      });
      await s.vm.write("vd0", 0x63, 3 * MIB, MIB);
    });
    const args = s.backupArgs("inc").map((word) => word === s.vm.socket ? line.path : word);
    const { stderr } = await tool(args);
    assertEquals(isTaken, true);
    assertEquals(await rootNodes(s), ["overlay0", "disk1"], stderr);
    await rememberOverlay(s, "now");
    const overlay = await Deno.readFile(s.dir.join("now.raw"));
    assert(overlay.subarray(3 * MIB, 4 * MIB).every((byte) => byte === 0x63), stderr);
    await succeed(s.backupArgs("auto"));
    await assertDisk0Restores(s, "now");
  });
}

Deno.test("a snapshot that someone takes below a throttle, before the point in time, ends the run", async () => {
  await using s = await scene({
    disks: 1,
    vm: { running: true, qemuArgs: ["-object", "throttle-group,id=group"] },
  });
  const throttle = { driver: "throttle", "node-name": "throttle0", "throttle-group": "group" };
  await s.vm.execute("blockdev-add", { ...throttle, file: "disk0" });
  const path = "/machine/peripheral/vd0/virtio-backend";
  await s.vm.execute("qom-set", { path, property: "drive", value: "throttle0" });
  await fullThenChanges(s);
  let isTaken = false;
  await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, async (message) => {
    // The last thing that is prepared.
    const isPrepared = message.includes('"block-dirty-bitmap-add"');
    if (isTaken || !message.startsWith("→") || !isPrepared) return;
    isTaken = true;
    const [file, node] = [s.dir.join("overlay.qcow2"), "overlay0"];
    const names = { "node-name": "disk0", "snapshot-file": file, "snapshot-node-name": node };
    await s.vm.execute("blockdev-snapshot-sync", names);
    await s.vm.write("vd0", 0x63, 3 * MIB, MIB);
  });
  const args = s.backupArgs("inc").map((word) => word === s.vm.socket ? line.path : word);
  const { code, stderr } = await tool(args);
  assertEquals(code, 1, stderr);
  assertMatch(stderr, /"disk0" was changed by another program meanwhile: run again/);
  await rememberOverlay(s, "now");
  await succeed(s.backupArgs("auto"));
  await assertDisk0Restores(s, "now");
});

/** What `virsh backup-begin` does in pull mode: the old data is kept in an image on top of the disk. */
async function beginPull({ vm, dir }: Scene) {
  const filename = dir.join("scratch.qcow2");
  await create(filename, 64 * MIB);
  const file = { driver: "file", filename };
  await vm.execute("blockdev-add", {
    ...{ driver: "qcow2", "node-name": "scratch", file, backing: "disk0" },
  });
  await vm.execute("blockdev-backup", {
    ...{ "job-id": "pull", device: "disk0", target: "scratch", sync: "none" },
  });
}

async function endPull({ vm }: Scene) {
  await vm.execute("block-job-cancel", { device: "pull" });
  await untilJobs(vm, 0);
  await vm.execute("blockdev-del", { "node-name": "scratch" });
}

Deno.test("a run is refused while another program backs the disk up in pull mode, if QEMU would crash", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await beginPull(s);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  const { qemu } = await s.vm.execute("query-version") as { qemu: { major: number } };
  assertEquals(code, qemu.major < 9 ? 1 : 0, stderr);
  if (code === 1) {
    assertMatch(stderr, /Another program backs up the disk "disk0" in pull mode .*--exclude disk0/);
  }
  await succeed(s.backupArgs("copy", "--exclude", "disk0"));
  await endPull(s);
  await nextHoldsAll(s);
});

Deno.test("another program's backup in pull mode may begin during a run", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  const { code, stderr } = await during(s, () => beginPull(s));
  assertEquals(code, 0, stderr);
  await s.assertRestores("inc");
  await endPull(s);
  await nextHoldsAll(s);
});

async function rootNodes(s: Scene): Promise<(string | undefined)[]> {
  return (await queryBlock(s.vm)).map(({ inserted }) => inserted?.["node-name"]);
}

async function rememberOverlay(s: Scene, moment: string) {
  await s.vm.flush("vd0");
  await convertToRaw(s.dir.join("overlay.qcow2"), "qcow2", s.dir.join(`${moment}.raw`));
}

async function assertDisk0Restores(s: Scene, moment: string) {
  const out = s.dir.join(`${moment}.out`);
  await succeed(["restore", "merge", "--dir", `${s.target}/disk0`, "--targetfile", out]);
  await compare(s.dir.join(`${moment}.raw`), "raw", out, "qcow2");
}

Deno.test("a snapshot that someone takes on top of our filter is named, and kept", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  let filter: string | undefined;
  const { code, stderr, stdout } = await during(s, async () => {
    filter = (await rootNodes(s))[0];
    await s.vm.execute("blockdev-snapshot-sync", {
      "node-name": filter,
      "snapshot-file": s.dir.join("overlay.qcow2"),
      "snapshot-node-name": "overlay0",
    });
    await s.vm.write("vd0", 0x63, 3 * MIB, MIB);
  });
  assertEquals(code, 1);
  assertMatch(stderr, /The node ".*-0-gate" is in use, but not by a device.*Remove that, and run/);
  assertMatch(stdout, /disk1 +inc +done/);
  // Not while it is there: the next run fails as well, and touches nothing.
  const again = await tool(s.backupArgs("auto"));
  assertEquals(again.code, 1);
  assertMatch(again.stderr, /Error: The node ".*-0-gate" is in use, but not by a device/);
  assertEquals(await rootNodes(s), ["overlay0", "disk1"]);
  await s.vm.write("vd0", 0x64, 4 * MIB, MIB);
  await s.vm.execute("block-commit", {
    "job-id": "commit",
    device: "overlay0",
    "base-node": filter,
  });
  await until(async () => {
    const [job] = await s.vm.execute("query-jobs") as { status: string }[];
    return job?.status === "ready";
  });
  await s.vm.execute("job-complete", { id: "commit" });
  await untilJobs(s.vm, 0);
  await nextHoldsAll(s);
});

Deno.test("a target is locked for a run of another VM, too", async () => {
  await using a = await scene();
  await using b = await scene({ vm: { name: "othervm" } });
  const holder = startTool(a.backupArgs("full", ...SLOW));
  await untilSwitched(a.vm);
  const args = ["backup", "--socket", b.vm.socket, "--level", "auto", "--target", a.target];
  const { code, stderr } = await tool(args);
  assertEquals(code, 11, stderr);
  assertMatch(stderr, new RegExp(`at work on this target: run \\S+ \\(pid ${holder.pid} on`));
  await assertNothingLeft(b.vm, 0);
  await setSpeed(a.vm);
  assertEquals((await ended(holder)).code, 0);
});

Deno.test("a clock that was set back changes neither the order nor the chain", async () => {
  await ensurePrograms({ faketime: "faketime" });
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await s.remember("future");
  const inFuture = startTool(s.backupArgs("inc"), { under: ["faketime", "-f", "+400d"] });
  const { code, stderr } = await ended(inFuture);
  assertEquals(code, 0, stderr);
  const now = Math.floor(Date.now() / 1000);
  const timeOf = (file: string) => Number(basename(file).split("-")[1]);
  const [, second = ""] = await runFiles(s);
  assert(timeOf(second) > now + 399 * 86400, second);
  await nextHoldsAll(s);
  await nextHoldsAll(s);
  // Other programs, the reference's restore among them, go by the names.
  const times = (await runFiles(s)).map(timeOf);
  assertEquals(times, times.toSorted((a, b) => a - b));
});

Deno.test("nothing is touched beside a record that was cut off; moved away, it costs one full backup", async () => {
  await using s = await scene({ disks: 1 });
  await fullThenChanges(s);
  await succeed(s.backupArgs("inc"));
  const id = (await runsOf(s)).at(-1)?.id ?? "";
  const record = `${s.target}/_qmpbackup/runs/${id}.json`;
  await Deno.truncate(record, 700);
  const before = [await filesOf(s.target), await queryBlock(s.vm)];
  const { code, stderr } = await tool(s.backupArgs("auto"));
  assertEquals(code, 1);
  assertStringIncludes(
    stderr,
    `The record "${record}" is not JSON (move it away and use --level auto`,
  );
  assertEquals([await filesOf(s.target), await queryBlock(s.vm)], before);

  await Deno.rename(record, s.dir.join("away.json"));
  await s.vm.write("vd0", 0x62, 40 * MIB, MIB);
  await s.remember("anew");
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("anew");
  await s.assertRestores("full", (await runsOf(s))[0]?.id);
  await s.vm.write("vd0", 0x63, 50 * MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("inc");
  // Nothing proves any more that the bitmap of the run without a record is ours; the sentinel is the full's.
  await assertNothingLeft(s.vm, 2, 1);
});

Deno.test("below a mount point without its file system a run warns, and the chain goes on when that is back", async () => {
  await using s = await scene({ disks: 1 });
  await using stack = new AsyncDisposableStack();
  const storage = s.dir.join("storage");
  for (const folder of [storage, s.target]) await Deno.mkdir(folder);
  const mount = async () => void await command("mount", "--bind", storage, s.target);
  const unmount = async () => void await command("umount", s.target);
  await mount();
  await fullThenChanges(s);
  await unmount();
  await s.remember("below");
  const { code, stderr } = await tool(s.backupArgs("auto", "--strict"));
  assertEquals(code, 3, stderr);
  assertMatch(
    stderr,
    /is new, but there are backups of this VM elsewhere .* check that the file system is mounted/,
  );
  assertEquals((await runsOf(s)).map(({ disks }) => disks[0]?.level), ["full"]);
  await s.assertRestores("below");

  await mount();
  stack.defer(unmount);
  await s.vm.write("vd0", 0x62, 40 * MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("inc");
  await assertNothingLeft(s.vm, 2);
});
