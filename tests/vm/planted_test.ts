/**
 * What was planted in a target, by somebody else or by an admin who moved a folder: nothing outside of the
 * target is written, made or removed, and nothing waits for ever.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { compare } from "../support/qemu_img.ts";
import {
  assertNothingLeft,
  assertPlainConvert,
  filesOf,
  type Scene,
  scene,
} from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

interface Victim {
  /** A file with a text, and a folder with a file in it. */
  file: string;
  folder: string;
  assertUntouched(): Promise<void>;
}

/** What lies beside the target, and must stay as it is. */
async function victim(s: Scene): Promise<Victim> {
  const folder = s.dir.join("victim");
  const file = join(folder, "file");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(file, "precious");
  await Deno.chmod(file, 0o604);
  return {
    file,
    folder,
    async assertUntouched() {
      assertEquals(await Array.fromAsync(Deno.readDir(folder), ({ name }) => name), ["file"]);
      assertEquals(await Deno.readTextFile(file), "precious");
      assertEquals((await Deno.stat(file)).mode! & 0o777, 0o604);
    },
  };
}

async function mkfifo(path: string) {
  const { success } = await new Deno.Command("mkfifo", { args: [path] }).output();
  assert(success, path);
}

/** Moves what is there away and puts a link to that into its place. */
async function moveAndLink(path: string, to: string) {
  await Deno.rename(path, to);
  await Deno.symlink(to, path);
}

/** The disk that was never backed up has no bitmap. */
async function assertFreed(s: Scene) {
  const nodes = await s.vm.execute("query-named-block-nodes", { flat: true });
  const objects = await s.vm.execute("qom-list", { path: "/objects" });
  assertEquals(JSON.stringify([nodes, objects]).match(/"qmpbackup-[^"]*-(file|cbw|lock)"/g), null);
}

const IS_LINK = "is a symbolic link, and qmpbackup does not write through links";

/** What an inc refuses, with the path it names; links lead to the victim's file or folder. */
const REFUSED: [path: string, kind: "file" | "folder" | "fifo", says: string][] = [
  ["_qmpbackup", "folder", IS_LINK],
  ["_qmpbackup/runs", "folder", IS_LINK],
  ["_qmpbackup/lock", "file", IS_LINK],
  ["disk1", "folder", IS_LINK],
  ["uuid", "file", "is not a file of qmpbackup"],
  ["_qmpbackup/runs/x.json", "file", "is not a file of qmpbackup"],
  ["_qmpbackup/lock", "fifo", "is in the place of our lock"],
  ["uuid", "fifo", "is not a file of qmpbackup"],
  ["_qmpbackup/runs/x.json", "fifo", "is not a file of qmpbackup"],
  ["_qmpbackup/runs", "fifo", "is not a folder made by qmpbackup"],
  ["disk1", "fifo", "is not a folder made by qmpbackup"],
];
for (const [path, kind, says] of REFUSED) {
  Deno.test(`backup refuses a ${kind === "fifo" ? "pipe" : `link to a ${kind}`} in the place of ${path}`, async () => {
    await using s = await scene();
    const { file, folder, assertUntouched } = await victim(s);
    await succeed(s.backupArgs("full", "--include", "disk0"));
    const planted = join(s.target, path);
    await Deno.rename(planted, s.dir.join("moved")).catch(() => {});
    if (kind === "fifo") await mkfifo(planted);
    else await Deno.symlink(kind === "file" ? file : folder, planted);
    const before = await filesOf(s.target);
    const { code, stderr } = await tool(s.backupArgs("auto"));
    assertEquals([1, 2].includes(code), true, stderr);
    assertStringIncludes(stderr, says);
    assertStringIncludes(stderr, planted);
    await assertUntouched();
    assertEquals(await filesOf(s.target), before);
    await assertFreed(s);
  });
}

Deno.test("backup goes on when the folder that was linked is mounted as the error says", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const folder = join(s.target, "disk0");
  await moveAndLink(folder, s.dir.join("moved"));
  await s.vm.write("vd0", 0x51, MIB, MIB);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, `"${folder}" ${IS_LINK}`);
  assertStringIncludes(stderr, "mount that folder there (mount --bind)");
  await Deno.remove(folder);
  await Deno.mkdir(folder);
  const mount = async (...args: string[]) =>
    assert((await new Deno.Command(args[0] as string, { args: args.slice(1) }).output()).success);
  await mount("mount", "--bind", s.dir.join("moved"), folder);
  try {
    await s.remember("inc");
    await succeed(s.backupArgs("inc"));
    await s.assertRestores("inc");
  } finally {
    await mount("umount", "--lazy", folder);
  }
});

Deno.test("the target itself may be a link, and lie behind one", async () => {
  await using s = await scene({ disks: 1 });
  await Deno.mkdir(s.dir.join("real"));
  await Deno.symlink("real", s.target);
  await succeed(s.backupArgs("full", "--no-subdir"));
  await s.vm.write("vd0", 0x51, MIB, MIB);
  await s.remember("inc");
  await succeed(s.backupArgs("inc", "--no-subdir"));
  await s.assertRestores("inc");
  await succeed(["restore", "rebase", "--dir", s.target]);
  await assertPlainConvert(join(s.target, "image"), s.dir.join("inc.vd0.raw"));
});

Deno.test("links in the place of files that are replaced are replaced, and not followed", async () => {
  await using s = await scene({ disks: 1 });
  const { file, assertUntouched } = await victim(s);
  await succeed(s.backupArgs("full", "--no-timestamp"));
  const at = (name: string) => join(s.target, name);
  const planted = [
    ...["disk0.qcow2.config", "_qmpbackup/disk0.qcow2.config.tmp", "_qmpbackup/uuid.tmp"],
    ...["_qmpbackup/runs/20261122T000000Z-00000000.json.tmp", "disk0/FULL-disk0.qcow2"],
    ...["disk0/FULL-disk0.qcow2.new", "disk0/disk0.qcow2.replaced"],
  ].map(at);
  for (const path of planted) {
    await Deno.remove(path).catch(() => {});
    await Deno.symlink(file, path);
  }
  await s.remember("now");
  await succeed(s.backupArgs("full", "--no-timestamp"));
  await assertUntouched();
  await s.assertRestores("now");
  await assertPlainConvert(at("disk0/FULL-disk0.qcow2"), s.dir.join("now.vd0.raw"));
  assertEquals((await Deno.lstat(at("disk0.qcow2.config"))).isFile, true);
  assertEquals(await filesOf(s.target), [
    ...["disk0.qcow2.config", "disk0/FULL-disk0.qcow2", "disk0/disk0.qcow2", "uuid"],
  ]);
  const records = await Array.fromAsync(Deno.readDir(at("_qmpbackup")), ({ name }) => name);
  assertEquals(records.sort(), ["digests", "lock", "runs"]);
  // An image that is a link gives its place to a new one; what it stands for stays.
  await moveAndLink(at("disk0/disk0.qcow2"), s.dir.join("elsewhere.qcow2"));
  const text = await Deno.readFile(s.dir.join("elsewhere.qcow2"));
  await s.vm.write("vd0", 0x52, 0, MIB);
  await succeed(s.backupArgs("full", "--no-timestamp"));
  assertEquals(await Deno.readFile(s.dir.join("elsewhere.qcow2")), text);
  assertEquals((await Deno.lstat(at("disk0/disk0.qcow2"))).isFile, true);
});

Deno.test("a file in the place of our link is kept, and named", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const path = join(s.target, "disk0/FULL-disk0.qcow2");
  await Deno.writeTextFile(path, "precious");
  const full = await tool(s.backupArgs("full", "--no-timestamp"));
  assertEquals(full.code, 1);
  assertStringIncludes(full.stderr, `"${path}" is in the way of a link of that name: move it away`);
  assertEquals(await Deno.readTextFile(path), "precious");
  await assertNothingLeft(s.vm, 1);
  await s.vm.write("vd0", 0x51, 0, MIB);
  await succeed(s.backupArgs("inc"));
  const image = join(s.target, "disk0/image");
  await Deno.writeTextFile(image, "precious");
  const rebase = await tool(["restore", "rebase", "--dir", s.target]);
  assertEquals(rebase.code, 1);
  assertStringIncludes(rebase.stderr, `"${image}" is in the way of a link`);
  assertEquals(await Deno.readTextFile(image), "precious");
});

for (const way of ["rebase", "commit", "snapshotrebase"]) {
  Deno.test(`restore ${way} refuses images and folders that are links; merge reads such a folder`, async () => {
    await using s = await scene({ disks: 1 });
    await succeed(s.backupArgs("full"));
    await s.vm.write("vd0", 0x51, MIB, MIB);
    await s.remember("inc");
    await succeed(s.backupArgs("inc"));
    const images = (await filesOf(s.target)).filter((file) => /\/(FULL|INC)-/.test(file));
    const folder = join(s.target, "disk0");
    for (const image of [...images, "disk0"]) {
      const path = join(s.target, image);
      const moved = s.dir.join("moved");
      await moveAndLink(path, moved);
      const before = image === "disk0" ? null : await Deno.readFile(moved);
      const { code, stderr } = await tool(["restore", way, "--dir", folder]);
      assertEquals(code, 1, image);
      const isImage = before !== null;
      assertStringIncludes(stderr, `"${path}" ${isImage ? "is a symbolic link: put" : IS_LINK}`);
      if (before) assertEquals(await Deno.readFile(moved), before);
      if (isImage) {
        const out = s.dir.join("refused");
        const merge = await tool(["restore", "merge", "--dir", s.target, "--targetfile", out]);
        assertEquals(merge.code, 1);
        assertStringIncludes(merge.stderr, `"${path}" is a symbolic link: put`);
      } else await s.assertRestores("inc");
      await Deno.remove(path);
      await Deno.rename(moved, path);
    }
    await succeed(["restore", way, "--dir", folder]);
    await s.assertRestores("inc");
    // In a folder that was copied alone the names give the order: there links are refused as well.
    if (way !== "rebase") return;
    const alone = s.dir.join("alone");
    await Deno.mkdir(alone);
    for (const image of images) {
      const name = image.slice("disk0/".length);
      await Deno.symlink(join(s.target, image), join(alone, name));
    }
    const { code, stderr } = await tool(["restore", way, "--dir", alone]);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "is a symbolic link: put");
  });
}

Deno.test("restore merge writes through no link, and waits for no pipe", async () => {
  await using s = await scene({ disks: 1 });
  const { file, assertUntouched } = await victim(s);
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  const out = s.dir.join("out.qcow2");
  const args = ["restore", "merge", "--dir", s.target, "--targetfile", out];
  for (
    const [planted, says] of [[out, "exists already"], [`${out}.partial`, "remove it"]] as const
  ) {
    await Deno.symlink(file, planted);
    const { code, stderr } = await tool(args);
    assertEquals(code, 2);
    assertStringIncludes(stderr, says);
    await assertUntouched();
    await Deno.remove(planted);
  }
  const [image = ""] = (await filesOf(s.target)).filter((file) => file.includes("FULL-"));
  const path = join(s.target, image);
  await Deno.rename(path, s.dir.join("moved"));
  await mkfifo(path);
  const pipe = await tool(args);
  assertEquals(pipe.code, 1);
  assertStringIncludes(pipe.stderr, `"${path}" is not a regular file`);
  await Deno.remove(path);
  await Deno.rename(s.dir.join("moved"), path);
  await succeed(args);
  await compare(s.dir.join("full.vd0.raw"), "raw", out, "qcow2");
});

const CONFIGS: Record<string, (path: string) => Promise<void>> = {
  "a pipe": mkfifo,
  "a folder": (path) => Deno.mkdir(path),
  "a link to /dev/zero": (path) => Deno.symlink("/dev/zero", path),
  "a file cut short": (path) => Deno.writeTextFile(path, '{"format": "ra'),
  "an empty file": (path) => Deno.writeTextFile(path, ""),
  "foreign JSON": (path) => Deno.writeTextFile(path, '[{"format":"raw"}]'),
  "a file of 1 TiB": async (path) => {
    using file = await Deno.create(path);
    await file.truncate(2 ** 40);
  },
};
Deno.test("restore and backup take what is no .config of ours for none", async () => {
  await using s = await scene({ disks: 1 });
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  const folder = s.dir.join("alone");
  await Deno.rename(join(s.target, "disk0"), folder);
  for (const [what, plant] of Object.entries(CONFIGS)) {
    const config = join(folder, "disk0.qcow2.config");
    await plant(config);
    const out = s.dir.join(`out of ${what}`.replaceAll("/", "_"));
    await succeed(["restore", "merge", "--dir", folder, "--targetfile", out]);
    await compare(s.dir.join("full.vd0.raw"), "raw", out, "qcow2");
    await Deno.remove(config);
  }
  await Deno.rename(folder, join(s.target, "disk0"));
  // In the target it is replaced, but for a folder, which is somebody's.
  for (const [what, plant] of Object.entries(CONFIGS)) {
    const config = join(s.target, "disk0.qcow2.config");
    await Deno.remove(config);
    await plant(config);
    const { code, stderr } = await tool(s.backupArgs("auto"));
    assertEquals([what, code], [what, what === "a folder" ? 1 : 0], stderr);
  }
});
