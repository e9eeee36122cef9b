import { assertEquals, assertMatch } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { compare } from "../support/qemu_img.ts";
import { assertNothingLeft, scene } from "../support/scene.ts";
import { runAsUnit, unitCommand } from "../support/unit_sandbox.ts";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

async function run(program: string, args: string[], env: Record<string, string>): Promise<string> {
  const command = new Deno.Command(program, {
    args,
    cwd: ROOT,
    env,
    clearEnv: true,
    stdin: "null",
  });
  const { code, stdout, stderr } = await command.output();
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  assertEquals(code, 0, decode(stderr));
  return decode(stdout);
}

async function compile(): Promise<string> {
  return await run(Deno.execPath(), ["run", "-A", ".ci/compile.ts"], Deno.env.toObject());
}

Deno.test("the compiled binary backs up, takes an increment and restores", async () => {
  assertMatch(await compile(), /[0-9a-f]{64}/);
  await using s = await scene();
  // As on a bare hypervisor: no home, nothing but a path to qemu-img.
  const binary = (...args: string[]) => run(`${ROOT}qmpbackup`, args, { PATH: "/usr/bin:/bin" });
  assertMatch(await binary("--version"), /^qmpbackup \d+\.\d+\.\d+\n$/);
  // Under the reference's other name it takes that program's command line.
  const qmprestore = s.dir.join("qmprestore");
  await Deno.symlink(`${ROOT}qmpbackup`, qmprestore);
  for (const level of ["full", "inc"]) {
    await s.vm.write("vd1", level.length, 1 << 20, 1 << 20);
    await s.remember(level);
    await binary(...s.backupArgs(level));
    const out = s.dir.join(`${level}.out`);
    await binary("restore", "merge", "--dir", s.target, "--target-dir", out);
    for (const i of [0, 1]) {
      const held = s.dir.join(`${level}.vd${i}.raw`);
      await compare(held, "raw", `${out}/disk${i}.qcow2`, "qcow2");
      const file = s.dir.join(`${level}.${i}.qcow2`);
      const args = ["--skip-check", "merge", "--dir", `${s.target}/disk${i}`, "--targetfile", file];
      await run(qmprestore, args, { PATH: "/usr/bin:/bin" });
      await compare(held, "raw", file, "qcow2");
    }
  }
});

Deno.test("the compiled binary runs as the unit does, hooks included", async () => {
  await compile();
  await using s = await scene({ vm: { running: true } });
  await Deno.mkdir(s.target, { mode: 0o700 });
  await Deno.chown(s.target, 65534, 65534);
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
    const { code, stderr } = await runAsUnit([`${ROOT}qmpbackup`, ...args], [s.dir.path], env);
    assertEquals(code, 0, stderr);
    await s.assertRestores(level);
    const states = ["before", "after"].map(async (name) =>
      JSON.parse(await Deno.readTextFile(`${s.dir.join(name)}.json`)).state
    );
    assertEquals(await Promise.all(states), ["running", "done"]);
    assertMatch(await Deno.readTextFile(s.dir.join("vm.prom")), /_exit_code\{vm=".*"\} 0\n/);
    await assertNothingLeft(s.vm, 1);
  }
});
