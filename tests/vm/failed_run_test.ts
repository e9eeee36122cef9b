import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { parseRecord } from "../../src/repo/record.ts";
import { fullThenChanges, runsOf } from "../support/next_run.ts";
import { recordsOf, scene, untilSwitched } from "../support/scene.ts";
import { mountTmpfs } from "../support/tmpfs.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

async function isThere(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

/** What `info --show backups` says of runs without disks: level, result and reason. */
async function failuresShown(target: string): Promise<string[][]> {
  const { stdout } = await succeed(["info", "--show", "backups", "--all", "--dir", target]);
  return stdout.split("\n").map((line) => line.split(/ {2,}/)).filter(([, disk]) => disk === "-")
    .map(([, , level = "", result = "", , , , , why = ""]) => [level, result, why]);
}

/** The record that a run of this target has added. */
async function newRecord(target: string, before: string[]) {
  const added = (await recordsOf(target)).filter((name) => !before.includes(name));
  assertEquals(added.length, 1, added.join(" "));
  const path = `${target}/_qmpbackup/runs/${added[0]}`;
  return parseRecord(path, await Deno.readTextFile(path));
}

Deno.test("a night on which the VM is off has a record with its reason, and the chain goes on", async () => {
  await using s = await scene();
  await fullThenChanges(s);
  const known = await recordsOf(s.target);
  await s.vm.execute("quit");
  await s.vm.exited;
  const start = Date.now();
  const { code, stderr } = await tool(s.backupArgs("auto"));
  assertEquals(code, 1);
  const record = await newRecord(s.target, known);
  assertEquals([record.state, record.disks, record.sequence], ["failed", [], 2]);
  assertStringIncludes(stderr, `Error: ${record.error}`);
  assertMatch(record.error ?? "", /QMP socket .+ does not exist|Nobody listens on the QMP socket/);
  assertEquals(record.vm.name, "testvm");
  assert(Date.parse(record.started) >= start - 1000 && record.finished !== null);
  assertEquals(await failuresShown(s.target), [["auto", "failed", record.error ?? ""]]);
  assertEquals((await tool(s.backupArgs("inc"))).code, 1);
  assertEquals((await failuresShown(s.target)).length, 2);

  await s.restart();
  await s.remember("next");
  await succeed(s.backupArgs("auto"));
  const runs = await runsOf(s);
  assertEquals(runs.map(({ state }) => state), ["done", "failed", "failed", "done"]);
  assertEquals(runs.at(-1)?.disks.map(({ level }) => level), ["inc", "inc"]);
  await s.assertRestores("next");
  await s.assertRestores("full", runs[0]?.id);
  // What cleans up after runs that died leaves these alone.
  await succeed(["cleanup", "--recover", "--socket", s.vm.socket, "--target", s.target]);
  assertEquals((await runsOf(s)).length, 4);
});

Deno.test("a night on which the target is too full has a record that says so", async () => {
  await using s = await scene();
  await using room = await mountTmpfs(s.target, 96 * MIB);
  await fullThenChanges(s);
  const known = await recordsOf(s.target);
  // Room for a record, and for no increment.
  await using held = await Deno.open(`${s.target}/.filler`, { create: true, write: true });
  for (const block = new Uint8Array(MIB).fill(1); room.freeBytes() > MIB;) await held.write(block);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1, stderr);
  const record = await newRecord(s.target, known);
  assertStringIncludes(record.error ?? "", "is too full for");
  assertEquals([record.state, record.vm.name], ["failed", "testvm"]);
  assert(record.qemu !== "");
  await Deno.remove(`${s.target}/.filler`);
  await held.truncate();
  await s.remember("next");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("next");
});

Deno.test("a run that is stopped before it has begun has a record that says by what", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const known = await recordsOf(s.target);
  const hook = s.dir.join("hook");
  await Deno.writeTextFile(hook, `#!/bin/sh\ntouch ${hook}.on\nexec sleep 60\n`, { mode: 0o755 });
  const run = startTool(s.backupArgs("inc", "--before", hook));
  while (!await isThere(`${hook}.on`)) await new Promise((resolve) => setTimeout(resolve, 20));
  run.kill("SIGTERM");
  assertEquals((await ended(run)).code, 143);
  const record = await newRecord(s.target, known);
  assertEquals([record.state, record.error], ["cancelled", "Stopped by SIGTERM"]);
});

Deno.test("a run that fails midway has the reason in its record, as each of its disks", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  for (const id of ["vd0", "vd1"]) await s.vm.write(id, 0x41, 0, 8 * MIB);
  const run = startTool(s.backupArgs("inc", "--speed-limit", "1"));
  await untilSwitched(s.vm);
  run.kill("SIGINT");
  assertEquals((await ended(run)).code, 130);
  const last = (await runsOf(s)).at(-1) as { state: string; error?: string } | undefined;
  assertEquals([last?.state, last?.error], ["cancelled", "Stopped by SIGINT"]);
});

Deno.test("a failed run leaves no target that was not there", async () => {
  await using s = await scene({ disks: 1 });
  const args = (socket: string) => [
    ...["backup", "--socket", socket, "--level", "auto", "--target", s.dir.join("a/b")],
  ];
  const hook = s.dir.join("hook");
  await Deno.writeTextFile(hook, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  assertEquals((await tool([...args(s.vm.socket), "--before", hook])).code, 1);
  assertEquals((await tool(args(s.dir.join("none.qmp")))).code, 1);
  assertEquals(await isThere(s.dir.join("a")), false);
});

Deno.test("wrong usage, and another VM's backups, leave no record", async () => {
  await using a = await scene({ disks: 1 });
  await succeed(a.backupArgs("full"));
  const known = await recordsOf(a.target);
  await using b = await scene({ disks: 1, vm: { name: "othervm" } });
  const other = ["backup", "--socket", b.vm.socket, "--level", "auto", "--target", a.target];
  assertEquals((await tool(other)).code, 2);
  assertEquals((await tool(a.backupArgs("auto", "--include", "none"))).code, 2);
  assertEquals(await recordsOf(a.target), known);
  // Nor anything else where nothing was.
  await Deno.mkdir(a.dir.join("empty"));
  const empty = ["backup", "--socket", a.vm.socket, "--level", "auto", "-t", a.dir.join("empty")];
  assertEquals((await tool([...empty, "--include", "none"])).code, 2);
  assertEquals(await Array.fromAsync(Deno.readDir(a.dir.join("empty"))), []);
});

Deno.test("a target that knows failed runs alone is still a new one", async (t) => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  // An empty mount point, as it may be.
  const target = s.dir.join("mount");
  await Deno.mkdir(target);
  const args = (socket: string) => ["backup", "--socket", socket, "-l", "auto", "-t", target];
  assertEquals((await tool(args(s.dir.join("none.qmp")))).code, 1);
  assertEquals((await recordsOf(target)).length, 1);
  await t.step("for a restore", async () => {
    const { code, stderr } = await tool(["restore", "merge", "--dir", target, "--targetfile", "x"]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "There are no backups in");
  });
  await t.step("for the check of a missing mount, and for the level", async () => {
    await s.remember("first");
    const { stdout, stderr } = await succeed(args(s.secondSocket));
    assertMatch(stderr, /WARNING The target ".*\/mount" is new, but there are backups/);
    assertEquals(stdout.match(/ full +done /g)?.length, 2);
    const out = s.dir.join("restored");
    await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
    assertEquals((await Array.fromAsync(Deno.readDir(out))).length, 2);
  });
});
