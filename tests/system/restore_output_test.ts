import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { Deadline } from "../../src/fs/deadline.ts";
import { createTarget, writeRun } from "../../src/repo/repository.ts";
import { compare, info } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { mountTmpfs } from "../support/tmpfs.ts";
import { succeed, tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { makeLayer, type Write } from "./_images.ts";

const MIB = 1 << 20;
const SIZE = 8 * MIB;
const DATA: Write[] = [[0, 3 * MIB, 0x11]];
const IMAGE = "disk0/FULL-1-disk0";

/** A target with one full backup of a raw disk. */
async function makeTarget(dir: TempDir): Promise<string> {
  const deadline = new Deadline(60_000);
  const target = dir.join("target");
  await createTarget(deadline, target);
  await Deno.mkdir(join(target, "disk0"));
  await makeLayer(join(target, IMAGE), SIZE, DATA);
  const row = aDiskRecord("disk0", { file: IMAGE, format: "raw", virtualSizeBytes: SIZE });
  await writeRun(deadline, target, aRun([row]));
  return target;
}

Deno.test("`restore merge` makes the file as it is asked to", async (t) => {
  await using dir = await tempDir();
  const target = await makeTarget(dir);
  const restore = async (name: string, ...args: string[]) => {
    const file = dir.join(name);
    await succeed(["restore", "merge", "--dir", target, "--targetfile", file, ...args]);
    return file;
  };
  await t.step("in the format that the disk had", async () => {
    const file = await restore("same", "--output-format", "same");
    assertEquals((await Deno.stat(file)).size, SIZE);
    await compare(join(target, IMAGE), "qcow2", file, "raw");
    await succeed([
      "restore",
      "merge",
      "--dir",
      target,
      "--target-dir",
      dir.join("all"),
      "--format",
      "same",
    ]);
    await compare(join(target, IMAGE), "qcow2", dir.join("all/disk0.raw"), "raw");
  });
  await t.step("with its room set aside", async () => {
    const file = await restore("falloc", "--format", "raw", "--preallocation", "falloc");
    assertEquals((await Deno.stat(file)).blocks! * 512 >= SIZE, true);
    await compare(join(target, IMAGE), "qcow2", file, "raw");
  });
  await t.step("compressed", async () => {
    const file = await restore("compressed", "--compress");
    assertEquals((await info(file)).format, "qcow2");
    assertEquals((await Deno.stat(file)).size < MIB, true);
    await compare(join(target, IMAGE), "qcow2", file, "qcow2");
  });
  for (
    const args of [["--compress", "--format", "raw"], [
      "--preallocation",
      "metadata",
      "--format",
      "raw",
    ]]
  ) {
    await t.step(`and refuses ${args.join(" ")}`, async () => {
      const { code } = await tool([
        "restore",
        "merge",
        "--dir",
        target,
        "--targetfile",
        dir.join("no"),
        ...args,
      ]);
      assertEquals(code, 2);
    });
  }
});

Deno.test("`restore merge` looks for room before it writes the first byte", async () => {
  await using dir = await tempDir();
  const target = await makeTarget(dir);
  const small = dir.join("small");
  await using _tmpfs = await mountTmpfs(small, 2 * MIB);
  const args = ["restore", "merge", "--dir", target, "--target-dir", join(small, "new")];
  const { code, stderr } = await tool(args);
  assertEquals(code, 2);
  assertMatch(stderr, /small" has .* free, and what is restored there takes 3\.\d+ MiB/);
  assertEquals(await Array.fromAsync(Deno.readDir(small)), []);
});

/** A loop device on a file; null where this machine has none to give. */
async function loopDevice(file: string): Promise<AsyncDisposable & { path: string } | null> {
  const losetup = (...args: string[]) =>
    new Deno.Command("losetup", { args, stderr: "null" }).output().catch(() => null);
  const made = await losetup("--find", "--show", file);
  if (!made?.success) return null;
  const path = new TextDecoder().decode(made.stdout).trim();
  return { path, [Symbol.asyncDispose]: async () => void await losetup("--detach", path) };
}

Deno.test("`restore merge` writes onto a block device that is large enough and free", async (t) => {
  await using dir = await tempDir();
  const target = await makeTarget(dir);
  const file = dir.join("device");
  // Larger than the disk, and full of something else.
  await Deno.writeFile(file, new Uint8Array(SIZE + MIB).fill(0xee));
  await using device = await loopDevice(file);
  if (!device) {
    console.log("Left out: this machine has no loop device for us");
    return;
  }
  const args = ["restore", "merge", "--dir", target, "--targetfile", device.path];
  const refused = async (words: string, ...more: string[]) => {
    const { code, stderr } = await tool([...args, ...more]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, words);
  };
  await t.step("not unless it is told to", () => refused("add --overwrite-device"));
  await t.step(
    "not as qcow2",
    () => refused("is always raw", "--overwrite-device", "--format", "qcow2"),
  );
  await t.step("whose contents are then the disk's, and no more is touched", async () => {
    await succeed([...args, "--overwrite-device"]);
    await mustRun("sync", []);
    const written = await Deno.readFile(file);
    await Deno.writeFile(dir.join("head"), written.subarray(0, SIZE));
    await compare(join(target, IMAGE), "qcow2", dir.join("head"), "raw");
    assertEquals(written.subarray(SIZE).every((byte) => byte === 0xee), true);
  });
  await t.step("not one that is too small", async () => {
    const smaller = dir.join("smaller");
    await Deno.writeFile(smaller, new Uint8Array(SIZE - MIB));
    await using other = await loopDevice(smaller);
    const { code, stderr } = await tool([
      ...args.slice(0, -1),
      other?.path ?? "",
      "--overwrite-device",
    ]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, "make it larger");
  });
  await t.step("not one that is mounted", async () => {
    await mustRun("mkfs.ext4", ["-q", device.path]);
    const mount = dir.join("mount");
    await Deno.mkdir(mount);
    await mustRun("mount", [device.path, mount]);
    try {
      await refused("is mounted as", "--overwrite-device");
    } finally {
      await mustRun("umount", [mount]);
    }
  });
});
