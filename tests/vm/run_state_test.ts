/** VMs whose guest does not run, for whatever reason: their disks are backed up, and they stay as they are. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { startLinuxGuest } from "../support/linux_guest.ts";
import { leaveDeadRun, runsOf } from "../support/next_run.ts";
import { compare, convertToRaw } from "../support/qemu_img.ts";
import { qemuOf, useFirst } from "../support/releases.ts";
import { assertNothingLeft, type Scene, scene, until, untilJobs } from "../support/scene.ts";
import { GUEST_STATES, type GuestState, stateGuest } from "../support/state_guest.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { mountTmpfs, type Tmpfs } from "../support/tmpfs.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { type DiskSpec, startVm, type Vm } from "../support/vm.ts";
import { installWriterGuest, untilWritten, writerDiskBytes } from "../support/writer_guest.ts";

const MIB = 1 << 20;

async function stateOf(vm: Vm): Promise<string> {
  return (await vm.execute("query-status") as { status: string }).status;
}

/** A VM of two disks in that state; `dir` is for the ROM that brings it there. */
async function sceneIn(state: GuestState, dir: TempDir): Promise<Scene> {
  const s = await scene({ vm: { qemuArgs: await stateGuest(state, dir.join("rom")) } });
  await s.vm.execute("cont");
  await until(async () => await stateOf(s.vm) === state);
  return s;
}

/** A full backup, an increment with a pause, and one that follows a killed run, each compared. */
async function backUpAndCompare(s: Scene, state: string) {
  const before = s.vm.events.length;
  await s.remember("full");
  await succeed(s.backupArgs("full", "--strict"));
  await s.vm.write("vd0", 0x51, 0, 12 * MIB);
  await s.vm.write("vd1", 0x52, 20 * MIB, 12 * MIB);
  await s.remember("inc");
  const { stdout } = await succeed(s.backupArgs("inc", "--pause", "--strict", "--json"));
  const { hold } = JSON.parse(stdout) as { hold: { kind: string } };
  assertEquals(hold.kind, "already-stopped");
  await s.vm.write("vd0", 0x53, 30 * MIB, 12 * MIB);
  await s.vm.write("vd1", 0x54, 2 * MIB, 12 * MIB);
  await leaveDeadRun(s);
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  assertEquals(await stateOf(s.vm), state);
  const words = s.vm.events.slice(before).map(({ event }) => event);
  assertEquals(words.filter((event) => ["RESUME", "STOP", "WAKEUP"].includes(event)), []);
  await s.assertRestores("auto");
  const done = (await runsOf(s)).filter(({ state }) => state === "done").map(({ id }) => id);
  await s.assertRestores("full", done[0]);
  await s.assertRestores("inc", done[1]);
  await assertNothingLeft(s.vm, 1);
}

for (const state of GUEST_STATES) {
  Deno.test(`a VM in the state ${state} is backed up, and stays in it`, async () => {
    await using dir = await tempDir();
    await using s = await sceneIn(state, dir);
    await backUpAndCompare(s, state);
  });
}

for (const state of ["suspended", "shutdown"] as const) {
  Deno.test(`a VM in the state ${state} is backed up without fleecing, and stays in it`, async () => {
    using _old = useFirst(await qemuOf("bullseye"));
    await using dir = await tempDir();
    await using s = await sceneIn(state, dir);
    await s.remember("full");
    await succeed(s.backupArgs("full"));
    await s.vm.write("vd0", 0x51, 0, 12 * MIB);
    await s.remember("inc");
    await succeed(s.backupArgs("inc", "--pause"));
    assertEquals(await stateOf(s.vm), state);
    await s.assertRestores("inc");
    await assertNothingLeft(s.vm, 1);
  });
}

Deno.test("a mark of a killed run's pause resumes no VM that has shut down since", async () => {
  await using dir = await tempDir();
  await using s = await sceneIn("shutdown", dir);
  await succeed(s.backupArgs("full"));
  const mark = { "qom-type": "secret", id: "qmpbackup-paused", data: "2026-11-22T00:00:00Z" };
  await s.vm.execute("object-add", mark);
  const { stderr } = await succeed(s.backupArgs("inc"));
  assertStringIncludes(stderr, "its state is shutdown now: removing its mark");
  assertEquals(await stateOf(s.vm), "shutdown");
  await assertNothingLeft(s.vm, 1);
});

interface Guest {
  backup: string[];
  agent: string[];
  disk: DiskSpec;
}

/** A Linux with a disk, and the command line that backs it up. */
function linux(dir: { join(name: string): string }): Guest {
  const sizeBytes = 64 * MIB;
  return {
    disk: { id: "vd0", node: "disk0", path: dir.join("disk0.qcow2"), format: "qcow2", sizeBytes },
    backup: [
      "backup",
      "--socket",
      dir.join("testvm.qmp"),
      "--target",
      dir.join("target"),
      "--level",
    ],
    agent: ["--agent-socket", dir.join("testvm.agent"), "--quiesce=require"],
  };
}

async function assertRestored(dir: { join(name: string): string }, vm: Vm, what: string) {
  await vm.flush("vd0");
  await convertToRaw(dir.join("disk0.qcow2"), "qcow2", dir.join(`${what}.raw`));
  const out = dir.join(`${what}.out`);
  await succeed(["restore", "merge", "--dir", dir.join("target"), "--targetfile", out]);
  await compare(dir.join(`${what}.raw`), "raw", out, "qcow2");
}

Deno.test("a Linux that has powered off under -no-shutdown is backed up, with nothing to freeze", async () => {
  await using dir = await tempDir();
  const { backup, agent, disk } = linux(dir);
  const qemuArgs = ["-no-shutdown"];
  await using guest = await startLinuxGuest({ dir: dir.path, disks: [disk], qemuArgs });
  await succeed([...backup, "full", ...agent, "--strict"]);
  await guest.writeFile("/mnt/disk0/news", "written before the power went off");
  const off = "umount /mnt/disk0; poweroff -f";
  await guest.exec(["sh", "-c", `(sleep 1; ${off}) >/dev/null 2>&1 </dev/null &`]);
  await until(async () => await stateOf(guest.vm) === "shutdown");
  // Its file systems are unmounted: that is more than frozen.
  await succeed([...backup, "inc", ...agent, "--strict"]);
  assertEquals(await stateOf(guest.vm), "shutdown");
  await assertRestored(dir, guest.vm, "off");
});

Deno.test("a Linux in S3 is backed up, and wakes up as ever", async () => {
  await using dir = await tempDir();
  const { backup, agent, disk } = linux(dir);
  await using guest = await startLinuxGuest({ dir: dir.path, disks: [disk] });
  await succeed([...backup, "full", ...agent, "--strict"]);
  await guest.writeFile("/mnt/disk0/news", "written before it fell asleep", { sync: true });
  const sleep = "(sleep 1; echo mem > /sys/power/state) >/dev/null 2>&1 </dev/null &";
  await guest.exec(["sh", "-c", sleep]);
  await until(async () => await stateOf(guest.vm) === "suspended");
  const start = performance.now();
  const refused = await tool([...backup, "inc", ...agent, "--agent-timeout", "120"]);
  assertEquals(refused.code, 1);
  assertMatch(
    refused.stderr,
    /in the state "suspended", in which its guest agent can't answer: wake it/,
  );
  assert(performance.now() - start < 60_000, "it waited for the agent");
  await succeed([...backup, "inc", "--pause", "--strict"]);
  assertEquals(await stateOf(guest.vm), "suspended");
  await assertRestored(dir, guest.vm, "asleep");
  await guest.vm.execute("system_wakeup");
  await until(async () => await stateOf(guest.vm) === "running");
  assertEquals(
    (await guest.exec(["cat", "/mnt/disk0/news"])).stdout,
    "written before it fell asleep",
  );
  await guest.writeFile("/mnt/disk0/more", "written after it woke up");
  await succeed([...backup, "inc", ...agent, "--strict"]);
  await guest.exec(["sync"]);
  await guest.vm.execute("stop");
  await succeed([...backup, "inc"]);
  await assertRestored(dir, guest.vm, "awake");
});

const SLOTS = 640;

interface Full extends AsyncDisposable {
  vm: Vm;
  disks: Tmpfs;
  /** The command line without the level. */
  backup: string[];
  assertRestores(): Promise<void>;
}

/** A VM that its own full file system has stopped. */
async function stoppedByError(): Promise<Full> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const folder = dir.join("disks");
  const disks = stack.use(await mountTmpfs(folder, 96 * MIB));
  const sizeBytes = Math.ceil(writerDiskBytes(SLOTS) / 65536) * 65536;
  const specs = ["a", "b"].map((id, bootIndex): DiskSpec => (
    { id, node: `node-${id}`, path: `${folder}/${id}`, format: "qcow2", sizeBytes, bootIndex }
  ));
  await using empty = await startVm({ dir: dir.path, disks: specs });
  await empty.quit();
  await installWriterGuest(`${folder}/a`, "qcow2", SLOTS);
  const vm = stack.use(await startVm({ dir: dir.path, disks: specs, name: "writer" }));
  const target = dir.join("target");
  await Deno.mkdir(dir.join("fleece"));
  await vm.execute("cont");
  await untilWritten(vm, "b", 20);
  await disks.fill();
  await until(async () => await stateOf(vm) === "io-error");
  const cleanup = stack.move();
  return {
    vm,
    disks,
    backup: [
      ...["backup", "--socket", vm.socket, "--target", target],
      ...["--fleece-dir", dir.join("fleece"), "--level"],
    ],
    async assertRestores() {
      const out = dir.join(`out-${crypto.randomUUID()}`);
      await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
      for (const { id, node } of specs) {
        await vm.snapshotContents(id, dir.join(`${id}.raw`));
        await compare(dir.join(`${id}.raw`), "raw", `${out}/${node}.qcow2`, "qcow2");
      }
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

Deno.test("a VM that its own full storage has stopped is backed up, and not resumed by us", async () => {
  await using full = await stoppedByError();
  const { vm, backup } = full;
  await succeed([...backup, "full"]);
  assertEquals(await stateOf(vm), "io-error");
  // Slow enough for the watch over the guest to look.
  await succeed([...backup, "full", "--speed-limit", String(4 * MIB)]);
  assertEquals(await stateOf(vm), "io-error");
  assertEquals(vm.events.filter(({ event }) => event === "RESUME").length, 1);
  await assertNothingLeft(vm, 1);
  // Its file system must have room for what QEMU has not written yet, to be compared.
  await full.disks.empty();
  await full.assertRestores();
  await vm.execute("cont");
  await untilWritten(vm, "b", 2 * SLOTS);
});

Deno.test("a VM that was stopped by an error before a killed run is not resumed by the next", async () => {
  await using full = await stoppedByError();
  const { vm, backup } = full;
  const child = startTool([...backup, "full", "--speed-limit", "1"]);
  await untilJobs(vm, 2);
  child.kill("SIGKILL");
  await ended(child);
  const { stderr } = await succeed([...backup, "full"]);
  assertMatch(stderr, /had the state io-error .* before a run that died began, and is left so/);
  assertEquals(await stateOf(vm), "io-error");
  await assertNothingLeft(vm, 1);
  await full.disks.empty();
  await full.assertRestores();
});

Deno.test("a VM that somebody resumes during a run counts as running from then on", async () => {
  await using full = await stoppedByError();
  const { vm, backup, disks } = full;
  const child = startTool([...backup, "full", "--speed-limit", "1"]);
  await untilJobs(vm, 2);
  await disks.empty();
  await vm.execute("cont");
  await until(async () => !(await objectsOf(vm)).includes("qmpbackup-io-error"));
  await disks.fill();
  // What stops it now may be ours, so that the run is given up, and the guest resumed.
  const { code, stderr } = await ended(child);
  assertEquals(code, 1);
  assertMatch(stderr, /The guest ran out of room for its own disks/);
  assertEquals(vm.events.filter(({ event }) => event === "RESUME").length >= 3, true);
  await assertNothingLeft(vm, 0);
});

async function objectsOf(vm: Vm): Promise<string[]> {
  const objects = await vm.execute("qom-list", { path: "/objects" }) as { name: string }[];
  return objects.map(({ name }) => name);
}
