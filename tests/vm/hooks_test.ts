import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { runHook } from "../../src/cli/hooks.ts";
import { StoppedError } from "../../src/errors.ts";
import { assertNothingLeft, type Scene, scene, until, untilSwitched } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";

const SLOW = ["--speed-limit", "1"];

interface Told {
  message_type: string;
  target: string;
  id: string;
  state: string;
  finished: string | null;
  disks: { name: string; result: string; file: string }[];
}

/** A program that does this in the scene's folder. */
async function program(s: Scene, name: string, script: string): Promise<string> {
  const path = s.dir.join(name);
  await Deno.writeTextFile(path, `#!/bin/sh\ncd ${s.dir.path}\n${script}\n`, { mode: 0o755 });
  return path;
}

async function told(s: Scene, name: string): Promise<Told> {
  return JSON.parse(await Deno.readTextFile(s.dir.join(name))) as Told;
}

async function isThere(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** Nothing was changed, and no backup taken. */
async function assertUntouched(s: Scene) {
  await assertNothingLeft(s.vm, 0);
  assertEquals(await isThere(s.target), false);
}

Deno.test("--before and --after get the run's record, and no shell reads their names", async () => {
  await using s = await scene();
  const before = await program(s, "$(touch gone) before", "cat >before.json; echo noise");
  const after = await program(s, "after", "cat >after.json");
  await s.remember("full");
  const args = s.backupArgs("full", "--before", before, "--after", after, "--json");
  const { stdout } = await succeed(args);
  const first = await told(s, "before.json"), last = await told(s, "after.json");
  assertEquals([first.state, first.finished], ["running", null]);
  assertEquals(first.disks.map(({ result }) => result), ["pending", "pending"]);
  assertEquals([first.message_type, first.target], ["run", s.target]);
  const { message_type, target, ...record } = last;
  assertEquals([message_type, target], ["run", s.target]);
  const { message_type: _, ...summary } = JSON.parse(stdout);
  assertEquals(record as unknown, summary);
  assertEquals(last.id, first.id);
  assertEquals(last.disks.map(({ result }) => result), ["done", "done"]);
  assert(await isThere(`${s.target}/${last.disks[0]?.file}`));
  await s.assertRestores("full");
});

Deno.test("--before runs while the VM is locked, --after when it is free again", async () => {
  await using s = await scene({ disks: 1 });
  // A second run of the same VM, from within.
  const other = [Deno.execPath(), "run", "-A", new URL("../../main.ts", import.meta.url).pathname];
  const line = [...other, "backup", "--socket", s.secondSocket, "-l", "copy", "-t"].join(" ");
  const before = await program(s, "before", `${line} other >before.log 2>&1; echo $? >before.code`);
  const after = await program(s, "after", `${line} other >after.log 2>&1; echo $? >after.code`);
  await succeed(s.backupArgs("full", "--before", before, "--after", after));
  const code = async (name: string) => (await Deno.readTextFile(s.dir.join(name))).trim();
  assertEquals(await code("before.code"), "11");
  assertEquals(await code("after.code"), "0", await code("after.log"));
});

Deno.test("--before that fails stops the run before anything is changed", async () => {
  await using s = await scene();
  const before = await program(s, "before", "exit 7");
  const after = await program(s, "after", "cat >after.json");
  const { code, stderr, stdout } = await tool(
    s.backupArgs("full", "--before", before, "--after", after),
  );
  assertEquals([code, stdout], [1, ""]);
  assertMatch(stderr, /Error: The program ".*\/before" \(--before\) ended with 7\n$/);
  assertEquals(await isThere(s.dir.join("after.json")), false);
  await assertUntouched(s);
});

Deno.test("--before and --after that are no programs are wrong usage, and no target is made", async () => {
  await using s = await scene({ disks: 1 });
  await Deno.writeTextFile(s.dir.join("text"), "no program");
  for (const flag of ["--before", "--after"]) {
    for (const path of [s.dir.join("none"), s.dir.join("text"), s.dir.path]) {
      const { code, stderr } = await tool(s.backupArgs("full", flag, path));
      assertEquals(code, 2);
      assertStringIncludes(stderr, `The program "${path}" (${flag})`);
    }
  }
  assertEquals((await tool(s.backupArgs("full", "--hook-timeout", "0"))).code, 2);
  assertEquals(await isThere(s.target), false);
});

/** Starts a process of its own that would outlive it. */
const LINGER = "trap '' TERM; sleep 90 & echo $! >pid; wait; sleep 90";

async function assertLingererGone(s: Scene) {
  const pid = (await Deno.readTextFile(s.dir.join("pid"))).trim();
  await until(async () => !await isThere(`/proc/${pid}`));
}

Deno.test("--hook-timeout ends a hook, and what it has started", async () => {
  await using s = await scene({ disks: 1 });
  const before = await program(s, "before", LINGER);
  const start = performance.now();
  const { code, stderr } = await tool(
    s.backupArgs("full", "--before", before, "--hook-timeout", "2"),
  );
  assertEquals(code, 1);
  assert(performance.now() - start < 60_000);
  assertMatch(stderr, /\(--before\) (did not end within 2 s|ended with 137)/);
  await assertLingererGone(s);
  await assertUntouched(s);
});

Deno.test("a signal ends --before, and nothing is changed", async () => {
  await using s = await scene({ disks: 1 });
  const before = await program(s, "before", "echo $$ >pid.new; mv pid.new pid; exec sleep 90");
  const stop = new AbortController();
  const run = tool(s.backupArgs("full", "--before", before), stop.signal);
  await until(() => isThere(s.dir.join("pid")));
  stop.abort(new StoppedError("SIGTERM"));
  const start = performance.now();
  const { code, stderr } = await run;
  assertEquals(code, 143, stderr);
  assert(performance.now() - start < 60_000);
  await assertLingererGone(s);
  await assertUntouched(s);
});

Deno.test("--after hears of a run that was stopped, and of one that failed", async () => {
  await using s = await scene();
  const after = await program(s, "after", "cat >after.json.new; mv after.json.new after.json");
  const stop = new AbortController();
  const stopped = tool(s.backupArgs("full", "--after", after, ...SLOW), stop.signal);
  await untilSwitched(s.vm);
  stop.abort(new StoppedError("SIGINT"));
  assertEquals((await stopped).code, 130);
  const first = await told(s, "after.json");
  assertEquals(first.state, "cancelled");
  assertEquals(first.disks.map(({ result }) => result), ["cancelled", "cancelled"]);

  const failing = tool(s.backupArgs("full", "--after", after, ...SLOW));
  await untilSwitched(s.vm);
  s.vm.kill("SIGKILL");
  assertEquals((await failing).code, 1);
  const second = await told(s, "after.json");
  assertEquals(second.state, "failed");
  assert(second.id !== first.id);
});

Deno.test("--after that fails is a warning, and 3 under --strict; the backup counts", async () => {
  await using s = await scene({ disks: 1 });
  const after = await program(s, "after", "exit 9");
  await s.remember("full");
  const { code, stderr } = await tool(s.backupArgs("full", "--after", after));
  assertEquals(code, 0);
  assertMatch(stderr, /WARNING The program ".*\/after" \(--after\) ended with 9/);
  await s.assertRestores("full");
  assertEquals((await tool(s.backupArgs("inc", "--after", after, "--strict"))).code, 3);
  await assertNothingLeft(s.vm, 1);
});

Deno.test({
  name: "a hook that leaves behind what holds its stdin, and reads nothing, is over when it ends",
  // The pipe is left as it is; the process ends all the same.
  sanitizeOps: false,
  sanitizeResources: false,
  fn: async () => {
    await using dir = await tempDir();
    const program = dir.join("hook");
    await Deno.writeTextFile(program, "#!/bin/sh\nexec 3<&0\nsleep 45 <&3 &\nexit 0\n", {
      mode: 0o755,
    });
    const start = performance.now();
    const record = aRun([aDiskRecord()], { warnings: ["x".repeat(1 << 20)] });
    const hook = { flag: "--after", program, timeoutSeconds: 60 };
    await runHook(hook, record, dir.path, new AbortController().signal);
    assert(performance.now() - start < 40_000);
  },
});

Deno.test("a logger that hangs holds no run for ever", async () => {
  await using s = await scene({ disks: 1 });
  await Deno.writeTextFile(s.dir.join("logger"), "#!/bin/sh\nexec sleep 90\n", { mode: 0o755 });
  const env = { PATH: `${s.dir.path}:${Deno.env.get("PATH")}` };
  const start = performance.now();
  const { code, stderr } = await ended(startTool(s.backupArgs("full", "--syslog"), { env }));
  assertEquals(code, 0, stderr);
  assert(performance.now() - start < 80_000);
});
