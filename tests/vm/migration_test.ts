import {
  assertEquals,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { compare } from "../support/qemu_img.ts";
import { proxy } from "../support/proxy.ts";
import {
  assertNothingLeft,
  filesOf,
  leftInQemu,
  type Scene,
  scene,
  setSpeed,
  until,
  untilCopying,
  untilSwitched,
} from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { startVm, type Vm } from "../support/vm.ts";

const MIB = 1 << 20;
const SLOW = ["--speed-limit", String(MIB)];
const BLOCKER = /the (vdi|qcow) format used by node 'qmpbackup-[0-9a-f]{8}-0-running' does not/i;

/** The same VM on the same images, as it waits on another host for the guest. */
async function startDestination(s: Scene): Promise<Vm> {
  return await startVm({
    dir: s.dir.path,
    name: "destination",
    running: true,
    disks: ["0", "1"].map((i) => ({
      ...{ id: `vd${i}`, node: `disk${i}`, path: s.dir.join(`disk${i}.qcow2`) },
      ...{ format: "qcow2", create: false },
    })),
    qemuArgs: ["-incoming", `unix:${migrationSocket(s)}`],
  });
}

const migrationSocket = (s: Scene) => s.dir.join("migration");

async function migrate(s: Scene): Promise<void> {
  await s.vm.execute("migrate", { uri: `unix:${migrationSocket(s)}` });
}

async function isRunning(vm: Vm): Promise<boolean> {
  return (await vm.execute("query-status") as { running: boolean }).running;
}

async function migrationState(vm: Vm): Promise<string | undefined> {
  return (await vm.execute("query-migrate") as { status?: string }).status;
}

/** Waits until the guest runs there, and there only. */
async function assertMoves(s: Scene, destination: Vm) {
  await until(async () => await migrationState(s.vm) === "completed");
  await until(() => isRunning(destination));
  assertEquals(await isRunning(s.vm), false);
}

/** The images that a folder of backups holds, restored, are what `remember()` copied. */
async function assertRestoresFrom(s: Scene, target: string, moment: string) {
  const out = s.dir.join("restored");
  await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
  for (const i of [0, 1]) {
    await compare(s.dir.join(`${moment}.vd${i}.raw`), "raw", `${out}/disk${i}.qcow2`, "qcow2");
  }
}

Deno.test("a live migration is refused while a backup runs, and goes through after it", async () => {
  await using s = await scene({ vm: { running: true } });
  await using destination = await startDestination(s);
  await s.remember("full");
  const child = startTool(s.backupArgs("full", "--strict", ...SLOW));
  await untilSwitched(s.vm);
  await assertRejects(() => migrate(s), Error, "-running' does not support live migration");
  assertEquals(await isRunning(s.vm), true);
  assertEquals(await isRunning(destination), false);
  // The file went as soon as QEMU had it open.
  const fleeces = (await filesOf(s.dir.path)).filter((name) => name.endsWith(".fleece"));
  assertEquals(fleeces.length, 2);
  await untilCopying(s.vm);
  await setSpeed(s.vm);
  const { code, stderr } = await ended(child);
  assertEquals(code, 0, stderr);
  await assertNothingLeft(s.vm, 1);
  await s.assertRestores("full");
  await migrate(s);
  await assertMoves(s, destination);
});

Deno.test("a backup is refused while a live migration runs, and leaves that alone", async () => {
  await using s = await scene({ vm: { running: true } });
  await using destination = await startDestination(s);
  await s.remember("full");
  // Bytes per second, and milliseconds that the guest may stand still: it takes as long as it is let.
  const slow = { "max-bandwidth": 4096, "downtime-limit": 1 };
  await s.vm.execute("migrate-set-parameters", slow);
  await migrate(s);
  await until(async () => await migrationState(s.vm) === "active");
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(stderr, /Error: The VM is being migrated \(its migration has the state "active"\)/);
  assertStringIncludes(stderr, "try again when that is over");
  assertEquals(await leftInQemu(s.vm), []);
  await assertNothingLeft(s.vm, 0);
  assertEquals(await filesOf(s.target), []);
  assertEquals((await filesOf(s.dir.path)).filter((name) => name.endsWith(".fleece")), []);
  assertEquals(await migrationState(s.vm), "active");
  assertEquals(await isRunning(s.vm), true);

  const fast = { "max-bandwidth": 1 << 30, "downtime-limit": 2000 };
  await s.vm.execute("migrate-set-parameters", fast);
  await assertMoves(s, destination);
  const target = s.dir.join("later");
  const args = ["--socket", destination.socket, "--level", "auto", "--target", target];
  await succeed(["backup", ...args]);
  await assertNothingLeft(destination, 1);
  await assertRestoresFrom(s, target, "full");
});

Deno.test("a killed run keeps a migration away until it is cleaned up, and that is done last", async () => {
  await using s = await scene({ vm: { running: true } });
  await succeed(s.backupArgs("full"));
  const child = startTool(s.backupArgs("inc", "--speed-limit", "1024"));
  await untilSwitched(s.vm);
  child.kill("SIGKILL");
  await ended(child);
  const error = await assertRejects(() => migrate(s), Error);
  assertMatch(error.message, BLOCKER);
  const { stdout } = await succeed(["cleanup", "--socket", s.vm.socket, "--recover"]);
  const removed = [...stdout.matchAll(/Removing the node (\S+)/g)].map(([, name]) => name ?? "");
  assertMatch(removed.at(-1) ?? "", /-running$/);
  await assertNothingLeft(s.vm, 1);
  // It fails for want of a destination, in its own time: it was not refused.
  await migrate(s);
  await until(async () => await migrationState(s.vm) === "failed");
  await s.remember("now");
  await succeed(s.backupArgs("inc", "--strict"));
  await s.assertRestores("now");
});

Deno.test("a QEMU that can't open vdi images keeps a migration away with another format", async () => {
  await using s = await scene({ vm: { running: true } });
  // As a build without that format answers: QEMU knows no driver of this name.
  const rename = (text: string) => text.replace('"driver":"vdi"', '"driver":"vxi"');
  await using line = proxy(s.dir.join("proxy.qmp"), s.vm.socket, undefined, rename);
  const child = startTool([
    ...["backup", "--socket", line.path, "--level", "full", "--target", s.target, "--strict"],
    ...SLOW,
  ]);
  await s.remember("full");
  await untilSwitched(s.vm);
  const error = await assertRejects(() => migrate(s), Error);
  assertMatch(error.message, BLOCKER);
  assertStringIncludes(error.message, "qcow format");
  await untilCopying(s.vm);
  await setSpeed(s.vm);
  const { code, stderr } = await ended(child);
  assertEquals(code, 0, stderr);
  await s.assertRestores("full");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("where nothing can keep a migration away, a backup says so and goes on", async () => {
  // It refuses every node that can't migrate.
  await using s = await scene({ vm: { running: true, qemuArgs: ["-only-migratable"] } });
  await s.remember("full");
  const { code, stderr } = await tool(s.backupArgs("full", "--strict"));
  assertEquals(code, 3, stderr);
  assertMatch(stderr, /WARNING A live migration can't be blocked .*only-migratable/);
  await s.assertRestores("full");
  await assertNothingLeft(s.vm, 1);
  assertEquals((await filesOf(s.dir.path)).filter((name) => name.endsWith(".fleece")), []);
  assertNotMatch(stderr, /ERROR/);
});
