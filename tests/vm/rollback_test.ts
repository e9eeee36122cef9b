/**
 * `restore rollback`: the VM's own disks go back to a point in time.
 *
 * @module
 */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { compare } from "../support/qemu_img.ts";
import { assertNothingLeft, type Scene, scene, until } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { startVm } from "../support/vm.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

const rollbackArgs = (s: Scene, ...more: string[]) => [
  ...["restore", "rollback", "--dir", s.target, "--socket", s.vm.socket, "--json"],
  ...more,
];

interface Summary {
  run: string;
  safetyBackup: string | null;
  isReset: boolean;
  isRunning: boolean;
  disks: { disk: string; changedBytes: number }[];
}

const lastOf = (stdout: string) => JSON.parse(stdout.trim().split("\n").at(-1) ?? "");

async function rollBack(s: Scene, ...more: string[]): Promise<Summary> {
  return lastOf((await succeed(rollbackArgs(s, ...more))).stdout);
}

async function backUp(s: Scene, level = "auto"): Promise<string> {
  return lastOf((await succeed([...s.backupArgs(level), "--json"])).stdout).id;
}

/** Whether the VM's disks hold what they did at a moment. */
async function assertIsBack(s: Scene, moment: string) {
  await s.remember("now");
  for (let i = 0; i < s.disks; i++) {
    await compare(s.dir.join(`now.vd${i}.raw`), "raw", s.dir.join(`${moment}.vd${i}.raw`), "raw");
  }
}

async function isRunning({ vm }: Scene): Promise<boolean> {
  return (await vm.execute("query-status") as { running: boolean }).running;
}

/** Three points, with another state after the last. */
async function withPoints(s: Scene) {
  await s.remember("first");
  const first = await backUp(s, "full");
  await s.vm.write("vd0", 0x61, 9 * MIB, MIB);
  await s.vm.write("vd1", 0x62, 30 * MIB, 65536);
  await s.vm.zero("vd0", 0, 2 * MIB);
  await s.remember("second");
  const second = await backUp(s, "inc");
  await s.vm.write("vd0", 0x63, 40 * MIB, MIB);
  const third = await backUp(s, "inc");
  await s.vm.write("vd0", 0x64, 9 * MIB + 4096, 8192);
  await s.vm.write("vd1", 0x65, 50 * MIB, MIB);
  await s.remember("last");
  return { first, second, third };
}

Deno.test("restore rollback writes what differs, and the chain goes on", async (t) => {
  await using s = await scene();
  const { first, second } = await withPoints(s);

  await t.step("--dry-run says how much, and changes nothing", async () => {
    const { disks, safetyBackup } = await rollBack(s, "--until", first, "--dry-run");
    assertEquals(safetyBackup, null);
    // What was written, in clusters, and one that watches the disk's end.
    assertEquals(disks.map(({ changedBytes }) => changedBytes), [
      4 * MIB + 65536,
      MIB + 2 * 65536,
    ]);
    await assertIsBack(s, "last");
    await assertNothingLeft(s.vm, 1);
  });

  await t.step("all disks are as they were, and what they held before is in a backup", async () => {
    const { safetyBackup, disks } = await rollBack(s, "--until", first);
    assertEquals(disks.map(({ changedBytes }) => changedBytes), [
      4 * MIB + 65536,
      MIB + 2 * 65536,
    ]);
    await assertIsBack(s, "first");
    await assertNothingLeft(s.vm, 1);
    await s.assertRestores("last", safetyBackup ?? "");
    const { stdout } = await succeed(["list", "--dir", s.target]);
    assertMatch(stdout, new RegExp(`before a rollback to ${first}`));
  });

  await t.step("the next backup is an increment of what differs", async () => {
    await s.vm.write("vd1", 0x66, 3 * MIB, 65536);
    await s.remember("after");
    const run = await backUp(s, "inc");
    await s.assertRestores("after", run);
    await s.assertRestores("first", first);
  });

  await t.step("forward again, one disk alone, and without a backup before", async () => {
    await rollBack(s, "--until", second, "--include", "disk0", "--no-safety-backup");
    await s.remember("now");
    const [now, then] = [s.dir.join("now"), s.dir.join("second")];
    await compare(`${now}.vd0.raw`, "raw", `${then}.vd0.raw`, "raw");
    await compare(`${now}.vd1.raw`, "raw", s.dir.join("after.vd1.raw"), "raw");
    await assertNothingLeft(s.vm, 1);
    const run = await backUp(s, "inc");
    await s.assertRestores("now", run);
  });

  await t.step("across a new full backup", async () => {
    await backUp(s, "full");
    await rollBack(s, "--until", second);
    await assertIsBack(s, "second");
    const run = await backUp(s, "inc");
    await s.assertRestores("second", run);
  });

  const refused = async (exitCode: number, words: RegExp, ...args: string[]) => {
    const { code, stdout } = await tool(rollbackArgs(s, "--until", first, ...args));
    assertEquals(code, exitCode, stdout);
    assertMatch(stdout, words);
    await assertNothingLeft(s.vm, 1);
  };

  await t.step("a name that is not there is refused", async () => {
    await refused(
      2,
      /has no disk \\"disk7\\"; it has \\"disk0\\", \\"disk1\\"/,
      "--include",
      "disk7",
    );
  });

  await t.step("another VM is refused", async () => {
    await using other = await startVm({ dir: s.dir.path, name: "other", disks: [] });
    await refused(
      2,
      /holds backups of the VM .*testvm.*, this is .*other/,
      "--socket",
      other.socket,
    );
  });

  await t.step("a disk that was resized is refused", async () => {
    await s.vm.execute("block_resize", { "node-name": "disk0", size: 80 * MIB });
    await refused(1, /"?disk0.* has 83886080 bytes now, and 67108864 bytes in /);
    await s.assertRestores("second", second);
  });
});

Deno.test("restore rollback stops and resets a guest only if that is asked for", async (t) => {
  await using s = await scene({ disks: 1, diskBytes: 32 * MIB, vm: { running: true } });
  await s.remember("first");
  const first = await backUp(s, "full");
  await s.vm.write("vd0", 0x71, 9 * MIB, MIB);

  await t.step("without --reset the guest runs on", async () => {
    const { code, stdout } = await tool(rollbackArgs(s, "--until", first));
    assertEquals(code, 2);
    assertMatch(stdout, /The guest runs, and its memory knows .* With --reset it is stopped now/);
    assert(await isRunning(s));
    await assertNothingLeft(s.vm, 1);
  });

  await t.step("with it the guest is reset and runs", async () => {
    const { isReset, isRunning: runs } = await rollBack(s, "--until", first, "--reset");
    assertEquals([isReset, runs], [true, true]);
    assert(await isRunning(s));
    const events = s.vm.events.map(({ event }) => event).filter((event) =>
      event !== "JOB_STATUS_CHANGE"
    );
    const order = ["STOP", "RESET", "RESUME"].map((event) => events.lastIndexOf(event));
    assertEquals(order, order.toSorted((a, b) => a - b));
    assert(!order.includes(-1));
    await assertIsBack(s, "first");
    await assertNothingLeft(s.vm, 1);
  });

  await t.step("a guest that was stopped stays so", async () => {
    await s.vm.write("vd0", 0x72, 9 * MIB, MIB);
    await s.vm.execute("stop");
    assertEquals((await tool(rollbackArgs(s, "--until", first))).code, 2);
    const { isReset, isRunning: runs } = await rollBack(s, "--until", first, "--reset");
    assertEquals([isReset, runs], [true, false]);
    assert(!await isRunning(s));
    await assertIsBack(s, "first");
  });

  await t.step("a lost bitmap is made up for by reading the whole disk", async () => {
    await s.vm.write("vd0", 0x73, 20 * MIB, MIB);
    await s.remember("last");
    await s.restart();
    const bare = await tool(rollbackArgs(s, "--until", first, "--no-safety-backup", "--reset"));
    assertEquals(bare.code, 1);
    assertMatch(bare.stdout, /leave out --no-safety-backup, then the whole disk is compared/);
    assert(await isRunning(s));
    const { safetyBackup } = await rollBack(s, "--until", first, "--reset");
    await assertIsBack(s, "first");
    await s.assertRestores("last", safetyBackup ?? "");
    await assertNothingLeft(s.vm, 1);
  });
});

Deno.test("a raw disk in an iothread is rolled back, and QEMU may end at the reset", async () => {
  await using dir = await tempDir();
  await using vm = await startVm({
    dir: dir.path,
    disks: [],
    qemuArgs: [
      ...["-no-reboot", "-object", "iothread,id=thread0"],
      ...["-device", "virtio-scsi-pci,id=scsi0,iothread=thread0"],
    ],
  });
  const path = dir.join("disk.raw");
  const disk = { id: "sd0", node: "disk0", path, sizeBytes: 32 * MIB, driver: "scsi-hd" } as const;
  await vm.addDisk({ ...disk, format: "raw" });
  await vm.write("sd0", 0x11, 0, 8 * MIB);
  await vm.snapshotContents("sd0", dir.join("first"));
  const target = dir.join("target");
  const args = ["--socket", vm.socket, "--json"];
  const backupArgs = (level: string) => [
    ...["backup", ...args, "--target", target, "--level", level, "--include-raw"],
  ];
  const { id } = lastOf((await succeed(backupArgs("full"))).stdout);
  const back = ["restore", "rollback", ...args, "--dir", target, "--until", id];

  await vm.write("sd0", 0x12, 4 * MIB, 8 * MIB);
  await succeed(back);
  await vm.snapshotContents("sd0", dir.join("now"));
  await compare(dir.join("now"), "raw", dir.join("first"), "raw");
  await assertNothingLeft(vm, 1);
  await succeed(backupArgs("inc"));
  const restored = dir.join("restored.qcow2");
  await succeed(["restore", "merge", "--dir", `${target}/disk0`, "--targetfile", restored]);
  await compare(restored, "qcow2", dir.join("first"), "raw");

  await vm.write("sd0", 0x13, 4 * MIB, 8 * MIB);
  await vm.execute("cont");
  const { isRunning, warnings } = lastOf((await succeed([...back, "--reset"])).stdout);
  assertEquals([isRunning, warnings], [
    false,
    ["QEMU ended at the reset (-no-reboot): start the VM again"],
  ]);
  await vm.exited;
  await compare(path, "raw", dir.join("first"), "raw");
});

/** When a rollback is killed: after the first message that holds all of these. */
const KILLS: { at: string[]; isHalfWay: boolean; args?: string[] }[] = [
  { at: ['"execute":"stop"'], isHalfWay: false },
  // The safety backup is done.
  { at: ['"blockdev-add"', '-point"'], isHalfWay: false },
  { at: ['"object-add"', "qmpbackup-rollback"], isHalfWay: true },
  // Half of the disk is written: the job waits for ever after its first piece.
  { at: ['"blockdev-backup"', '-gate"'], isHalfWay: true, args: ["--rate-limit", "1"] },
  { at: ['"execute":"system_reset"'], isHalfWay: true },
];

Deno.test("a rollback that is killed leaves the old disk, or says that it is half-way", async (t) => {
  await using s = await scene({ disks: 1, diskBytes: 32 * MIB, vm: { running: true } });
  await s.remember("first");
  const first = await backUp(s, "full");
  for (const [i, { at, isHalfWay, args = [] }] of KILLS.entries()) {
    await t.step(at.join(" "), async () => {
      await s.vm.write("vd0", 0x81 + i, 4 * MIB, 8 * MIB);
      await s.remember("last");
      const killed = Promise.withResolvers<void>();
      let child: Deno.ChildProcess | null = null;
      await using line = countingProxy(s.dir.join(`${i}.qmp`), s.vm.socket, async (message) => {
        if (!at.every((part) => message.includes(part))) return;
        child?.kill("SIGKILL");
        killed.resolve();
        await child?.status;
      });
      child = startTool([
        ...["restore", "rollback", "--dir", s.target, "--socket", line.path],
        ...["--until", first, "--reset", ...args],
      ]);
      const { stderr } = await ended(child);
      await Promise.race([
        killed.promise,
        Promise.reject(new Error(`It was not killed: ${stderr}`)),
      ]);
      if (isHalfWay) {
        const next = await tool(s.backupArgs("auto"));
        assertEquals(next.code, 1);
        assertMatch(next.stderr, /may be half rolled back: .* Run "restore rollback --dir /);
        const other = await tool([...s.backupArgs("auto"), "--target", s.dir.join("other")]);
        assertEquals(other.code, 1);
        assertMatch(other.stderr, /may be half rolled back to the run .*: run "restore rollback"/);
        const cleanup = await succeed(["cleanup", "--recover", "--socket", s.vm.socket]);
        assertMatch(cleanup.stderr, /may be half rolled back to the run/);
        assert(at.join().includes("rollback") || !await isRunning(s));
      } else {
        await until(() => isRunning(s));
        await assertIsBack(s, "last");
        await backUp(s, "inc");
        await s.assertRestores("last");
      }
      const { isRunning: runs } = await rollBack(s, "--until", first, "--reset");
      assert(runs && await isRunning(s));
      await assertIsBack(s, "first");
      await assertNothingLeft(s.vm, 1);
    });
  }
  await s.vm.write("vd0", 0x99, 30 * MIB, MIB);
  await s.remember("end");
  const run = await backUp(s, "inc");
  await s.assertRestores("end", run);
});
