import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { groupScene, NOGROUP } from "../support/group_scene.ts";
import { assertNothingLeft, scene } from "../support/scene.ts";
import { runAsUnit, unitCommand, VERIFY_SERVICE } from "../support/unit_sandbox.ts";

const MIB = 1 << 20;
const ROOT = fromFileUrl(new URL("../../", import.meta.url));

/** The script instead of the binary, for which `binary_test.ts` does the same. */
function fromSource([, ...args]: string[]): string[] {
  return [Deno.execPath(), "run", "-A", "--cached-only", `${ROOT}main.ts`, ...args];
}

Deno.test("the unit's command line backs up where only its folders can be written", async () => {
  await using s = await scene({ diskFolder: "disks" });
  // Of another user, as disks may be: root without its capabilities could not write there.
  await Deno.chown(s.dir.join("disks"), 65534, 65534);
  await Deno.chmod(s.dir.join("disks"), 0o700);
  const environment = {
    QMPBACKUP_SOCKET: s.vm.socket,
    QMPBACKUP_TARGET: s.target,
    QMPBACKUP_OPTIONS: `--include disk0,disk1  --strict --metrics-file ${s.dir.join("vm.prom")}`,
  };
  const env = { PATH: "/usr/bin:/bin", HOME: Deno.env.get("HOME") ?? "/root" };
  for (const level of ["full", "inc"]) {
    await s.vm.write("vd1", level.length, 30 * MIB, MIB);
    await s.remember(level);
    const command = fromSource(unitCommand(environment));
    const { code, stdout, stderr } = await runAsUnit(command, [s.dir.path], env);
    assertEquals(code, 0, stderr);
    assertEquals(stderr.includes("is kept on the target meanwhile"), false, stderr);
    assertMatch(stdout, new RegExp(`disk0 +${level} +done`));
    await s.assertRestores(level);
    await assertNothingLeft(s.vm, 1);
  }
  const metrics = `${s.target}/verify.prom`;
  const options = {
    ...environment,
    QMPBACKUP_VERIFY_OPTIONS: `--subset 1/1 --metrics-file ${metrics}`,
  };
  const verify = fromSource(unitCommand(options, VERIFY_SERVICE));
  const good = await runAsUnit(verify, [s.target], env);
  assertEquals(good.code, 0, good.stderr);
  assertMatch(good.stdout, /: ok\. 4 restore points, 4 images, .* \(1\/1 of the contents\)/);
  // Both could be written: the result, and the metrics.
  assertEquals(good.stderr.includes("could not be"), false, good.stderr);
  assertStringIncludes(await Deno.readTextFile(metrics), "qmpbackup_verify_");
});

Deno.test("the unit's command line refuses a target of another user until what it says is done", async () => {
  await using s = await scene({ disks: 1 });
  await Deno.mkdir(s.target, { mode: 0o700 });
  await Deno.chown(s.target, NOGROUP, NOGROUP);
  const environment = { QMPBACKUP_SOCKET: s.vm.socket, QMPBACKUP_TARGET: s.target };
  const env = { PATH: "/usr/bin:/bin", HOME: Deno.env.get("HOME") ?? "/root" };
  const backUp = () => runAsUnit(fromSource(unitCommand(environment)), [s.dir.path], env);
  const { code, stderr } = await backUp();
  assertEquals(code, 2, stderr);
  assertStringIncludes(stderr, `"${s.target}" belongs to the user ${NOGROUP}`);
  const command = /\((chown 0 [^)]+)\)/.exec(stderr)?.[1] ?? "";
  assertEquals((await new Deno.Command("sh", { args: ["-c", command] }).output()).code, 0);
  await s.remember("full");
  const second = await backUp();
  assertEquals(second.code, 0, second.stderr);
  await s.assertRestores("full");
});

Deno.test("the unit's command line keeps a target of QEMU's group the group's", async () => {
  await using s = await groupScene();
  const environment = {
    QMPBACKUP_SOCKET: s.vm.socket,
    QMPBACKUP_TARGET: s.target,
    QMPBACKUP_OPTIONS: `--mode 0660 --fleece-dir ${s.dir.join("fleeces")}`,
  };
  const env = { PATH: "/usr/bin:/bin", HOME: Deno.env.get("HOME") ?? "/root" };
  for (const level of ["full", "inc"]) {
    await s.vm.write("vd1", level.length, 30 * MIB, MIB);
    await s.remember(level);
    const command = fromSource(unitCommand(environment));
    const { code, stderr } = await runAsUnit(command, [s.dir.path], env);
    assertEquals(code, 0, stderr);
    await s.assertRestores(level);
  }
  const { mode, gid } = await Deno.stat(`${s.target}/disk0`);
  assertEquals([(mode ?? 0) & 0o7777, gid], [0o2770, NOGROUP]);
});

Deno.test("the unit's command line fails with a sentence where the target can't be written", async () => {
  await using s = await scene({ disks: 1 });
  await Deno.mkdir(s.target);
  const environment = { QMPBACKUP_SOCKET: s.vm.socket, QMPBACKUP_TARGET: s.target };
  const env = { PATH: "/usr/bin:/bin", HOME: Deno.env.get("HOME") ?? "/root" };
  const { code, stderr } = await runAsUnit(fromSource(unitCommand(environment)), [], env);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "Read-only file system");
});

Deno.test("the guard does not heed the SIGTERM that systemd sends to all of a unit", async () => {
  await using s = await scene({ disks: 1 });
  const [program = "", ...args] = fromSource(["qmpbackup", "guard", "--run", "x"]);
  const guard = new Deno.Command(program, {
    args: [...args, "--socket", s.vm.socket],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const reader = guard.stdout.getReader();
  assertEquals(new TextDecoder().decode((await reader.read()).value), "ready\n");
  guard.kill("SIGTERM");
  const early = new Promise((resolve) => setTimeout(resolve, 500, "alive"));
  assertEquals(
    await Promise.race([early, guard.status.then(({ code }) => `ended ${code}`)]),
    "alive",
  );
  await guard.stdin.close();
  assertEquals((await guard.status).code, 0);
  await reader.cancel();
});
