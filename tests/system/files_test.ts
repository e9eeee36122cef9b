import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ensurePrograms } from "../support/install_qemu.ts";
import { qemuImg } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { names } from "./_images.ts";

await ensurePrograms({
  "qemu-storage-daemon": "qemu-system-common",
  "qemu-img": "qemu-utils",
  "/usr/sbin/debugfs": "e2fsprogs",
  "7z": "p7zip-full",
  "/usr/sbin/mkfs.vfat": "dosfstools",
  "mcopy": "mtools",
});

const MIB = 1 << 20;
const [EXT_AT, FAT_AT] = [MIB, 17 * MIB];
const BIG = crypto.getRandomValues(new Uint8Array(60_000));

/** A raw disk with an ext4 and a FAT, and a journal that was not yet replayed. */
async function makeDisk(dir: TempDir): Promise<string> {
  const tree = dir.join("tree");
  await Deno.mkdir(`${tree}/etc/deep`, { recursive: true });
  await Deno.writeTextFile(`${tree}/etc/hostname`, "old\n");
  await Deno.writeFile(`${tree}/etc/deep/big`, BIG);
  for (const name of ['a "q" b', "line\nend", "-rf", "e\x1b[2J"]) {
    await Deno.writeTextFile(`${tree}/etc/${name}`, name);
  }
  await Deno.symlink("/etc/passwd", `${tree}/etc/link`);
  const [ext, fat, disk] = [dir.join("ext"), dir.join("fat"), dir.join("disk.raw")];
  await mustRun("/usr/sbin/mke2fs", ["-q", "-t", "ext4", "-b", "4096", "-d", tree, ext, "16M"]);
  await journalWrite(dir, ext, "/etc/hostname", "new\n");
  await mustRun("/usr/sbin/mkfs.vfat", ["-C", fat, String(16 * 1024)]);
  await mustRun("mcopy", ["-i", fat, "-s", `${tree}/etc/deep`, "::/Deep Ü"]);
  const table = new Uint8Array(512);
  const view = new DataView(table.buffer);
  for (const [i, [type, at]] of [[0x83, EXT_AT], [0x0c, FAT_AT]].entries()) {
    view.setUint8(446 + i * 16 + 4, type!);
    view.setUint32(446 + i * 16 + 8, at! / 512, true);
    view.setUint32(446 + i * 16 + 12, 16 * MIB / 512, true);
  }
  table.set([0x55, 0xaa], 510);
  using file = await Deno.create(disk);
  await file.truncate(34 * MIB);
  for (const [at, bytes] of [[0, table], [EXT_AT, ext], [FAT_AT, fat]] as const) {
    await file.seek(at, Deno.SeekMode.Start);
    await file.write(typeof bytes === "string" ? await Deno.readFile(bytes) : bytes);
  }
  return disk;
}

/** Writes a file's first block into the journal alone, as a kernel does whose power is cut. */
async function journalWrite(dir: TempDir, image: string, path: string, text: string) {
  const block = await mustRun("/usr/sbin/debugfs", ["-R", `blocks ${path}`, image]);
  const bytes = new Uint8Array(4096);
  bytes.set(new TextEncoder().encode(text));
  await Deno.writeFile(dir.join("block"), bytes);
  const requests = ["journal_open", `journal_write -b ${block.trim()} ${dir.join("block")}`];
  await Deno.writeTextFile(dir.join("requests"), [...requests, "journal_close", ""].join("\n"));
  await mustRun("/usr/sbin/debugfs", ["-w", "-f", dir.join("requests"), image]);
  assertStringIncludes(
    await mustRun("/usr/sbin/debugfs", ["-R", "features", image]),
    "needs_recovery",
  );
}

/** Its backup, without links between the images: what is in the second half came with the increment. */
async function makeChain(dir: TempDir): Promise<string> {
  const disk = await makeDisk(dir);
  const folder = dir.join("target", "disk0");
  await Deno.mkdir(folder, { recursive: true });
  const full = `${folder}/FULL-1700000000-d.qcow2`;
  const inc = `${folder}/INC-1700000100-d.qcow2`;
  const all = dir.join("all.qcow2");
  await qemuImg(["convert", "-f", "raw", "-O", "qcow2", disk, all]);
  await Deno.truncate(disk, 8 * MIB);
  await Deno.truncate(disk, 34 * MIB);
  await qemuImg(["convert", "-f", "raw", "-O", "qcow2", disk, full]);
  await Deno.rename(all, inc);
  await qemuImg(["rebase", "-f", "qcow2", "-F", "qcow2", "-b", full, inc]);
  // What both have goes from the increment, and then the link.
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-b", "", inc]);
  return folder;
}

const files = (
  folder: string,
  ...words: string[]
) => ["restore", "files", "--dir", folder, ...words];

Deno.test("`restore files` lists and copies what a point holds", async (t) => {
  await using dir = await tempDir();
  const folder = await makeChain(dir);
  const before = await mustRun("sha256sum", await names(folder), { cwd: folder });

  await t.step("the partitions", async () => {
    const { stdout } = await succeed(files(folder, "--list", "--json"));
    const found = stdout.trim().split("\n").map((line) => JSON.parse(line)).slice(0, -1);
    assertEquals(found.map(({ path, fileSystem, reader }) => [path, fileSystem, reader]), [
      ["/1", "ext", "debugfs"],
      ["/2", "fat", "7z"],
    ]);
  });

  await t.step("a folder, whose names drive no terminal", async () => {
    const { stdout } = await succeed(files(folder, "--list", "/1/etc"));
    for (const name of ['a "q" b', "line\\x0aend", "e\\x1b[2J", "deep"]) {
      assertStringIncludes(stdout, name);
    }
    assert(!stdout.includes("\x1b"));
  });

  await t.step("a file, as the journal has it", async () => {
    const out = dir.join("one");
    await succeed(files(folder, "--copy", "/1/etc/hostname", "--target-dir", out));
    assertEquals((await Deno.readTextFile(`${out}/hostname`)).slice(0, 4), "new\n");
    assertEquals((await Deno.stat(`${out}/hostname`)).mode! & 0o777, 0o600);
    const again = await tool(files(folder, "--copy", "/1/etc/hostname", "--target-dir", out));
    assertEquals(again.code, 1);
    assertStringIncludes(again.stderr, "is not overwritten");
  });

  await t.step("a folder with all in it, but no links", async () => {
    const out = dir.join("all");
    const copy = files(folder, "--copy", "/1/etc", "--target-dir", out, "--strict");
    const { code, stderr } = await tool(copy);
    assertEquals(code, 3);
    assertStringIncludes(stderr, "/etc/link is left out");
    assertEquals(
      await names(`${out}/etc`),
      ["-rf", 'a "q" b', "deep", "e\x1b[2J", "hostname", "line\nend"].sort(),
    );
    assertEquals(await Deno.readTextFile(`${out}/etc/line\nend`), "line\nend");
    assertEquals(await Deno.readFile(`${out}/etc/deep/big`), BIG);
  });

  await t.step("a FAT", async () => {
    const out = dir.join("fat-out");
    await succeed(files(folder, "--copy", "/2/Deep Ü", "--target-dir", out));
    assertEquals(await Deno.readFile(`${out}/Deep Ü/big`), BIG);
  });

  await t.step("what is not there is refused with what is", async () => {
    const wrong: [words: string[], code: number, says: string][] = [
      [["--list", "/3"], 2, "/1, /2"],
      [["--list", "/1/nope"], 1, "File not found"],
      [["--list", "/2/nope"], 1, "is not a folder"],
      [["--copy", "/1/etc/nope", "--target-dir", dir.join("x")], 1, "is not in this file system"],
      [["--copy", "/1/etc/link", "--target-dir", dir.join("x")], 1, "is not a file or a folder"],
      [["--list", "/1", "--until", "FULL-1700000000-d.qcow2"], 0, ""],
      [["--copy", "/1/etc"], 2, "--target-dir"],
      [[], 2, "--list or --copy"],
    ];
    for (const [words, code, says] of wrong) {
      const result = await tool(files(folder, ...words));
      assertEquals(result.code, code, words.join(" ") + result.stderr);
      assertStringIncludes(result.stderr, says);
    }
  });

  await t.step("from a backup that is mounted read-only, too", async () => {
    const mounted = dir.join("mounted");
    await Deno.mkdir(mounted);
    await mustRun("mount", ["--bind", folder, mounted]);
    try {
      await mustRun("mount", ["-o", "remount,bind,ro", mounted]);
      const { stdout, stderr } = await succeed(files(mounted, "--list", "/1/etc"));
      assertStringIncludes(stdout, "hostname");
      assertStringIncludes(stderr, "can only be read here");
      const attach = await tool([
        "restore",
        "attach",
        "--dir",
        mounted,
        "--target-dir",
        dir.join("x"),
      ]);
      assertEquals(attach.code, 1);
      assertStringIncludes(attach.stderr, "make the folder writable");
    } finally {
      await mustRun("umount", [mounted]);
    }
  });

  // The images are as they were, and nothing is left open.
  assertEquals(await mustRun("sha256sum", await names(folder), { cwd: folder }), before);
  const list = ["restore", "attach", "--dir", folder, "--list"];
  assertEquals((await succeed(list)).stdout, "Nothing is attached\n");
});

Deno.test("`restore files` says what to do with a file system that it can't read", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  const raw = new Uint8Array(MIB);
  raw.set(new TextEncoder().encode("XFSB"));
  await Deno.writeFile(dir.join("raw"), raw);
  const image = `${folder}/FULL-1700000000-d.qcow2`;
  await qemuImg(["convert", "-f", "raw", "-O", "qcow2", dir.join("raw"), image]);
  assertStringIncludes((await succeed(files(folder, "--list"))).stdout, "/0    xfs");
  const { code, stderr } = await tool(files(folder, "--list", "/0"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "guestfish");
  assertEquals(await names(folder), ["FULL-1700000000-d.qcow2"]);
});
