import {
  assert,
  assertEquals,
  assertLess,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { join } from "@std/path";
import { countingProxy } from "../support/counting_proxy.ts";
import { compare } from "../support/qemu_img.ts";
import { qemuOf, useFirst } from "../support/releases.ts";
import {
  assertNothingLeft,
  assertPlainConvert,
  filesOf,
  type Scene,
  scene,
  untilJobs,
} from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { mountTmpfs } from "../support/tmpfs.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { type DiskSpec, startVm } from "../support/vm.ts";
import {
  decodeWriterState,
  installWriterGuest,
  untilWritten,
  writerDiskBytes,
} from "../support/writer_guest.ts";

const MIB = 1 << 20;
/** The monitor's own writes hang QEMU 5.2 where a job without a limit copies; a guest's don't. */
const SLOW = ["--speed-limit", String(2 * MIB)];

/** QEMU 5.2 has no snapshots that a job could read from: all these read from the disks themselves. */
function test52(name: string, run: () => Promise<void>) {
  Deno.test(`QEMU 5.2: ${name}`, async () => {
    using _ = useFirst(await qemuOf("bullseye"));
    await run();
  });
}

interface Summary {
  disks: { level: string; file: string; bytesWritten: number }[];
  warnings: string[];
  hold: { kind: string };
}

const backUp = async (s: Scene, level: string, ...more: string[]) =>
  JSON.parse((await succeed(s.backupArgs(level, "--json", ...more))).stdout) as Summary;

test52("full and incremental backups of two disks restore as they were", async () => {
  await using s = await scene({ vm: { running: true } });
  await s.vm.execute("stop");
  for (const [i, level] of ["full", "inc", "auto", "copy"].entries()) {
    await s.vm.write("vd0", 0x31 + i, (3 + i) * MIB, MIB);
    await s.vm.zero("vd1", i * MIB, MIB / 2);
    await s.vm.discard("vd1", (4 + i) * MIB, MIB / 4);
    await s.remember(`m${i}`);
    const { disks, warnings } = await backUp(s, level);
    assertEquals(disks.map((disk) => disk.level), Array(2).fill(level === "auto" ? "inc" : level));
    assertMatch(warnings.join(), /guest's writes wait for the target/);
    for (const [d, { file, bytesWritten }] of disks.entries()) {
      await assertPlainConvert(join(s.target, file), s.dir.join(`m${i}.vd${d}.raw`));
      // What was reserved is given back.
      assertLess(bytesWritten, level === "full" || level === "copy" ? 16 * MIB : 4 * MIB);
    }
    await s.assertRestores(`m${i}`);
    await assertNothingLeft(s.vm, 1);
  }
});

test52(
  "no write of a guest that never rests is lost, and both disks are of one moment",
  async () => {
    await using dir = await tempDir();
    const slots = 8000;
    const sizeBytes = Math.ceil(writerDiskBytes(slots) / 65536) * 65536;
    const paths = ["a", "b"].map((name) => dir.join(`${name}.qcow2`)) as [string, string];
    const disks = paths.map((path, i): DiskSpec => (
      { id: `vd${i}`, node: `disk${i}`, path, format: "qcow2", sizeBytes, bootIndex: i }
    ));
    await using empty = await startVm({ dir: dir.path, disks });
    await empty.quit();
    await installWriterGuest(paths[0], "qcow2", slots);
    const how = { running: true, qemuArgs: ["-device", "pvpanic"], name: "writer" };
    await using vm = await startVm({ dir: dir.path, disks, ...how });
    await untilWritten(vm, "vd1", 10);
    const target = dir.join("target");
    const runs: string[] = [];
    for (const level of ["full", "inc", "inc", "auto", "inc"]) {
      const args = ["--socket", vm.socket, "--level", level, "--target", target, "--json"];
      runs.push(JSON.parse((await succeed(["backup", ...args])).stdout).id);
      await untilWritten(vm, "vd1", 10);
    }
    for (const run of runs) {
      const out = dir.join(run);
      const args = ["--dir", target, "--target-dir", out, "--until", run, "--format", "raw"];
      await succeed(["restore", "merge", ...args]);
      const state = decodeWriterState(`${out}/disk0.raw`, `${out}/disk1.raw`, slots);
      assert(state.consistent, `${run}: ${state.problem}`);
      await Deno.remove(out, { recursive: true });
    }
    assertEquals(vm.events.filter(({ event }) => /STOP|PANIC/.test(event)), []);
  },
);

test52("the target is reserved, so that the guest writes on though it fills up", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountTmpfs(s.target, 192 * MIB);
  const running = tool(s.backupArgs("full", ...SLOW));
  await untilJobs(s.vm, 2);
  await target.fill();
  for (let i = 0; i < 4; i++) await s.vm.write("vd0", 0x61 + i, (40 + i) * MIB, MIB);
  assertEquals((await running).code, 0);
  assertEquals((await s.vm.execute("query-status") as { status: string }).status, "running");
  await assertNothingLeft(s.vm, 1);
});

test52("a target without room is refused before the guest is touched", async () => {
  await using s = await scene();
  await using _target = await mountTmpfs(s.target, 100 * MIB);
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(stderr, /can't be reserved.*No space left/);
  await assertNothingLeft(s.vm, 0);
  assertEquals(await filesOf(s.target), []);
});

for (const signal of ["SIGTERM", "SIGKILL"] as const) {
  test52(`after ${signal} in mid-copy the next increment holds both`, async () => {
    await using s = await scene();
    await succeed(s.backupArgs("full"));
    await s.vm.write("vd0", 0x51, 0, 12 * MIB);
    await s.vm.write("vd1", 0x52, 20 * MIB, 12 * MIB);
    const child = startTool(s.backupArgs("inc", ...SLOW));
    await untilJobs(s.vm, 2);
    await s.vm.write("vd0", 0x53, 50 * MIB, MIB);
    child.kill(signal);
    await ended(child);
    await s.remember("both");
    const { disks } = await backUp(s, "auto");
    assertEquals(disks.map(({ level }) => level), ["inc", "inc"]);
    await s.assertRestores("both");
    await assertNothingLeft(s.vm, 1);
  });
}

test52("QEMU killed: auto takes a full one, and says that it can't compare", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  await s.restart();
  await s.vm.write("vd0", 0x71, 3 * MIB, MIB);
  await s.remember("now");
  const { disks, warnings } = await backUp(s, "auto", "--on-lost-bitmap", "compare");
  assertEquals(disks.map(({ level }) => level), ["full", "full"]);
  assertStringIncludes(warnings.join(), "compare was left out");
  await s.assertRestores("now");
  const out = s.dir.join("out");
  await succeed(["restore", "merge", "--dir", join(s.target, "disk0"), "--targetfile", out]);
  await compare(s.dir.join("now.vd0.raw"), "raw", out, "qcow2");
});

test52(
  "a disk that grows before its job begins is refused, and is whole in the next run",
  async () => {
    await using s = await scene({ disks: 1, vm: { running: true } });
    await succeed(s.backupArgs("full"));
    let hasGrown = false;
    await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, async (message) => {
      if (hasGrown || !/^→.*block-dirty-bitmap-add/.test(message)) return;
      hasGrown = true;
      await s.vm.execute("block_resize", { "node-name": "disk0", size: 80 * MIB });
      await s.vm.write("vd0", 0x66, 70 * MIB, MIB);
    });
    const args = s.backupArgs("inc").map((word) => word === s.vm.socket ? line.path : word);
    const { code, stderr } = await tool(args);
    assertEquals(code, 1);
    assertMatch(stderr, /"disk0" was resized meanwhile: run again/);
    await s.remember("now");
    await succeed(s.backupArgs("inc"));
    await s.assertRestores("now");
    await assertNothingLeft(s.vm, 1);
  },
);

test52("a live migration is refused while a backup runs", async () => {
  await using s = await scene({ vm: { running: true } });
  await s.remember("full");
  const child = startTool(s.backupArgs("full", ...SLOW));
  await untilJobs(s.vm, 2);
  const migrate = () => s.vm.execute("migrate", { uri: `unix:${s.dir.join("nowhere")}` });
  await assertRejects(migrate, Error, "-0-running' does not support live migration");
  const { code, stderr } = await ended(child);
  assertEquals(code, 0, stderr);
  await s.assertRestores("full");
  await assertNothingLeft(s.vm, 1);
});

test52(
  "a disk that was shrunk and grown again gets a full backup, one that has only grown does not",
  async () => {
    await using s = await scene({ disks: 1 });
    await s.vm.write("vd0", 0x31, 40 * MIB, MIB);
    await backUp(s, "full");
    const level = async (...sizes: number[]) => {
      for (const size of sizes) {
        await s.vm.execute("block_resize", { "node-name": "disk0", size: size * MIB });
      }
      await s.remember(sizes.join("."));
      const { disks } = await backUp(s, "auto");
      await s.assertRestores(sizes.join("."));
      return disks[0]?.level;
    };
    assertEquals(await level(80), "inc");
    assertEquals(await level(32, 80), "full");
    assertEquals(await level(80), "inc");
    await assertNothingLeft(s.vm, 1);
  },
);
