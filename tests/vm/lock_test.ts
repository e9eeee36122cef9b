import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { fullThenChanges, leaveDeadRun, nextHoldsAll } from "../support/next_run.ts";
import {
  assertNothingLeft,
  filesOf,
  jobIds,
  recordsOf,
  scene,
  setSpeed,
  until,
  untilSwitched,
} from "../support/scene.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";

/** Of a thin disk only what it holds is copied: 9 MiB here. */
const SLOW = ["--speed-limit", String(1 << 18)];

/** Who a refused run names: the id that the holder's record bears. */
async function assertRefused(
  refused: ToolResult,
  words: string,
  holder: Deno.ChildProcess,
  target: string,
) {
  assertEquals(refused.code, 11, refused.stderr);
  const { groups } = /: run (?<run>\S+) \(pid (?<pid>\d+) on .+, since .+\)/.exec(refused.stderr) ??
    {};
  assertStringIncludes(refused.stderr, words);
  assertEquals(groups?.pid, String(holder.pid));
  assert(await isThere(join(target, `_qmpbackup/runs/${groups?.run}.json`)), refused.stderr);
}

async function isThere(path: string): Promise<boolean> {
  return await Deno.lstat(path).then(() => true, () => false);
}

Deno.test("a run that finds another one on the VM's only socket says so, and leaves nothing", async (t) => {
  await using s = await scene();
  const holder = startTool(s.backupArgs("full", ...SLOW));
  await untilSwitched(s.vm);
  const to = (target: string) => ["backup", "--socket", s.vm.socket, "-l", "auto", "-t", target];
  const recorded = await recordsOf(s.target);
  await t.step("the same target, at once", async () => {
    // It would wait 5 s for the socket, each time; a busy machine makes it wait now and then.
    let fastestMs = Infinity;
    for (let tries = 0; fastestMs > 4_000 && tries < 5; tries++) {
      const start = performance.now();
      const refused = await tool(to(s.target));
      fastestMs = Math.min(fastestMs, performance.now() - start);
      await assertRefused(refused, "at work on this target", holder, s.target);
    }
    assert(fastestMs < 4_000, "it waited for the socket");
    assertEquals(await recordsOf(s.target), recorded);
  });
  await t.step("a new target", async () => {
    const refused = await tool(to(s.dir.join("new/t2")));
    await assertRefused(
      refused,
      `Another run holds the QMP socket "${s.vm.socket}"`,
      holder,
      s.target,
    );
    assertEquals(await isThere(s.dir.join("new")), false);
  });
  await t.step("an empty target, by a link to the socket", async () => {
    await Deno.mkdir(s.dir.join("empty"));
    await Deno.symlink(s.vm.socket, s.dir.join("link.qmp"));
    const args = ["backup", "--socket", s.dir.join("link.qmp"), "-l", "auto"];
    const refused = await tool([...args, "-t", s.dir.join("empty")]);
    await assertRefused(refused, "Another run holds the QMP socket", holder, s.target);
    assertEquals(await Array.fromAsync(Deno.readDir(s.dir.join("empty"))), []);
  });
  for (const args of [["info", "--show", "blockdev"], ["cleanup", "--recover"]]) {
    await t.step(args.join(" "), async () => {
      const refused = await tool([...args, "--socket", s.vm.socket]);
      await assertRefused(refused, "Another run holds the QMP socket", holder, s.target);
    });
  }
  holder.kill("SIGTERM");
  assertEquals((await ended(holder)).code, 143);
  await t.step("and goes on when it has ended", async () => {
    await s.remember("full");
    await succeed(to(s.target));
    await s.assertRestores("full");
  });
});

Deno.test("a run that finds another client on the socket fails, with what to do", async () => {
  await using s = await scene({ disks: 1 });
  // What libvirt does: it holds its socket for as long as the VM lives.
  using other = await Deno.connect({ transport: "unix", path: s.vm.socket });
  await other.read(new Uint8Array(4096));
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `another client holds this socket`);
  assertStringIncludes(stderr, "give the VM a second QMP socket for its backups");
  assertStringIncludes(stderr, "-qmp unix:/run/vm1-backup.qmp,server=on,wait=off");
  assertEquals(await isThere(s.target), false);
});

/** What was promised of a socket goes with the process, whatever way that ends. */
Deno.test("a run that was killed holds no socket", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  for (const id of ["vd0", "vd1"]) await s.vm.write(id, 0x41, 0, 8 << 20);
  await leaveDeadRun(s);
  using other = await Deno.connect({ transport: "unix", path: s.vm.socket });
  await other.read(new Uint8Array(4096));
  const { code, stderr } = await tool(["info", "--show", "blockdev", "--socket", s.vm.socket]);
  assertEquals(code, 1, stderr);
  assertStringIncludes(stderr, "another client holds this socket");
});

Deno.test("a run that is refused by the VM's lock leaves nothing where it would have written", async () => {
  await using s = await scene();
  const holder = startTool(s.backupArgs("full", ...SLOW));
  await untilSwitched(s.vm);
  const args = ["backup", "--socket", s.secondSocket, "--level", "full", "--target"];
  for (const target of ["new/t2", "empty"]) {
    if (target === "empty") await Deno.mkdir(s.dir.join(target));
    const refused = await tool([...args, s.dir.join(target)]);
    await assertRefused(refused, "at work on this VM", holder, s.target);
  }
  assertEquals(await isThere(s.dir.join("new")), false);
  assertEquals(await Array.fromAsync(Deno.readDir(s.dir.join("empty"))), []);
  holder.kill("SIGTERM");
  await ended(holder);
});

Deno.test("backup is refused while another one is at work on the VM, by whatever socket", async (t) => {
  await using s = await scene();
  const holder = startTool(s.backupArgs("full", ...SLOW));
  await untilSwitched(s.vm);
  const refused = async (words: string, ...args: string[]) => {
    const { code, stderr } = await tool(args);
    assertEquals(code, 11, stderr);
    assertMatch(stderr, new RegExp(`${words}: run \\S+ \\(pid ${holder.pid} on .+, since .+\\)`));
  };
  const args = ["backup", "--socket", s.secondSocket, "--level", "full", "--target"];
  await t.step("another target", () => refused("at work on this VM", ...args, s.dir.join("t2")));
  await t.step("the same target", () => refused("at work on this target", ...args, s.target));
  await t.step(
    "cleanup",
    () => refused("at work on this VM", "cleanup", "--socket", s.secondSocket, "--remove-bitmap"),
  );
  holder.kill("SIGTERM");
  assertEquals((await ended(holder)).code, 143);
  await t.step("and goes on when it has ended", async () => {
    await s.remember("full");
    await succeed([...args, s.target]);
    await s.assertRestores("full");
  });
});

Deno.test("backup of another VM into a target is refused", async () => {
  await using a = await scene();
  await succeed(a.backupArgs("full"));
  await using b = await scene({ vm: { name: "othervm" } });
  const { code, stderr } = await tool([
    ...["backup", "--socket", b.vm.socket, "--level", "auto", "--target", a.target],
  ]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, 'holds backups of the VM "testvm", this is "othervm"');
});

Deno.test("a dead run's files are not removed by way of another VM, while its QEMU writes to them", async () => {
  await using a = await scene();
  await succeed(a.backupArgs("full"));
  for (const id of ["vd0", "vd1"]) await a.vm.write(id, 0x41, 0, 8 << 20);
  await leaveDeadRun(a);
  await using b = await scene({ vm: { name: "othervm" } });
  const before = await filesOf(a.target);
  assert(before.some((file) => file.endsWith(".partial")));
  const other = ["--socket", b.vm.socket, "--target", a.target];
  for (const args of [["backup", "--level", "auto"], ["cleanup", "--recover"]]) {
    const { code, stderr } = await tool([...args, ...other]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, 'this is "othervm"');
  }
  assertEquals(await filesOf(a.target), before);
  await a.remember("now");
  await succeed(a.backupArgs("auto"));
  await a.assertRestores("now");
});

Deno.test("of two runs that find one dead, just one takes its place", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenChanges(s);
  await leaveDeadRun(s);
  const dead = await jobIds(s.vm);
  const runs = [s.vm.socket, s.secondSocket].map((socket, index) =>
    ended(startTool([
      ...["backup", "--socket", socket, "--level", "copy", "--speed-limit", "1"],
      ...["--target", s.dir.join(`t${index}`)],
    ]))
  );
  // The other one is at work until this one has said so.
  await Promise.race(runs);
  await until(async () => !(await jobIds(s.vm)).some((id) => dead.includes(id)));
  let isOver = false;
  const ends = Promise.all(runs).finally(() => isOver = true);
  await until(async () => (await setSpeed(s.vm), isOver));
  const results = await ends;
  const said = results.map(({ stderr }) => stderr).join("");
  assertEquals(results.map(({ code }) => code).sort((a, b) => a - b), [0, 11], said);
  assertStringIncludes(said, "at work on this VM");
  await nextHoldsAll(s);
});

Deno.test("cleanup removes our bitmaps, of one chain or all, and says each", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full", "--uuid", "chain-a"));
  const args = ["cleanup", "--socket", s.vm.socket, "--remove-bitmap"];
  assertEquals((await succeed([...args, "--uuid", "other"])).stdout, "");
  await assertNothingLeft(s.vm, 1);
  const { stdout } = await succeed([...args.slice(0, 3), "--remove-bitmaps", "--uuid", "chain-a"]);
  assertEquals(
    stdout.match(/^Removing bitmap: qmpbackup-disk[01]-[0-9a-f]{8}-chain-a$/gm)?.length,
    2,
  );
  await assertNothingLeft(s.vm, 0);
});
