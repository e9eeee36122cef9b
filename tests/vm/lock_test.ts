import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fullThenChanges, leaveDeadRun, nextHoldsAll } from "../support/next_run.ts";
import { assertNothingLeft, filesOf, scene, untilSwitched } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const SLOW = ["--speed-limit", String(1 << 20)];

Deno.test("backup of a held socket says that another client holds it", async () => {
  await using s = await scene();
  const holder = startTool(s.backupArgs("full", ...SLOW));
  await untilSwitched(s.vm);
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "another client holds this socket");
  holder.kill("SIGTERM");
  assertEquals((await ended(holder)).code, 143);
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
  const runs = [s.vm.socket, s.secondSocket].map((socket, index) =>
    startTool([
      ...["backup", "--socket", socket, "--level", "copy", "--speed-limit", String(4 << 20)],
      ...["--target", s.dir.join(`t${index}`)],
    ])
  );
  const results = await Promise.all(runs.map(ended));
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
