/**
 * Somebody else puts a link in the place of each file that we make, at once: nothing outside of the folder is
 * ever written. The tool runs as root. QMPBACKUP_TEST_RACES says how often each race is run.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { compare } from "../support/qemu_img.ts";
import { type Scene, scene } from "../support/scene.ts";
import { NOBODY, RACES, startSwapper } from "../support/swapper.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { asNobody } from "../support/vm.ts";

const MIB = 1 << 20;

/** A folder of this mode, which other users can reach. */
async function folderOf(
  dir: { path: string; join(name: string): string },
  name: string,
  mode: number,
) {
  await Deno.chmod(dir.path, 0o711);
  const path = dir.join(name);
  await Deno.mkdir(path);
  await Deno.chmod(path, mode);
  return path;
}

async function smallScene(): Promise<Scene> {
  return await scene({ disks: 1, diskBytes: 8 * MIB * 4, diskFolder: "disks" });
}

Deno.test("nobody gets the log and the metrics written elsewhere", async () => {
  await using dir = await tempDir();
  const shared = await folderOf(dir, "shared", 0o777);
  await using swapper = await startSwapper(dir, "", shared);
  const args = ["backup", "--socket", dir.join("no.sock"), "--target", dir.join("target")];
  const files = ["--logfile", join(shared, "a.log"), "--metrics-file", join(shared, "a.prom")];
  for (let round = 0; round < RACES * 10; round++) {
    const { code } = await tool([...args, "--level", "full", ...files]);
    assert(code === 1 || code === 2, String(code));
    await swapper.assertUntouched();
    if (round % 3 === 0) await Deno.remove(join(shared, "a.log")).catch(() => {});
  }
  assert(swapper.swaps > 0);
});

Deno.test("nobody gets a fleece written elsewhere, beside a disk of QEMU's user", async () => {
  await using s = await scene({
    ...{ disks: 1, diskBytes: 32 * MIB, diskFolder: "disks" },
    vm: { qemuArgs: await asNobody() },
  });
  await Deno.chmod(s.dir.path, 0o711);
  const disks = s.dir.join("disks");
  await Deno.chown(disks, NOBODY, NOBODY);
  await Deno.mkdir(s.target);
  await Deno.chown(s.target, null, NOBODY);
  await Deno.chmod(s.target, 0o2770);
  await using swapper = await startSwapper(s.dir, "[.]fleece$", disks);
  for (let round = 0; round < RACES; round++) {
    await tool(s.backupArgs("copy", "--mode", "0666"));
    await swapper.assertUntouched();
  }
  assert(swapper.swaps > 0);
});

/** What makes something in a folder that it is told. */
const WRITERS: Record<string, (s: Scene, folder: string) => string[]> = {
  "a backup": (s, folder) => [
    ...["backup", "--socket", s.vm.socket, "--level", "full", "--target", folder],
    "--no-timestamp",
  ],
  "a fleece": (s, folder) => s.backupArgs("copy", "--fleece-dir", folder),
  "a restored file": (s, folder) => [
    ...["restore", "merge", "--dir", s.target, "--targetfile", join(folder, crypto.randomUUID())],
  ],
};
for (const [what, argsOf] of Object.entries(WRITERS)) {
  Deno.test(`nobody gets ${what} written elsewhere: a folder for all is refused, with the remedy`, async () => {
    await using s = await smallScene();
    await succeed(s.backupArgs("full"));
    const shared = await folderOf(s.dir, "shared", 0o777);
    await using swapper = await startSwapper(s.dir, "", shared);
    for (let round = 0; round < RACES; round++) {
      const { code, stderr } = await tool(argsOf(s, shared));
      await swapper.assertUntouched();
      assertEquals(code, 2, stderr);
      assertStringIncludes(stderr, `every user may write to "${shared}"`);
      assertEquals(await Array.fromAsync(Deno.readDir(shared)), []);
    }
    const command = /\((chmod go-w [^;]+);/.exec((await tool(argsOf(s, shared))).stderr)?.[1] ?? "";
    await new Deno.Command("sh", { args: ["-ec", command] }).output();
    await succeed(argsOf(s, shared));
    await swapper.assertUntouched();
  });

  Deno.test(`nobody gets ${what} written elsewhere, in a folder with the sticky bit`, async () => {
    await using s = await smallScene();
    await succeed(s.backupArgs("full"));
    await s.remember("full");
    const shared = await folderOf(s.dir, "shared", 0o1777);
    await using swapper = await startSwapper(s.dir, "", shared);
    for (let round = 0; round < RACES; round++) {
      const args = argsOf(s, shared);
      await succeed(args);
      await swapper.assertUntouched();
      if (what !== "a restored file") continue;
      await compare(s.dir.join("full.vd0.raw"), "raw", args.at(-1) ?? "", "qcow2");
    }
    assertEquals(swapper.swaps, 0);
  });
}

Deno.test("a folder of another user, or in one, is refused, for what it is used for", async () => {
  await using s = await smallScene();
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  const theirs = await folderOf(s.dir, "theirs", 0o755);
  const ours = join(theirs, "ours");
  await Deno.chown(theirs, NOBODY, NOBODY);
  for (const folder of [theirs, ours]) {
    if (folder === ours) await Deno.mkdir(ours);
    for (const writer of Object.values(WRITERS)) {
      const { code, stderr } = await tool(writer(s, folder));
      assertEquals(code, 2, stderr);
      assertMatch(stderr, /"\S+theirs" belongs to the user 65534, .*\(chown 0 \S+theirs\)\n/);
    }
  }
  // What is there already: the target, its records, and a disk's folder, which no record may know.
  for (const part of ["", "_qmpbackup", "_qmpbackup/runs", "disk0"]) {
    const path = join(s.target, part);
    await Deno.chown(path, NOBODY, null);
    for (
      const args of [
        s.backupArgs("inc"),
        ["restore", "rebase", "--dir", join(s.target, "disk0")],
        ["restore", "commit", "--dir", join(s.target, "disk0")],
        ["cleanup", "--recover", "--socket", s.vm.socket, "--target", s.target],
      ]
    ) {
      const { code, stderr } = await tool(args);
      assertEquals(code, 2, `${args}: ${stderr}`);
      assertStringIncludes(stderr, "belongs to the user 65534");
    }
    await s.assertRestores("inc");
    await Deno.chown(path, 0, null);
  }
  const other = s.dir.join("other");
  await Deno.mkdir(other);
  await Deno.mkdir(join(other, "disk0"));
  await Deno.chown(join(other, "disk0"), NOBODY, null);
  const { code, stderr } = await tool(s.backupArgs("full").with(-1, other));
  assertEquals(code, 2, stderr);
});

Deno.test("a lock with another name elsewhere is refused, and that file stays as it is", async () => {
  await using s = await smallScene();
  await succeed(s.backupArgs("full"));
  const victim = s.dir.join("victim");
  await Deno.writeTextFile(victim, "precious");
  const lock = join(s.target, "_qmpbackup/lock");
  await Deno.remove(lock);
  await Deno.link(victim, lock);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `"${lock}" has another name elsewhere (a hard link)`);
  assertEquals(await Deno.readTextFile(victim), "precious");
  await Deno.remove(lock);
  await succeed(s.backupArgs("inc"));
});
