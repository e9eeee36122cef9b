/** One disk's storage fails: that disk is named and fails alone, and the others are backed up. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { dirname, join } from "@std/path";
import { countingProxy } from "../support/counting_proxy.ts";
import { type NbdDisk, plugNbdDisk } from "../support/nbd_disk.ts";
import { runsOf } from "../support/next_run.ts";
import {
  assertNothingLeft,
  leftInQemu,
  queryBlock,
  type Scene,
  scene,
  until,
} from "../support/scene.ts";
import { compare } from "../support/qemu_img.ts";
import { qemuOf, useFirst } from "../support/releases.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";

const MIB = 1 << 20;
/** The disks that fail are raw ones, or lie on a raw one. */
const RAW = ["--include-raw"];
/** Each increment below takes some seconds. */
const SLOW = ["--speed-limit", String(2 * MIB)];

interface Ground {
  s: Scene;
  nbd: NbdDisk;
}

/** A full backup of all, and changes since. */
async function fullThenChanged({ s, nbd }: Ground) {
  await succeed(s.backupArgs("full", ...RAW));
  await change({ s, nbd }, 0x51);
}

/** The guest writes to all disks. */
async function change({ s, nbd }: Ground, pattern: number) {
  for (let i = 0; i < s.disks; i++) await s.vm.write(`vd${i}`, pattern + i, 4 * MIB, 8 * MIB);
  await s.vm.write(nbd.id, pattern + 8, 3 * MIB, 8 * MIB);
}

/** The last run did all but one disk, as it said; what it did can be restored. */
async function assertOthersDone({ s, nbd }: Ground, { code, stderr }: ToolResult, moment: string) {
  assertEquals(code, 1, stderr);
  const run = (await runsOf(s)).at(-1);
  const rows = run?.disks ?? [];
  assertEquals(run?.state, "failed");
  const others = Array.from({ length: s.disks }, () => "done");
  assertEquals(rows.map(({ result }) => result), [...others, "failed"], stderr);
  assertMatch(stderr, new RegExp(`ERROR Disk ${nbd.id}: `));
  assertMatch(rows.at(-1)?.error ?? "", new RegExp(`"${nbd.id}"`));
  assertEquals(await leftInQemu(s.vm), []);
  const roots = (await queryBlock(s.vm)).map(({ inserted }) => inserted?.["node-name"] ?? "");
  assertEquals(roots.filter((name) => name.startsWith("qmpbackup")), []);
  for (const [i, { file }] of rows.slice(0, s.disks).entries()) {
    const out = s.dir.join("out");
    const folder = join(s.target, dirname(file));
    await succeed(["restore", "merge", "--dir", folder, "--targetfile", out]);
    await compare(s.dir.join(`${moment}.vd${i}.raw`), "raw", out, "qcow2");
    await Deno.remove(out);
  }
}

/** With the server back, the next run does all, and holds what the disk's failed runs would have held. */
async function nextDoesAll(ground: Ground) {
  const { s, nbd } = ground;
  await nbd.comeBack();
  // QEMU connects again when the guest next asks for something.
  await until(() => s.vm.write(nbd.id, 0x60, 0, 512).then(() => true, () => false));
  await change(ground, 0x61);
  await s.remember("all");
  await nbd.remember("all");
  await succeed(s.backupArgs("auto", ...RAW));
  const rows = (await runsOf(s)).at(-1)?.disks ?? [];
  assertEquals(rows.map(({ level }) => level), rows.map(() => "inc"));
  await s.assertRestores("all");
  await nbd.assertRestores(s.target, "all");
  assertEquals(await leftInQemu(s.vm), []);
}

const DEAD_BEFORE = [
  { disks: 1, format: "raw", how: [] },
  { disks: 2, format: "raw", how: [] },
  { disks: 2, format: "qcow2", how: ["--pause"] },
] as const;

for (const { disks, format, how } of DEAD_BEFORE) {
  const name = `a ${format} disk whose server died fails alone, beside ${disks}`;
  Deno.test([name, ...how].join(" "), async () => {
    await using s = await scene({ disks, vm: { running: true } });
    const dir = s.dir.path;
    await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format });
    const ground = { s, nbd };
    await fullThenChanged(ground);
    await nbd.kill();
    await s.remember("others");
    const result = await tool(s.backupArgs("auto", ...RAW, ...how));
    await assertOthersDone(ground, result, "others");
    assertMatch(result.stderr, /Disk remote: The storage of the disk "remote" fails: .*Check "/);
    await nextDoesAll(ground);
  });
}

/** The last command before the server dies. */
for (const moment of ["qom-set", "blockdev-reopen", "snapshot-access"]) {
  Deno.test(`a disk whose server dies at ${moment} fails alone`, async () => {
    await using s = await scene({ vm: { running: true } });
    const dir = s.dir.path;
    await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format: "raw" });
    const ground = { s, nbd };
    await fullThenChanged(ground);
    await s.remember("others");
    let isDead = false;
    await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, async (message) => {
      if (isDead || !message.startsWith("→") || !message.includes(`"${moment}"`)) return;
      isDead = true;
      await nbd.kill();
    });
    const args = s.backupArgs("auto", ...RAW).map((word) =>
      word === s.vm.socket ? line.path : word
    );
    const result = await tool(args);
    assert(isDead);
    await assertOthersDone(ground, result, "others");
    await nextDoesAll(ground);
  });
}

Deno.test("a disk whose server dies while it is copied fails alone, and so it does in runs after that", async () => {
  await using s = await scene({ vm: { running: true } });
  const dir = s.dir.path;
  await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format: "raw" });
  const ground = { s, nbd };
  await fullThenChanged(ground);
  await s.remember("others");
  const running = ended(startTool(s.backupArgs("inc", ...RAW, ...SLOW)));
  await untilJobsRun(s, 3);
  await nbd.kill();
  // The guest writes on, to the disks that are there.
  await s.vm.write("vd0", 0x59, 20 * MIB, MIB);
  await assertOthersDone(ground, await running, "others");
  await s.remember("later");
  const again = await tool(s.backupArgs("auto", ...RAW));
  await assertOthersDone(ground, again, "later");
  await nextDoesAll(ground);
});

Deno.test("the run after one that was killed while a disk's server died backs the others up", async () => {
  await using s = await scene({ vm: { running: true } });
  const dir = s.dir.path;
  await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format: "raw" });
  const ground = { s, nbd };
  await fullThenChanged(ground);
  const killed = startTool(s.backupArgs("inc", ...RAW, ...SLOW));
  await untilJobsRun(s, 3);
  await nbd.kill();
  killed.kill("SIGKILL");
  await ended(killed);
  await s.remember("others");
  await assertOthersDone(ground, await tool(s.backupArgs("auto", ...RAW)), "others");
  await nextDoesAll(ground);
});

Deno.test("a disk whose server died is named where it is the only one", async () => {
  await using s = await scene({ vm: { running: true } });
  const dir = s.dir.path;
  await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format: "raw" });
  await fullThenChanged({ s, nbd });
  await nbd.kill();
  const { code, stderr } = await tool(s.backupArgs("auto", ...RAW, "--include", "remote"));
  assertEquals(code, 1);
  assertMatch(stderr, /Error: The storage of the disk "remote" fails: .*Check "/);
  assertEquals(await leftInQemu(s.vm), []);
  await nextDoesAll({ s, nbd });
});

async function untilJobsRun(s: Scene, count: number) {
  await until(async () => (await s.vm.execute("query-jobs") as unknown[]).length >= count);
}

/** QEMU 5.2 has no filters to be switched: jobs start on the disks themselves, by one transaction. */
function test52(name: string, run: () => Promise<void>) {
  Deno.test(`QEMU 5.2: ${name}`, async () => {
    using _ = useFirst(await qemuOf("bullseye"));
    await run();
  });
}

test52("a disk whose server died fails alone", async () => {
  await using s = await scene({ vm: { running: true } });
  const dir = s.dir.path;
  await using nbd = await plugNbdDisk({ vm: s.vm, dir, id: "remote", format: "raw" });
  await succeed(s.backupArgs("full", ...RAW));
  await s.vm.write("vd0", 0x51, 4 * MIB, MIB);
  await nbd.kill();
  await s.remember("others");
  const result = await tool(s.backupArgs("full", ...RAW));
  await assertOthersDone({ s, nbd }, result, "others");
  assertMatch(result.stderr, /ERROR Disk remote: The disk "remote" can't be read: .*Check its/);
  await nbd.comeBack();
  await Deno.copyFile(s.dir.join("remote.served"), s.dir.join("all.remote"));
  const again = () => tool(s.backupArgs("full", ...RAW));
  // QEMU connects again when it next asks for something.
  if ((await again()).code !== 0) assertEquals((await again()).code, 0);
  await s.assertRestores("others");
  await nbd.assertRestores(s.target, "all");
});

test52("a disk whose job QEMU refuses fails alone, and the others' jobs start", async () => {
  await using s = await scene({ disks: 3, vm: { running: true } });
  await succeed(s.backupArgs("full"));
  for (const id of ["vd0", "vd1", "vd2"]) await s.vm.write(id, 0x51, 4 * MIB, MIB);
  // Another program's job holds the second one.
  const nothing = { driver: "null-co", "node-name": "nothing", size: 64 * MIB };
  await s.vm.execute("blockdev-add", nothing);
  const theirs = { "job-id": "theirs", device: "disk1", target: "nothing", sync: "full", speed: 1 };
  await s.vm.execute("blockdev-mirror", theirs);
  await s.remember("now");
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertMatch(stderr, /ERROR Disk disk1: .*another program's job "theirs" \(mirror\)/);
  const rows = (await runsOf(s)).at(-1)?.disks ?? [];
  assertEquals(rows.map(({ result }) => result), ["done", "failed", "done"], stderr);
  await s.vm.execute("block-job-cancel", { device: "theirs", force: true });
  await until(async () => (await s.vm.execute("query-jobs") as unknown[]).length === 0);
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("now");
  await assertNothingLeft(s.vm, 1);
});
