import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import {
  assertNothingLeft,
  assertPlainConvert,
  filesOf,
  type Scene,
  scene,
  setSpeed,
  untilJobs,
  untilSwitched,
} from "../support/scene.ts";
import { compare, info } from "../support/qemu_img.ts";
import { succeed, tool } from "../support/tool.ts";
import { mustRun } from "../support/run.ts";

const MIB = 1 << 20;

interface Summary {
  id: string;
  state: string;
  hold: { kind: string; pausedMs: number };
  disks: { level: string; file: string; parent: string | null; bitmap: string; reason: string }[];
}

/** Takes a backup while a writer goes on writing to all disks from the point in time on. */
async function backupWhileWriting(s: Scene, level: string, moment: string): Promise<Summary> {
  await s.remember(moment);
  const run = succeed(s.backupArgs(level, "--json", "--speed-limit", String(MIB)));
  let isOver = false;
  run.finally(() => isOver = true).catch(() => {});
  await Promise.race([untilSwitched(s.vm), run]);
  let writes = 0;
  for (let i = 0; !isOver; i++) {
    // Slow enough for the writer to be at work for most of the copy.
    if (i % 16 === 3) await setSpeed(s.vm, 24 * MIB);
    const offset = (i * 7 % 60) * MIB + i % 16 * 4096;
    await s.vm.write(`vd${i % 2}`, 0x80 + i % 100, offset, 64 * 1024 + 4096);
    if (i % 5 === 0) await s.vm.zero(`vd${i % 2}`, (i * 11 % 60) * MIB, 128 * 1024);
    if (i % 7 === 0) await s.vm.discard(`vd${i % 2}`, (i * 13 % 60) * MIB, 256 * 1024);
    writes++;
  }
  const { stdout } = await run;
  if (writes < 3) throw new Error(`The writer was too slow to prove anything: ${writes} writes`);
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Summary;
}

Deno.test("backup holds both disks as they were at every point in time, of every level", async () => {
  await using s = await scene();
  const full = await backupWhileWriting(s, "full", "full");
  assertEquals(full.disks.map(({ level }) => level), ["full", "full"]);
  const inc1 = await backupWhileWriting(s, "inc", "inc1");
  const copy = await backupWhileWriting(s, "copy", "copy");
  const auto = await backupWhileWriting(s, "auto", "auto");
  assertEquals(auto.disks.map(({ level }) => level), ["inc", "inc"]);
  assertEquals(auto.disks.map(({ parent }) => parent), inc1.disks.map(({ file }) => file));
  const full2 = await backupWhileWriting(s, "full", "full2");
  const inc2 = await backupWhileWriting(s, "inc", "inc2");

  await assertNothingLeft(s.vm, 1);
  const points = { full, inc1, copy, auto, full2, inc2 };
  for (const [moment, { id }] of Object.entries(points)) await s.assertRestores(moment, id);
  await s.assertRestores("inc2");
});

Deno.test("backup writes images that any QEMU tool reads, wherever the folder is moved", async () => {
  await using s = await scene();
  const moments = ["full", "inc", "inc"];
  for (const [i, level] of moments.entries()) {
    await s.vm.write("vd0", 0x40 + i, i * MIB, MIB);
    await s.vm.zero("vd1", i * MIB, 300 * 1024);
    await s.remember(`m${i}`);
    await succeed(s.backupArgs(level));
  }
  const moved = s.dir.join("moved");
  await Deno.rename(s.target, moved);
  for (const disk of [0, 1]) {
    const images = (await filesOf(moved)).filter((file) => file.startsWith(`disk${disk}/`));
    assertEquals(images.length, 3);
    const times = images.toSorted((a, b) => Number(a.match(/\d{9,}/)) - Number(b.match(/\d{9,}/)));
    for (const [i, image] of times.entries()) {
      await assertPlainConvert(join(moved, image), s.dir.join(`m${i}.vd${disk}.raw`));
    }
    const { backing } = await info(join(moved, times[2] as string));
    assertEquals(backing, basename(times[1] as string));
  }
  const out = s.dir.join("by hand");
  await runByHand(moved, out);
  for (const disk of [0, 1]) {
    for (const name of [`disk${disk}.qcow2`, `disk${disk}.overlay.qcow2`]) {
      await compare(s.dir.join(`m2.vd${disk}.raw`), "raw", join(out, name), "qcow2");
    }
  }
});

/** Runs what `RESTORE.txt` says is to be done without qmpbackup, just as it is written. */
async function runByHand(target: string, out: string): Promise<void> {
  const text = await Deno.readTextFile(join(target, "RESTORE.txt"));
  const byHand = text.slice(text.indexOf("WITHOUT QMPBACKUP"));
  const commands = byHand.split("\n").filter((line) => line.startsWith("  "))
    .map((line) => line.replaceAll("/new/folder", `"$OUT"`));
  assertEquals(commands.length, 5);
  const script = `set -e; cd "$1"; OUT=$2; ${commands.join("; ")}`;
  await mustRun("sh", ["-c", script, "sh", target, out]);
}

Deno.test("backup names files, records and bitmaps as users of the reference know them", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full", "--uuid", "chain-1"));
  const files = await filesOf(s.target);
  assertEquals(files.map((file) => file.replace(/-\d{10}-/, "-TIME-")), [
    "disk0.qcow2.config",
    "disk0/FULL-TIME-disk0.qcow2",
    "disk1.qcow2.config",
    "disk1/FULL-TIME-disk1.qcow2",
    "uuid",
  ]);
  assertEquals(await Deno.readTextFile(join(s.target, "uuid")), "chain-1");
  const config = JSON.parse(await Deno.readTextFile(join(s.target, "disk0.qcow2.config")));
  assertEquals(config["virtual-size"], 64 * MIB);
  const { stdout } = await succeed(["info", "--socket", s.vm.socket, "--show", "bitmaps"]);
  assertStringIncludes(stdout, '"recording": true');
  assertMatch(stdout, /"name": "qmpbackup-disk0-[0-9a-f]{8}-chain-1"/);
});

Deno.test("backup never pauses a running guest, however many its disks are", async () => {
  await using s = await scene({ vm: { running: true } });
  const { hold } = JSON.parse((await succeed(s.backupArgs("full", "--json"))).stdout) as Summary;
  assertEquals(hold, { kind: "none", pausedMs: 0, frozenMs: null } as unknown);
  assertEquals(s.vm.events.filter(({ event }) => event === "STOP"), []);
  assertEquals((await s.vm.execute("query-status") as { status: string }).status, "running");
});

Deno.test("backup leaves a paused guest paused", async () => {
  await using s = await scene({ vm: { running: true } });
  await s.vm.execute("stop");
  await s.remember("paused");
  const summary = (await succeed(s.backupArgs("full", "--pause", "--json"))).stdout;
  assertEquals((JSON.parse(summary) as Summary).hold.kind, "already-stopped");
  assertEquals((await s.vm.execute("query-status") as { status: string }).status, "paused");
  await s.assertRestores("paused");
});

Deno.test("backup takes two runs in one second apart", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  for (const moment of ["a", "b", "c"]) {
    await s.vm.write("vd0", moment.charCodeAt(0), 0, 64 * 1024);
    await s.remember(moment);
    await succeed(s.backupArgs("inc"));
  }
  const images = (await filesOf(s.target)).filter((file) => file.startsWith("disk0/"));
  assertEquals(new Set(images.map((file) => file.match(/\d{9,}/)?.[0])).size, 4);
  await s.assertRestores("c");
});

for (const [flag, expected] of [["--compress", "zstd"], ["--compress=zlib", "zlib"]] as const) {
  Deno.test(`backup ${flag} compresses by ${expected}`, async () => {
    await using s = await scene();
    await s.remember("full");
    await succeed(s.backupArgs("full", flag));
    await s.assertRestores("full");
    const plain = (await Deno.stat(s.dir.join("disk0.qcow2"))).size;
    const [image] = (await filesOf(s.target)).filter((file) => file.startsWith("disk0/"));
    const path = join(s.target, image as string);
    const { size } = await Deno.stat(path);
    assertEquals(size < plain / 10, true, `${size} bytes, the disk ${plain}`);
    const { raw } = await info(path);
    assertStringIncludes(JSON.stringify(raw), `"compression-type":"${expected}"`);
    // An increment on it, and back.
    await s.vm.write("vd0", 0x77, 1 << 20, 1 << 20);
    await s.remember("inc");
    await succeed(s.backupArgs("inc", flag));
    await s.assertRestores("inc");
  });
}

Deno.test("backup refuses before it touches anything", async (t) => {
  await using s = await scene();
  const refused = async (code: number, words: string, ...args: string[]) => {
    const result = await tool(args);
    assertEquals(result.code, code, result.stderr);
    assertStringIncludes(result.stderr, words);
    await assertNothingLeft(s.vm, 0);
  };
  await t.step("an increment without a full backup", async () => {
    await refused(1, 'No increment can be taken of the disk "disk0"', ...s.backupArgs("inc"));
    await refused(1, "--level auto", ...s.backupArgs("inc"));
  });
  await t.step("a name that matches no disk", async () => {
    await refused(2, 'No disk is called "vdx"', ...s.backupArgs("full", "-i", "vdx"));
    await refused(2, '"disk0", "disk1"', ...s.backupArgs("full", "-e", "vdx"));
  });
  await t.step("no disk left", async () => {
    await refused(2, "No disk is left", ...s.backupArgs("full", "-e", "disk0,disk1"));
  });
  await t.step("leaves no folder behind", async () => {
    const names = await Array.fromAsync(Deno.readDir(s.dir.path), ({ name }) => name);
    assertEquals(names.includes("target"), false);
  });
});

Deno.test("backup reaches a VM over TCP", async () => {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  listener.close();
  const qmp = ["-qmp", `tcp:127.0.0.1:${port},server=on,wait=off`];
  await using s = await scene({ vm: { qemuArgs: qmp } });
  await s.remember("full");
  await succeed([
    ...["backup", "--socket", `tcp:127.0.0.1:${port}`, "--level", "full", "--target", s.target],
  ]);
  await s.assertRestores("full");
});

Deno.test("what the guest discards while a backup runs is discarded, and is in the backup still", async () => {
  await using s = await scene({ disks: 1 });
  await s.remember("full");
  const running = succeed(s.backupArgs("full", "--speed-limit", String(MIB)));
  await untilSwitched(s.vm);
  await untilJobs(s.vm, 1);
  await s.vm.discard("vd0", 6 * MIB, MIB);
  await setSpeed(s.vm);
  await running;
  await s.assertRestores("full");
  const [now, expected] = [s.dir.join("now.raw"), s.dir.join("full.vd0.raw")];
  await s.vm.snapshotContents("vd0", now);
  using file = await Deno.open(expected, { write: true });
  await file.seek(6 * MIB, Deno.SeekMode.Start);
  await file.write(new Uint8Array(MIB));
  await compare(now, "raw", expected, "raw");
});
