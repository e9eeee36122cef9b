import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { compare } from "../support/qemu_img.ts";
import { assertNothingLeft, filesOf, scene, untilSwitched } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

interface Summary {
  state: string;
  warnings: string[];
  hold: { kind: string; pausedMs: number; frozenMs: number | null };
}

Deno.test("--pause stops the guest for the point in time, even for a single disk", async () => {
  await using s = await scene({ disks: 1, vm: { running: true } });
  const { stdout } = await succeed(s.backupArgs("full", "--pause", "--json"));
  assertEquals((JSON.parse(stdout) as Summary).hold.kind, "stop");
  const events = s.vm.events.map(({ event }) => event);
  assertEquals(events.filter((event) => /STOP|RESUME/.test(event)), ["STOP", "RESUME"]);
});

Deno.test("--monthly keeps a chain a month", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("auto", "--monthly"));
  await succeed(s.backupArgs("auto", "--monthly"));
  const now = new Date();
  const month = `${now.getFullYear()}-${String(now.getMonth() + 1).padStart(2, "0")}`;
  const files = await filesOf(`${s.target}/${month}`);
  assertEquals(files.filter((file) => /\/(FULL|INC)/.test(file)).length, 2);
});

Deno.test("--monthly gives the last month's bitmaps up when the new month has begun, and no other's", async () => {
  await ensurePrograms({ faketime: "faketime" });
  await using s = await scene({ disks: 1, vm: { running: true } });
  await succeed(s.backupArgs("full").map((word) => word === s.target ? s.dir.join("own") : word));
  const monthly = s.backupArgs("auto", "--monthly");
  for (const [days, bitmaps] of [[0, 2], [40, 2], [0, 3]] as const) {
    await s.remember(`in-${days}`);
    const under = days > 0 ? ["faketime", "-f", `+${days}d`] : [];
    const { code, stderr } = await ended(startTool(monthly, { under }));
    assertEquals(code, 0, stderr);
    // No mount is missing where there are past months.
    assertEquals(/check that the file system is mounted/.test(stderr), days === 0 && bitmaps === 2);
    await s.vm.write("vd0", 0x60 + days, days * MIB, MIB);
    // That of the other target stays; a clock that was set back gives up none that is to come.
    await assertNothingLeft(s.vm, bitmaps);
  }
  const months = (await Array.fromAsync(Deno.readDir(s.target))).map(({ name }) => name).sort();
  for (const [index, month] of months.entries()) {
    const out = s.dir.join(`out-${month}`);
    await succeed(["restore", "merge", "--dir", join(s.target, month), "--target-dir", out]);
    await compare(s.dir.join(`in-${index * 40}.vd0.raw`), "raw", join(out, "disk0.qcow2"), "qcow2");
  }
  assertEquals(months.length, 2);
});

Deno.test("--blockdev-disable-cache, --blockdev-aio and --remove-delay change how, not what", async () => {
  await using s = await scene({ disks: 1 });
  const start = performance.now();
  await s.remember("full");
  await succeed(
    s.backupArgs(
      "full",
      "--blockdev-disable-cache",
      "--blockdev-aio",
      "threads",
      "--remove-delay",
      "1",
    ),
  );
  assert(performance.now() - start > 1000);
  await s.assertRestores("full");
  await s.vm.write("vd0", 0x44, MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc", "--blockdev-disable-cache"));
  await s.assertRestores("inc");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("--cbw-timeout is passed on where QEMU counts it right, else left out with a warning", async () => {
  await using s = await scene({ disks: 1 });
  assertEquals((await tool(s.backupArgs("full", "--cbw-timeout", "3", "--strict"))).code, 0);
  const { stdout, code } = await tool(
    s.backupArgs("full", "--cbw-timeout", "45", "--strict", "--json"),
  );
  const { warnings, state } = JSON.parse(stdout) as Summary;
  assertEquals(state, "done");
  // 3 under --strict where there was a warning, as with QEMU 7.2.
  assertEquals(code, warnings.length > 0 ? 3 : 0);
  assertEquals(warnings.every((warning) => warning.includes("--cbw-timeout")), true);
});

Deno.test("--quiesce of an agent that is not there is a warning, and 3 under --strict", async () => {
  await using s = await scene({ disks: 1 });
  const agent = ["--agent-socket", s.dir.join("no.agent")];
  const { stdout, stderr } = await succeed(s.backupArgs("full", "--quiesce", ...agent));
  assertMatch(stderr, /WARNING The guest's file systems are not frozen/);
  // It is said once.
  assert(!stdout.includes("not frozen"));
  assertEquals((await tool(s.backupArgs("inc", "--quiesce", "--strict", ...agent))).code, 3);
  const required = await tool(s.backupArgs("inc", "--quiesce=require", ...agent));
  assertEquals(required.code, 1);
  assertStringIncludes(required.stderr, "no.agent");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("--quiet says nothing where all is well, and only what is wrong where not", async () => {
  await using s = await scene({ disks: 1 });
  const log = ["--quiet", "--logfile", s.dir.join("log")];
  assertEquals(await succeed(s.backupArgs("full", ...log)), { code: 0, stdout: "", stderr: "" });
  const restore = ["restore", "merge", "--dir", s.target, "--target-dir", s.dir.join("out")];
  assertEquals(await succeed([...restore, "--quiet"]), { code: 0, stdout: "", stderr: "" });
  assertStringIncludes(await Deno.readTextFile(s.dir.join("log")), " INFO Disk disk0: full (");
  const agent = ["--quiesce", "--agent-socket", s.dir.join("no.agent")];
  const { stdout, stderr } = await succeed(s.backupArgs("inc", "--quiet", ...agent));
  assertEquals(stdout, "");
  assertMatch(stderr, /^\S+ \S+ \S+ WARNING The guest's file systems are not frozen[^\n]*\n$/);
});

Deno.test("--logfile makes its folder and starts with version and arguments", async () => {
  await using s = await scene({ disks: 1 });
  const path = s.dir.join("log/deep/backup.log");
  await succeed(["--logfile", path, ...s.backupArgs("full")]);
  await succeed(s.backupArgs("inc", "-L", path, "--debug"));
  const lines = (await Deno.readTextFile(path)).trim().split("\n");
  assertMatch(lines[0] as string, /INFO Version: \d+\.\d+\.\d+ Arguments: --logfile .* backup /);
  assert(lines.some((line) => /INFO Disk disk0: inc/.test(line)));
  assert(lines.some((line) => /DEBUG .*blockdev-add/.test(line)));
});

Deno.test("--progress-interval sets how often a line of progress is written", async () => {
  await using s = await scene({ disks: 1 });
  const args = s.backupArgs("full", "--speed-limit", String(4 * MIB), "--progress-interval", "1");
  const { stderr } = await succeed(args);
  assertMatch(stderr, /INFO disk0 +\d+%/);
});

Deno.test("--no-subdir puts the images of all disks into the target", async () => {
  await using s = await scene();
  await s.remember("full");
  await succeed(s.backupArgs("full", "--no-subdir"));
  await s.vm.write("vd1", 0x45, MIB, MIB);
  await s.remember("inc");
  const { stdout } = await succeed(s.backupArgs("inc", "--no-subdir", "--json"));
  assertEquals((await filesOf(s.target)).filter((file) => file.includes("/")), []);
  // The Python qmprestore takes every file beside an image for one.
  const beside = (await Array.fromAsync(Deno.readDir(s.target))).map(({ name }) => name);
  assertEquals(beside.includes("RESTORE.txt"), false);
  assertStringIncludes(
    await Deno.readTextFile(join(s.target, "_qmpbackup/RESTORE.txt")),
    "In the folder above this one",
  );
  await s.assertRestores("inc");
  await s.assertRestores(
    "full",
    (JSON.parse((await runsOf(s.target))[0] ?? "") as { id: string }).id,
  );
  // The disks share a folder: --filter tells them apart.
  const args = ["restore", "merge", "--dir", s.target, "--targetfile", s.dir.join("one")];
  const { code, stderr } = await tool(args);
  assertEquals(code, 2);
  assertMatch(stderr, /holds the disks "disk0", "disk1"/);
  await succeed([...args, "--filter", "disk1"]);
  await compare(s.dir.join("inc.vd1.raw"), "raw", s.dir.join("one"), "qcow2");
  assertStringIncludes(stdout, '"level":"inc"');
});

async function runsOf(target: string): Promise<string[]> {
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", target, "--json"]);
  return stdout.split("\n").filter((line) => line.includes('"message_type":"run"'));
}

Deno.test("--no-timestamp names full backups as the disk, with a link, and replaces the last", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full", "--no-timestamp"));
  await s.vm.write("vd0", 0x46, MIB, MIB);
  await s.remember("second");
  await succeed(s.backupArgs("full", "--no-timestamp"));
  assertEquals((await filesOf(s.target)).filter((file) => file.startsWith("disk0/")), [
    "disk0/FULL-disk0.qcow2",
    "disk0/disk0.qcow2",
  ]);
  assertEquals(await Deno.readLink(`${s.target}/disk0/FULL-disk0.qcow2`), "disk0.qcow2");
  await s.assertRestores("second");
  const attach = ["restore", "attach", "--dir", s.target];
  await succeed([...attach, "--target-dir", s.dir.join("try")]);
  const refused = await tool(s.backupArgs("full", "--no-timestamp"));
  assertEquals(refused.code, 1);
  assertMatch(refused.stderr, /disk0.qcow2" is attached as .*would be replaced: detach it first/);
  await s.assertRestores("second");
  await succeed([...attach, "--detach", "all"]);
  await s.vm.write("vd0", 0x47, 2 * MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc", "--no-timestamp"));
  await s.assertRestores("inc");
  const { code, stderr } = await tool(s.backupArgs("full", "--no-timestamp"));
  assertEquals(code, 1);
  assertMatch(stderr, /builds on "disk0\/disk0.qcow2", which would be replaced/);
  await s.assertRestores("inc");
});

Deno.test("--no-timestamp gives an auto's full backup a time where increments build on the last one", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("auto", "--no-timestamp"));
  await s.vm.write("vd0", 0x46, MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("auto", "--no-timestamp"));
  await s.restart();
  await s.vm.write("vd0", 0x47, 2 * MIB, MIB);
  await s.remember("anew");
  const { stderr } = await succeed(s.backupArgs("auto", "--no-timestamp"));
  assertMatch(stderr, /"disk0\/FULL-\d+-disk0.qcow2" has a time in its name/);
  await s.vm.write("vd0", 0x48, 3 * MIB, MIB);
  await s.remember("last");
  await succeed(s.backupArgs("inc", "--no-timestamp"));
  await s.assertRestores("last");
  const runs = (await runsOf(s.target)).map((line) => (JSON.parse(line) as { id: string }).id);
  await s.assertRestores("inc", runs[1]);
  await s.assertRestores("anew", runs[2]);
});

Deno.test("--no-timestamp replaces no file but a backup, and none that the VM runs on", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const file = `${s.target}/disk0/disk0.qcow2`;
  await Deno.writeTextFile(file, "somebody's own");
  const own = await tool(s.backupArgs("full", "--no-timestamp"));
  assertEquals(own.code, 1);
  assertMatch(
    own.stderr,
    /disk0.qcow2" is not a backup that is recorded here, and would be replaced/,
  );
  assertEquals(await Deno.readTextFile(file), "somebody's own");

  await Deno.remove(file);
  await succeed(s.backupArgs("full", "--no-timestamp"));
  // Started on a backup, by way of a link.
  const link = s.dir.join("link");
  await Deno.symlink(s.target, link);
  const disk = { id: "vd9", node: "disk9", path: `${link}/disk0/disk0.qcow2` } as const;
  await s.vm.addDisk({ ...disk, format: "qcow2", sizeBytes: 64 * MIB });
  const used = await tool(s.backupArgs("full", "--no-timestamp", "--exclude", "disk9"));
  assertEquals(used.code, 1);
  assertMatch(used.stderr, /disk0.qcow2" is not a backup that is recorded here, and would be/);
  assert((await filesOf(s.target)).includes("disk0/disk0.qcow2"));
});

Deno.test("--no-timestamp keeps the last backup when the new one fails", async () => {
  await using s = await scene({ disks: 1 });
  await s.remember("first");
  await succeed(s.backupArgs("full", "--no-timestamp", "--no-symlink"));
  await s.vm.write("vd0", 0x46, MIB, MIB);
  const stop = new AbortController();
  const run = tool(
    s.backupArgs("full", "--no-timestamp", "--speed-limit", "1"),
    stop.signal,
  );
  await untilSwitched(s.vm);
  stop.abort(new StoppedError("SIGINT"));
  assertEquals((await run).code, 130);
  assertEquals((await filesOf(s.target)).filter((file) => file.startsWith("disk0/")), [
    "disk0/disk0.qcow2",
  ]);
  await s.assertRestores("first");
});
