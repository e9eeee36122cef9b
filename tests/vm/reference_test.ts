/**
 * Chains that the reference began, in both of its layouts. Its programs are not on these machines: what
 * they do is done here with the QMP commands and `qemu-img` calls that they use.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, dirname, join } from "@std/path";
import { compare, create, qemuImg, qemuIo } from "../support/qemu_img.ts";
import { exists } from "../../src/fs/durable.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { filesOf, queryBlock, type Scene, scene, until, untilJobs } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;
const UUID = "0b5e6d3a-1111-4222-8333-444455556666";

const LAYOUTS = {
  "0.47": { folder: "disk0", bitmap: `qmpbackup-disk0-${UUID}` },
  "0.67": { folder: "disk0.qcow2", bitmap: `qmpbackup-${UUID}` },
  "0.67 with --no-subdir": { folder: ".", bitmap: `qmpbackup-${UUID}` },
} as const;
type Layout = typeof LAYOUTS[keyof typeof LAYOUTS];

/** A backup as the reference takes it: directly, clearing its one bitmap, without a link. */
async function referenceBackup(s: Scene, { folder, bitmap }: Layout, image: string) {
  const path = join(s.target, folder, image);
  await Deno.mkdir(join(s.target, folder), { recursive: true });
  await create(path, 64 * MIB);
  const node = { driver: "qcow2", "node-name": "ref", file: { driver: "file", filename: path } };
  await s.vm.execute("blockdev-add", node);
  const isFull = image.startsWith("FULL");
  const data = { "job-id": "ref", device: "disk0", target: "ref" };
  await s.vm.execute("transaction", {
    actions: isFull
      ? [
        { type: "block-dirty-bitmap-add", data: { node: "disk0", name: bitmap, persistent: true } },
        { type: "blockdev-backup", data: { ...data, sync: "full" } },
      ]
      : [{ type: "blockdev-backup", data: { ...data, sync: "incremental", bitmap } }],
  });
  await untilJobs(s.vm, 0);
  await s.vm.execute("blockdev-del", { "node-name": "ref" });
}

/** A full backup and an increment of the reference's, and changes after them. */
async function referenceChain(layout: Layout): Promise<Scene> {
  const s = await scene({ disks: 1 });
  await Deno.mkdir(s.target);
  await Deno.writeTextFile(join(s.target, "uuid"), UUID);
  await Deno.writeTextFile(join(s.target, "disk0.qcow2.config"), "{}");
  await s.remember("full");
  await referenceBackup(s, layout, "FULL-1700000000-disk0.qcow2");
  await s.vm.write("vd0", 0x31, MIB, MIB);
  await s.remember("inc1");
  await referenceBackup(s, layout, "INC-1700000100-disk0.qcow2");
  await s.vm.write("vd0", 0x32, 2 * MIB, MIB);
  return s;
}

async function restored(s: Scene, moment: string, ...more: string[]) {
  const out = s.dir.join(crypto.randomUUID());
  const [full] = (await filesOf(s.target)).filter((file) => basename(file).startsWith("FULL-"));
  const dir = join(s.target, dirname(full as string));
  await succeed(["restore", "merge", "--dir", dir, "--targetfile", out, ...more]);
  await compare(s.dir.join(`${moment}.vd0.raw`), "raw", out, "qcow2");
}

/** What the reference's `qmprestore merge` does: all files by their time, each linked to the one before. */
async function referenceRestore(s: Scene, folder: string, moment: string) {
  const dir = s.dir.join(crypto.randomUUID());
  await Deno.mkdir(dir);
  const images: { path: string; mtime: number }[] = [];
  for await (const { name, isFile } of Deno.readDir(join(s.target, folder))) {
    if (!isFile || name === "uuid" || name.endsWith(".config")) continue;
    const { mtime } = await Deno.stat(join(s.target, folder, name));
    await Deno.copyFile(join(s.target, folder, name), join(dir, name));
    images.push({ path: join(dir, name), mtime: mtime?.getTime() ?? 0 });
  }
  images.sort((a, b) => a.mtime - b.mtime);
  for (const [i, { path }] of images.entries()) {
    const parent = images[i - 1]?.path;
    if (parent) {
      await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", parent, path]);
    }
  }
  const newest = images.at(-1)?.path as string;
  await compare(s.dir.join(`${moment}.vd0.raw`), "raw", newest, "qcow2");
}

for (const [version, layout] of Object.entries(LAYOUTS)) {
  Deno.test(`a chain begun by ${version} goes on in its own folder`, async () => {
    await using s = await referenceChain(layout);
    // A night on which the VM is off leaves a record, which says nothing of these images.
    const off = s.backupArgs("auto").with(2, s.dir.join("none.qmp"));
    assertEquals((await tool(off)).code, 1);
    await restored(s, "inc1");
    await s.remember("inc2");
    const { stdout } = await succeed(s.backupArgs("inc", "--json"));
    const [disk] = (JSON.parse(stdout) as { disks: { folder: string; parent: string }[] }).disks;
    assertEquals(disk?.folder, layout.folder);
    assertEquals(disk?.parent, join(layout.folder, "INC-1700000100-disk0.qcow2"));
    await s.vm.write("vd0", 0x33, 3 * MIB, MIB);
    await s.remember("inc3");
    await succeed(s.backupArgs("auto"));

    await restored(s, "inc3");
    await restored(s, "inc1", "--until", "INC-1700000100-disk0.qcow2");
    await restored(s, "full", "--until", "FULL-1700000000-disk0.qcow2");
    await referenceRestore(s, layout.folder, "inc3");
    // The reference looks for a bitmap that ends in the chain's id: just one does, beside its sentinel.
    const [block] = await queryBlock(s.vm);
    const names = block?.inserted?.["dirty-bitmaps"]?.map(({ name }) => name) ?? [];
    assertEquals(names.map((name) => name.endsWith(UUID)).sort(), [false, true]);
    assertEquals(await Deno.readTextFile(join(s.target, "uuid")), UUID);
  });

  Deno.test(`a chain of ${version} is restored in place, and goes on`, async () => {
    await using s = await referenceChain(layout);
    await succeed(["restore", "commit", "--dir", join(s.target, layout.folder)]);
    const images = (await filesOf(s.target)).filter((file) => /(FULL|INC)-/.test(file));
    assertEquals(images.map((file) => basename(file)), ["FULL-1700000000-disk0.qcow2"]);
    await restored(s, "inc1");
    await s.remember("inc2");
    await succeed(s.backupArgs("inc"));
    await restored(s, "inc2");
  });
}

Deno.test("images of a chain that was taken over are known from then on, and left as they are", async () => {
  await using s = await referenceChain(LAYOUTS["0.47"]);
  const full = join(s.target, "disk0", "FULL-1700000000-disk0.qcow2");
  const before = await Deno.readFile(full);
  await succeed(s.backupArgs("inc"));
  assertEquals(await Deno.readFile(full), before);
  await qemuIo(full, "qcow2", "write -P 0x77 40M 64k");
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `"disk0/FULL-1700000000-disk0.qcow2" was changed`);
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("auto");
});

Deno.test("a run that dies while it takes a chain over leaves it as it was for restore, and for the next", async () => {
  await using s = await referenceChain(LAYOUTS["0.47"]);
  await ensurePrograms({ strace: "strace" });
  const renames = "?rename,?renameat,?renameat2";
  const slow = ["-e", `trace=${renames}`, "-e", `inject=${renames}:delay_enter=1000000`];
  const child = startTool(s.backupArgs("inc"), {
    under: ["strace", "-f", "-qq", "-o", "/dev/null", ...slow],
  });
  const runs = join(s.target, "_qmpbackup/runs");
  const adopted = async () => {
    const names = await exists(deadline, runs) ? (await Array.fromAsync(Deno.readDir(runs))) : [];
    return names.filter(({ name }) => /^adopted-.*\.json$/.test(name)).length;
  };
  await until(async () => await adopted() === 1);
  const tracee = await Deno.readTextFile(`/proc/${child.pid}/task/${child.pid}/children`);
  Deno.kill(Number(tracee), "SIGKILL");
  await ended(child);
  assertEquals(await adopted(), 1);

  // What the record of one image says does not hide the others.
  await restored(s, "inc1");
  await s.remember("inc2");
  const { stderr } = await succeed(s.backupArgs("inc"));
  assertMatch(stderr, /Removing the record adopted-/);
  assertEquals(await adopted(), 2);
  await restored(s, "inc2");
  await restored(s, "inc1", "--until", "INC-1700000100-disk0.qcow2");
  await restored(s, "full", "--until", "FULL-1700000000-disk0.qcow2");
});

Deno.test("a chain that may be of either of two disks is taken over for none", async () => {
  await using s = await referenceChain(LAYOUTS["0.67"]);
  const path = s.dir.join("other/disk0.qcow2");
  await Deno.mkdir(dirname(path));
  await s.vm.addDisk({ id: "vd1", node: "disk1", path, format: "qcow2", sizeBytes: 64 * MIB });
  await s.vm.write("vd1", 0x41, 0, MIB);
  await s.remember("auto");
  await s.vm.snapshotContents("vd1", s.dir.join("auto.vd1.raw"));
  const { stdout, stderr } = await succeed(s.backupArgs("auto"));
  assertMatch(stderr, /The chain in disk0.qcow2 can't go on: it may belong to disk0 or disk1/);
  assertMatch(stdout, /disk0 +full +done[^]*disk1 +full +done/);
  const out = s.dir.join("out");
  await succeed(["restore", "merge", "--dir", s.target, "--target-dir", out]);
  for (const n of [0, 1]) {
    await compare(s.dir.join(`auto.vd${n}.raw`), "raw", join(out, `disk${n}.qcow2`), "qcow2");
  }
});

Deno.test("nothing is compared with a chain of the reference before it is linked", async () => {
  const layout = LAYOUTS["0.47"];
  await using s = await referenceChain(layout);
  // Our own increment is linked to one that is not.
  await succeed(s.backupArgs("inc"));
  for (const { name } of (await queryBlock(s.vm))[0]?.inserted?.["dirty-bitmaps"] ?? []) {
    await s.vm.execute("block-dirty-bitmap-remove", { node: "disk0", name });
  }
  // What the full backup holds, and no increment: it is read as zeroes where the link is missing.
  await s.vm.zero("vd0", 4 * MIB, MIB);
  const args = s.backupArgs("auto", "--on-lost-bitmap", "compare");
  const { code, stderr } = await tool(args);
  assertEquals(code, 1);
  assertMatch(stderr, /INC-1700000100-disk0.qcow2" has no backing link to the image/);
  await succeed(["restore", "rebase", "--dir", join(s.target, layout.folder)]);
  await s.remember("compared");
  const { stdout } = await succeed(args);
  assertMatch(stdout, /disk0 +inc +done/);
  await restored(s, "compared");
});

Deno.test("a chain of the reference without its bitmap can't go on, and says so", async () => {
  await using s = await referenceChain(LAYOUTS["0.47"]);
  await s.vm.execute("block-dirty-bitmap-remove", {
    node: "disk0",
    name: LAYOUTS["0.47"].bitmap,
  });
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "the last backup has no bitmap");
  assertStringIncludes(stderr, "--level auto");
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  await restored(s, "auto");
});

Deno.test("backup does not build on a bitmap that another program may have emptied", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full", "--uuid", UUID));
  await s.vm.write("vd0", 0x34, MIB, MIB);
  // The reference takes our bitmap for its own, and clears it.
  const [block] = await queryBlock(s.vm);
  const bitmap = block?.inserted?.["dirty-bitmaps"]?.[0]?.name as "qmpbackup-disk0";
  await referenceBackup(
    s,
    { folder: "disk0", bitmap } as unknown as Layout,
    "INC-1900000000-disk0.qcow2",
  );
  await s.vm.write("vd0", 0x35, 2 * MIB, MIB);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertMatch(stderr, /"INC-1900000000-disk0.qcow2" is in no record/);
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("auto");
  // One full backup is enough: from here on it is known, until the reference goes on again.
  await s.vm.write("vd0", 0x36, 3 * MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("inc");
  await Deno.writeTextFile(join(s.target, "disk0/INC-1900000001-disk0.qcow2"), "");
  const again = await tool(s.backupArgs("inc"));
  assertEquals(again.code, 1);
  assertMatch(again.stderr, /"INC-1900000001-disk0.qcow2" is in no record/);
});

Deno.test("a chain of ours whose records are gone is not adopted: its bitmap may count from a lost image", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full", "--uuid", UUID));
  await s.vm.write("vd0", 0x36, MIB, MIB);
  await succeed(s.backupArgs("inc"));
  const [lost] = (await filesOf(s.target)).filter((file) => file.includes("/INC-"));
  await Deno.remove(join(s.target, lost as string));
  await Deno.remove(join(s.target, "_qmpbackup"), { recursive: true });
  await s.vm.write("vd0", 0x37, 2 * MIB, MIB);
  await s.remember("auto");
  const { stdout } = await succeed(s.backupArgs("auto", "--json"));
  assertEquals((JSON.parse(stdout) as { disks: { level: string }[] }).disks[0]?.level, "full");
  await s.assertRestores("auto");
});
