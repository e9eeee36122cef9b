import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { groupScene, NOGROUP } from "../support/group_scene.ts";
import { assertNothingLeft, filesOf, type Scene, scene, untilSwitched } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { asNobody } from "../support/vm.ts";

const MIB = 1 << 20;
const SLOW = ["--speed-limit", "1"];

/** The mode of everything in a folder, in octal, by its path there; links left out. */
async function modesIn(folder: string, path = ""): Promise<Record<string, string>> {
  const modes: Record<string, string> = {};
  for await (const { name, isSymlink, isDirectory } of Deno.readDir(join(folder, path))) {
    if (isSymlink) continue;
    const { mode } = await Deno.stat(join(folder, path, name));
    modes[join(path, name)] = ((mode ?? 0) & 0o7777).toString(8);
    if (isDirectory) Object.assign(modes, await modesIn(folder, join(path, name)));
  }
  return modes;
}

/** A backup that is done can't be written by anybody; a restored disk can. */
async function assertModes(folder: string, file: string, folderMode: string) {
  const readOnly = (parseInt(file, 8) & 0o444).toString(8);
  for (const [path, mode] of Object.entries(await modesIn(folder))) {
    const { isDirectory } = await Deno.stat(join(folder, path));
    const isBackup = /(^|\/)(FULL|INC)-[^/]*$/.test(path) && !/\.(partial|json)$/.test(path);
    assertEquals(mode, isDirectory ? folderMode : isBackup ? readOnly : file, path);
  }
}

/** The umask of this process, until disposed. */
function umask(mask: number): Disposable {
  const before = Deno.umask(mask);
  return { [Symbol.dispose]: () => void Deno.umask(before) };
}

async function fullAndInc(s: Scene, ...more: string[]) {
  await s.remember("full");
  await succeed(s.backupArgs("full", ...more));
  await s.vm.write("vd0", 0x61, 30 * MIB, MIB);
  await s.vm.write("vd1", 0x62, 10 * MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc", ...more));
  await s.assertRestores("inc");
}

/** Does what an error says, as it stands there; the folder that it calls DIR is this one. */
async function obey(stderr: string, dir = "") {
  const advice = /\((chgrp GROUP .*; chmod 2770 .*?)\), and use --mode/.exec(stderr)?.[1] ?? "";
  const commands = advice.replaceAll("GROUP", "nogroup").replaceAll(" DIR", ` "${dir}"`);
  const { success } = await new Deno.Command("sh", { args: ["-ec", commands] }).output();
  if (!success || advice === "") throw new Error(`No commands that work in: ${stderr}`);
}

for (const mask of [0o000, 0o077, 0o777]) {
  Deno.test(`files are made 0600 and folders 0700 at the umask ${mask.toString(8)}`, async () => {
    await using s = await scene();
    using _mask = umask(mask);
    await fullAndInc(s);
    const out = s.dir.join("above", "out");
    await succeed(["restore", "merge", "--dir", s.target, "--target-dir", out]);
    for (const folder of [s.target, out]) {
      assertEquals((await Deno.stat(folder)).mode! & 0o7777, 0o700);
      await assertModes(folder, "600", "700");
    }
    const files = Object.keys(await modesIn(s.target));
    // All that we make: of each disk a folder, two images and its facts; the id, the lock, the records,
    // RESTORE.txt; the digests of each image, in a folder for each disk.
    assertEquals(files.length, 2 * 4 + 1 + 3 + 2 + 1 + (1 + 2 * 3), files.join("\n"));
  });
}

Deno.test("--mode holds for all that a backup and a restore make, the fleece too", async () => {
  await using s = await scene();
  using _mask = umask(0o077);
  await fullAndInc(s, "--mode", "0640");
  // Of each disk so much that its fleece is still needed when it is looked at.
  for (const disk of ["vd0", "vd1"]) await s.vm.write(disk, 0x63, 0, 12 * MIB);
  const child = startTool(s.backupArgs("inc", "--mode", "640", ...SLOW));
  await untilSwitched(s.vm);
  const fleeces = Object.entries(await modesIn(s.dir.path)).filter(([path]) =>
    path.endsWith(".fleece")
  );
  assertEquals(fleeces.map(([, mode]) => mode), ["640", "640"]);
  child.kill("SIGTERM");
  assertEquals((await ended(child)).code, 143);
  await assertModes(s.target, "640", "750");
  const out = s.dir.join("out");
  const args = ["--dir", s.target, "--target-dir", out, "--mode", "0640"];
  await succeed(["restore", "merge", ...args, "--format", "raw"]);
  assertEquals(await modesIn(out), { "disk0.raw": "640", "disk1.raw": "640" });
  assertEquals((await Deno.stat(out)).mode! & 0o7777, 0o750);
});

Deno.test("what is there keeps its mode, and what a later run makes has the one it was told", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full", "--mode", "0660"));
  await succeed(s.backupArgs("inc"));
  const modes = await modesIn(s.target);
  const images = Object.entries(modes).filter(([path]) => /^disk0.*(FULL|INC)-/.test(path)).sort();
  assertEquals(images.map(([, mode]) => mode), ["440", "400"]);
  assertEquals([modes["uuid"], modes["disk0"], modes["disk0.qcow2.config"]], ["660", "770", "660"]);
});

Deno.test("a QEMU of another user backs up when what the errors say is done, and nothing else", async () => {
  await using s = await scene({ vm: { qemuArgs: await asNobody() } });
  // Up to here QEMU must be able to go, as to any file of its own.
  await Deno.chmod(s.dir.path, 0o711);
  using _mask = umask(0o077);
  const first = await tool(s.backupArgs("full"));
  assertEquals(first.code, 1);
  assertMatch(first.stderr, /QEMU can't open ".*\.partial": .*Permission denied/);
  assertStringIncludes(first.stderr, "let that user's group write there");
  await obey(first.stderr);
  const second = await tool(s.backupArgs("full", "--mode", "0660"));
  assertEquals(second.code, 1);
  assertMatch(second.stderr, /QEMU can't open ".*\.fleece": .*Permission denied/);
  assertStringIncludes(second.stderr, "with --fleece-dir DIR");
  assertStringIncludes(second.stderr, "and use --mode 0660");
  const fleeces = s.dir.join("fleeces");
  await Deno.mkdir(fleeces);
  await obey(second.stderr, fleeces);
  await assertNothingLeft(s.vm, 0);
  assertEquals(await filesOf(s.target), []);
  await fullAndInc(s, "--mode", "0660", "--fleece-dir", fleeces);
  for (const file of (await filesOf(s.target)).filter((file) => /(FULL|INC)-/.test(file))) {
    const { mode, gid } = await Deno.stat(join(s.target, file));
    assertEquals([(mode ?? 0) & 0o7777, gid], [0o440, NOGROUP], file);
  }
  await assertNothingLeft(s.vm, 1);
  assertEquals(await Array.fromAsync(Deno.readDir(fleeces)), []);
});

Deno.test("what an error says can be pasted into a shell, whatever the target is called", async () => {
  await using s = await scene({ disks: 1, vm: { qemuArgs: await asNobody() } });
  await Deno.chmod(s.dir.path, 0o711);
  const target = s.dir.join(`t '$(touch INJECTED)" \`touch INJECTED\``);
  const before = await Array.fromAsync(Deno.readDir("."), ({ name }) => name);
  const args = ["backup", "--socket", s.vm.socket, "--level", "full", "--target", target];
  await obey((await tool(args)).stderr);
  for (const folder of [target, join(target, "disk0")]) {
    assertEquals((await Deno.stat(folder)).gid, NOGROUP);
  }
  const fleeces = s.dir.join("fleeces");
  await Deno.mkdir(fleeces);
  await Deno.chmod(fleeces, 0o777);
  await succeed([...args, "--mode", "0666", "--fleece-dir", fleeces]);
  assertEquals(await Array.fromAsync(Deno.readDir("."), ({ name }) => name), before);
});

Deno.test("a target of QEMU's group stays the group's: all in it, from the first run on", async () => {
  await using s = await groupScene();
  using _mask = umask(0o077);
  await fullAndInc(s, "--mode", "0660", "--fleece-dir", s.dir.join("fleeces"));
  await assertModes(s.target, "660", "2770");
});
