import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  bareRoot,
  BINARY,
  binary,
  compileBinary,
  fromSource,
  type Program,
} from "../support/program.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { compare } from "../support/qemu_img.ts";
import { assertNothingLeft, type Scene, scene } from "../support/scene.ts";
import { succeed, type ToolResult } from "../support/tool.ts";
import { runAsUnit, unitCommand } from "../support/unit_sandbox.ts";

/** "nobody", who owns nothing here. */
const NOBODY = 65534;

function start(program: Program, args: string[], env: Record<string, string>) {
  const [first, ...rest] = program.argv(args);
  return new Deno.Command(first, {
    args: rest,
    // As on a bare hypervisor: no home, nothing but a path to qemu-img.
    env: { PATH: "/usr/bin:/bin", ...env },
    clearEnv: true,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

async function ended(child: Deno.ChildProcess): Promise<ToolResult> {
  const { code, stdout, stderr } = await child.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

async function run(program: Program, args: string[], env = {}): Promise<string> {
  const { code, stdout, stderr } = await ended(start(program, args, env));
  assertEquals(code, 0, stderr);
  return stdout;
}

/**
 * A full backup and an increment into `target`, each restored and compared. With `--pause` there is a
 * guard, which is the program itself: were it not to start, `--strict` would end with 3.
 */
async function backsUpAndRestores(s: Scene, program: Program, target: string, env = {}) {
  // Where the disks have the bitmaps of another target, a new one is a warning.
  await succeed(["cleanup", "--socket", s.vm.socket, "--remove-bitmap"]);
  for (const [index, level] of ["full", "inc"].entries()) {
    await s.vm.write("vd1", 0x30 + index, 1 << 20, 1 << 20);
    await s.remember(level);
    const vm = ["--socket", s.vm.socket, "--level", level, "--target", target];
    await run(program, ["backup", ...vm, "--pause", "--strict"], env);
    const out = `${target}.${level}`;
    await run(program, ["restore", "merge", "--dir", target, "--target-dir", out], env);
    for (const i of [0, 1]) {
      await compare(s.dir.join(`${level}.vd${i}.raw`), "raw", `${out}/disk${i}.qcow2`, "qcow2");
    }
  }
}

Deno.test("the compiled binary backs up, takes an increment and restores", async () => {
  await compileBinary();
  await using s = await scene();
  assertMatch(await run(binary, ["--version"]), /^qmpbackup \d+\.\d+\.\d+\n$/);
  await backsUpAndRestores(s, binary, s.target);
  // Under the reference's other name it takes that program's command line.
  const qmprestore = s.dir.join("qmprestore");
  await Deno.symlink(BINARY, qmprestore);
  const file = s.dir.join("merged.qcow2");
  const args = ["--skip-check", "merge", "--dir", `${s.target}/disk1`, "--targetfile", file];
  await run({ name: "qmprestore", argv: (args) => [qmprestore, ...args] }, args);
  await compare(s.dir.join("inc.vd1.raw"), "raw", file, "qcow2");
});

Deno.test("the compiled binary runs as the unit does, hooks included", async () => {
  await compileBinary();
  await using s = await scene({ vm: { running: true }, diskFolder: "disks" });
  // Of another user, as disks may be: root without its capabilities could not write there.
  await Deno.chown(s.dir.join("disks"), NOBODY, NOBODY);
  await Deno.chmod(s.dir.join("disks"), 0o700);
  for (const name of ["before", "after"]) {
    const script = `#!/bin/sh\ncat >${s.dir.join(name)}.json\n`;
    await Deno.writeTextFile(s.dir.join(name), script, { mode: 0o755 });
  }
  const options = [
    // A guest that is stopped has a guard, which is a process of its own.
    ...["--strict", "--pause", "--before", s.dir.join("before"), "--after", s.dir.join("after")],
    ...["--metrics-file", s.dir.join("vm.prom")],
  ];
  const [, ...args] = unitCommand({
    QMPBACKUP_SOCKET: s.vm.socket,
    QMPBACKUP_TARGET: s.target,
    QMPBACKUP_OPTIONS: options.join(" "),
  });
  for (const level of ["full", "inc"]) {
    await s.vm.write("vd0", level.length, 30 << 20, 1 << 20);
    await s.remember(level);
    const env = { PATH: "/usr/bin:/bin" };
    const { code, stderr } = await runAsUnit([BINARY, ...args], [s.dir.path], env);
    assertEquals(code, 0, stderr);
    assertEquals(stderr.includes("is kept on the target meanwhile"), false, stderr);
    await s.assertRestores(level);
    const states = ["before", "after"].map(async (name) =>
      JSON.parse(await Deno.readTextFile(`${s.dir.join(name)}.json`)).state
    );
    assertEquals(await Promise.all(states), ["running", "done"]);
    assertMatch(await Deno.readTextFile(s.dir.join("vm.prom")), /_exit_code\{vm=".*"\} 0\n/);
    await assertNothingLeft(s.vm, 1);
  }
});

Deno.test("tool and guard start whatever libraries the caller names", async (t) => {
  await compileBinary();
  await using s = await scene();
  await Deno.mkdir(s.dir.join("lib"));
  await Deno.writeTextFile(s.dir.join("lib/libglib-2.0.so.0"), "no library");
  const env = { LD_LIBRARY_PATH: s.dir.join("lib") };
  const home = { HOME: Deno.env.get("HOME") ?? "/", DENO_DIR: Deno.env.get("DENO_DIR") ?? "" };
  await t.step("binary", () => backsUpAndRestores(s, binary, s.dir.join("binary"), env));
  await t.step(
    "main",
    () => backsUpAndRestores(s, fromSource, s.dir.join("main"), { ...env, ...home }),
  );
});

for (const [who, id] of [["root", 0], ["an ordinary user", NOBODY]] as const) {
  Deno.test({
    name: `the compiled binary works in a bare, read-only root, for ${who}`,
    // Only root may change the root.
    ignore: Deno.uid() !== 0,
    async fn(t) {
      await compileBinary();
      await using s = await scene({ vm: { running: true } });
      await using root = await bareRoot({
        programs: ["/usr/bin/qemu-img"],
        // The VM outside and the tool inside see the same paths.
        shared: [s.dir.path],
        userspec: `${id}:${id}`,
      });
      let onStop = () => {};
      await using line = countingProxy(s.dir.join("line.qmp"), s.vm.socket, (message) => {
        if (message.includes('"execute":"stop"')) onStop();
        return Promise.resolve();
      });
      for await (const { name } of Deno.readDir(s.dir.path)) {
        await Deno.chown(s.dir.join(name), id, id);
      }
      await Deno.chown(s.dir.path, id, id);

      await t.step("backs up and restores", () => backsUpAndRestores(s, root, s.target));
      await t.step("its guard lets the guest go on", async () => {
        const args = ["backup", "--socket", line.path, "--level", "inc", "--target", s.target];
        const child = start(root, [...args, "--pause"], {});
        onStop = () => child.kill("SIGKILL");
        const { stderr } = await ended(child);
        assertStringIncludes(stderr, "by a run that died: resuming it");
        assertEquals(
          await s.vm.execute("query-status").then((status) => {
            return (status as { running: boolean }).running;
          }),
          true,
        );
      });
      await t.step("may write to the sockets and its own folder alone", async () => {
        await Deno.mkdir(s.dir.join("own"));
        await Deno.chown(s.dir.join("own"), id, id);
        await Deno.chown(s.dir.path, 0, 0);
        await Deno.chmod(s.dir.path, 0o755);
        await backsUpAndRestores(s, root, s.dir.join("own/target"));
      });
      await t.step("says that qemu-img is missing", async () => {
        const args = ["backup", "--socket", s.vm.socket, "-l", "full", "-t", s.dir.join("none")];
        const { code, stderr } = await ended(start(root, args, { PATH: "/nowhere" }));
        assertEquals([code, stderr.startsWith("Error: qemu-img is not installed")], [1, true]);
      });
    },
  });
}
