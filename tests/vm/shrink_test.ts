/**
 * What changes a disk without any bitmap recording it: shrinking and growing it again, clearing its bitmaps,
 * other images below it.
 *
 * @module
 */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { isSentinel } from "../../src/vm/names.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { compare, create, qemuImg, qemuIo } from "../support/qemu_img.ts";
import { assertNothingLeft, queryBlock, type Scene, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

interface Row {
  level: string;
  reason: string;
  bytesWritten: number;
  sentinel: { bitmap: string; countBytes: number } | null;
}

async function backUp(s: Scene, level: string, ...more: string[]): Promise<Row> {
  const { stdout } = await succeed(s.backupArgs(level, "--json", ...more));
  const [row] = (JSON.parse(stdout) as { disks: Row[] }).disks;
  return row as Row;
}

async function resizeOnline(s: Scene, ...sizes: number[]) {
  for (const size of sizes) await s.vm.execute("block_resize", { "node-name": "disk0", size });
}

/** As an administrator does it: the VM is off meanwhile. */
async function resizeOffline(s: Scene, ...sizes: number[]) {
  await s.vm.quit();
  const path = s.dir.join("disk0.qcow2");
  for (const size of sizes) {
    await qemuImg(["resize", "-q", "--shrink", "-f", "qcow2", path, String(size)]);
  }
  await s.restart();
}

const sentinels = async (s: Scene) =>
  ((await queryBlock(s.vm))[0]?.inserted?.["dirty-bitmaps"] ?? []).map(({ name }) => name)
    .filter(isSentinel);

for (const [how, resize] of Object.entries({ online: resizeOnline, offline: resizeOffline })) {
  Deno.test(`a disk that was shrunk and grown again gets a full backup (${how})`, async () => {
    await using s = await scene({ disks: 1, diskBytes: 64 * MIB });
    await s.vm.write("vd0", 0x31, 40 * MIB, MIB);
    await backUp(s, "full");
    await backUp(s, "inc");
    await resize(s, 32 * MIB, 64 * MIB);
    await s.vm.write("vd0", 0x32, MIB, MIB);
    const { code, stderr } = await tool(s.backupArgs("inc"));
    assertEquals(code, 1);
    assertMatch(
      stderr,
      /No increment can be taken of the disk "disk0": it was shrunk and grown again/,
    );
    assertStringIncludes(stderr, "Use --level auto");
    await s.remember("cut");
    const row = await backUp(s, "auto");
    assertEquals(row.level, "full");
    assertMatch(row.reason, /^it was shrunk and grown again since the last backup/);
    await s.assertRestores("cut");
    await assertNothingLeft(s.vm, 1);
    // From then on increments can be taken again.
    await s.vm.write("vd0", 0x33, 2 * MIB, MIB);
    await s.remember("next");
    assertEquals((await backUp(s, "inc")).level, "inc");
    await s.assertRestores("next");
  });

  Deno.test(`a disk that was shrunk and grown again can be compared (${how})`, async () => {
    await using s = await scene({ disks: 1, diskBytes: 64 * MIB });
    await s.vm.write("vd0", 0x31, 40 * MIB, MIB);
    await backUp(s, "full");
    await resize(s, 32 * MIB, 64 * MIB);
    await s.remember("cut");
    const row = await backUp(s, "inc", "--on-lost-bitmap", "compare");
    assertMatch(row.reason, /^compared with the last backup: it was shrunk/);
    await s.assertRestores("cut");
    await assertNothingLeft(s.vm, 1);
  });

  Deno.test(`a disk that has only grown goes on with increments, and is watched to its new end (${how})`, async () => {
    await using s = await scene({ disks: 1, diskBytes: 64 * MIB });
    const full = await backUp(s, "full");
    await resize(s, 96 * MIB);
    await s.vm.write("vd0", 0x34, 90 * MIB, MIB);
    await s.remember("grown");
    const grown = await backUp(s, "inc");
    assertEquals(grown.level, "inc");
    await s.assertRestores("grown");
    assertEquals(await sentinels(s), [grown.sentinel?.bitmap]);
    assertEquals(full.sentinel?.bitmap === grown.sentinel?.bitmap, false);
    // What lies beyond the old end.
    await resize(s, 80 * MIB, 96 * MIB);
    await s.remember("cut");
    assertEquals((await backUp(s, "auto")).level, "full");
    await s.assertRestores("cut");
    await assertNothingLeft(s.vm, 1);
  });
}

Deno.test("a disk that was cut and grown beyond its old size gets a full backup", async () => {
  await using s = await scene({ disks: 1, diskBytes: 64 * MIB });
  await s.vm.write("vd0", 0x31, 40 * MIB, MIB);
  await backUp(s, "full");
  await resizeOnline(s, 32 * MIB, 96 * MIB);
  await s.remember("cut");
  assertEquals((await backUp(s, "auto")).level, "full");
  await s.assertRestores("cut");
});

/** A raw disk, which is zero to the byte where it was cut; qcow2 keeps the rest of a cluster. */
async function rawScene(sizeBytes: number) {
  const s = await scene({ disks: 1 });
  const file = { driver: "file", filename: s.dir.join("raw.img") };
  await create(file.filename, sizeBytes, { format: "raw" });
  await s.vm.execute("blockdev-add", { driver: "raw", "node-name": "raw", file });
  await s.vm.execute("device_add", { driver: "virtio-blk-pci", id: "vdr", drive: "raw" });
  const io = (command: string) =>
    s.vm.execute("human-monitor-command", {
      "command-line": `qemu-io -d /machine/peripheral/vdr/virtio-backend "${command}"`,
    });
  let restores = 0;
  return Object.assign(s, {
    io,
    backUpRaw: (level: string) => backUp(s, level, "--include", "raw"),
    async resizeRaw(...sizes: number[]) {
      for (const size of sizes) await s.vm.execute("block_resize", { "node-name": "raw", size });
    },
    async assertRestoresRaw() {
      await io("flush");
      const out = s.dir.join(`raw.out${restores++}`);
      await succeed(["restore", "merge", "--dir", `${s.target}/raw`, "--targetfile", out]);
      await compare(file.filename, "raw", out, "qcow2");
    },
  });
}

Deno.test("a raw disk that is shrunk and grown while its QEMU lives gets a full backup", async () => {
  await using s = await rawScene(64 * MIB);
  await s.io("write -q -P 0x31 40M 1M");
  await s.backUpRaw("full");
  assertEquals((await s.backUpRaw("inc")).level, "inc");
  await s.resizeRaw(32 * MIB, 64 * MIB);
  assertEquals((await s.backUpRaw("auto")).level, "full");
  await s.assertRestoresRaw();
});

Deno.test("a cut that is too small for a bitmap to see is in the next increment", async () => {
  // The last bit stands for 64 KiB, of which this disk has 33.
  const size = 64 * MIB + 33 * 1024;
  await using s = await rawScene(size);
  await s.io(`write -q -P 0x31 64M 33K`);
  await s.backUpRaw("full");
  await s.backUpRaw("inc");
  await s.resizeRaw(64 * MIB + 512, size);
  assertEquals((await s.backUpRaw("inc")).level, "inc");
  await s.assertRestoresRaw();
});

Deno.test("bitmaps that another client has cleared are not trusted", async () => {
  await using s = await scene({ disks: 1 });
  await backUp(s, "full");
  await s.vm.write("vd0", 0x35, 3 * MIB, MIB);
  for (const { name } of (await queryBlock(s.vm))[0]?.inserted?.["dirty-bitmaps"] ?? []) {
    await s.vm.execute("block-dirty-bitmap-clear", { node: "disk0", name });
  }
  await s.vm.write("vd0", 0x36, 5 * MIB, MIB);
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertMatch(stderr, /another program has cleared its bitmaps/);
  await s.remember("cleared");
  assertEquals((await backUp(s, "auto")).level, "full");
  await s.assertRestores("cleared");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("a bitmap that another client has cleared is not trusted while nothing is in it", async () => {
  await using s = await scene({ disks: 1 });
  await backUp(s, "full");
  await s.vm.write("vd0", 0x35, 3 * MIB, MIB);
  const names = ((await queryBlock(s.vm))[0]?.inserted?.["dirty-bitmaps"] ?? []).map((b) => b.name);
  const name = names.find((name) => name && !isSentinel(name));
  await s.vm.execute("block-dirty-bitmap-clear", { node: "disk0", name });
  await s.remember("cleared");
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertMatch(stderr, /its bitmap "[^"]+" was cleared by another program/);
  assertEquals((await backUp(s, "auto")).level, "full");
  await s.assertRestores("cleared");
});

Deno.test("a disk that is cut and grown between the plan and the point in time is not backed up as if it were not", async () => {
  await using s = await scene({ disks: 1 });
  await s.vm.write("vd0", 0x31, 40 * MIB, MIB);
  await backUp(s, "full");
  let seen = false;
  const onMessage = async (message: string) => {
    if (seen || !message.startsWith("→") || !message.includes('"copy-before-write"')) return;
    seen = true;
    await resizeOnline(s, 32 * MIB, 64 * MIB);
  };
  await using line = countingProxy(s.dir.join("counted.qmp"), s.vm.socket, onMessage);
  const { code, stderr } = await tool([
    ...["backup", "--socket", line.path, "--level", "inc", "--target", s.target],
  ]);
  assertEquals([code, seen], [1, true]);
  assertStringIncludes(stderr, '"disk0" was resized meanwhile: run again');
  await s.remember("cut");
  assertEquals((await backUp(s, "auto")).level, "full");
  await s.assertRestores("cut");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("the sentinel of a disk serves all its backups, and goes with the others' bitmaps", async () => {
  await using s = await scene({ disks: 1 });
  const first = await backUp(s, "full");
  for (const level of ["inc", "inc", "full"]) {
    assertEquals((await backUp(s, level)).sentinel, first.sentinel);
  }
  await s.vm.quit();
  await s.restart();
  assertEquals((await backUp(s, "inc")).sentinel, first.sentinel);
  assertEquals(await sentinels(s), [first.sentinel?.bitmap]);
  const uuid = await Deno.readTextFile(`${s.target}/uuid`);
  const { stdout } = await succeed([
    ...["cleanup", "--socket", s.vm.socket, "--remove-bitmap", "--uuid", uuid],
  ]);
  assertStringIncludes(stdout, `Removing bitmap: ${first.sentinel?.bitmap}\n`);
  await assertNothingLeft(s.vm, 0);
});

Deno.test("a disk is backed up with a warning where QEMU can't make what tells of a cut", async () => {
  await using s = await scene({ disks: 1 });
  const onMessage = async (message: string) => {
    if (!message.startsWith("→") || !message.includes('"null-co"')) return;
    // QEMU has added the node by now: what follows finds none.
    const name = /"node-name":"([^"]+)"/.exec(message)?.[1];
    await s.vm.execute("blockdev-del", { "node-name": name });
  };
  await using line = countingProxy(s.dir.join("counted.qmp"), s.vm.socket, onMessage);
  const { code, stderr } = await tool([
    ...["backup", "--socket", line.path, "--level", "full", "--target", s.target, "--strict"],
  ]);
  assertEquals(code, 3, stderr);
  assertMatch(
    stderr,
    /If the disk "disk0" is shrunk and grown again, the next increment will not notice/,
  );
  assertEquals(await sentinels(s), []);
  await s.vm.write("vd0", 0x37, 3 * MIB, MIB);
  await s.remember("inc");
  const row = await backUp(s, "inc");
  await s.assertRestores("inc");
  // From here on it can be told.
  assertEquals(await sentinels(s), [row.sentinel?.bitmap]);
  await assertNothingLeft(s.vm, 1);
});

/** A disk on two images, the lower one a template. */
async function templateScene(): Promise<Scene & { template: string; middle: string }> {
  const s = await scene({ disks: 1 });
  await s.vm.quit();
  const [template, middle] = [s.dir.join("template.qcow2"), s.dir.join("middle.qcow2")];
  await makeTemplate(template, 0x41);
  await create(middle, 64 * MIB, { backing: template });
  await qemuIo(middle, "qcow2", "write -P 0x42 12M 4M");
  const disk = s.dir.join("disk0.qcow2");
  await Deno.remove(disk);
  await create(disk, 64 * MIB, { backing: middle });
  await s.restart();
  await s.vm.write("vd0", 0x43, 20 * MIB, MIB);
  return Object.assign(s, { template, middle });
}

async function makeTemplate(path: string, pattern: number) {
  await create(path, 64 * MIB);
  await qemuIo(path, "qcow2", `write -P ${pattern} 10M 4M`);
}

/** Does something while the VM is off. */
async function whileOff(s: Scene, work: () => Promise<unknown>) {
  await s.vm.quit();
  await work();
  await s.restart();
}

const EXCHANGES: Record<
  string,
  { reason: RegExp; work: (s: Awaited<ReturnType<typeof templateScene>>) => Promise<unknown> }
> = {
  "another template of the same name and size": {
    reason: /its backing file ".*template.qcow2" was changed or replaced since .*last changed at/,
    work: async ({ template }) => {
      const { size } = await Deno.stat(template);
      await Deno.remove(template);
      await makeTemplate(template, 0x51);
      assertEquals((await Deno.stat(template)).size, size);
      const later = new Date(Date.now() + 5000);
      await Deno.utime(template, later, later);
    },
  },
  "another template of another size": {
    reason: /its backing file ".*template.qcow2" was changed or replaced since .*a file of/,
    work: async ({ template }) => {
      const { mtime } = await Deno.stat(template);
      await qemuIo(template, "qcow2", "write -P 0x52 30M 4M");
      await Deno.utime(template, mtime as Date, mtime as Date);
    },
  },
  "rebase -u onto another template": {
    reason: /its backing files are not those of the last backup \(now .*other.qcow2.*then .*middle/,
    work: async (s) => {
      const other = s.dir.join("other.qcow2");
      await makeTemplate(other, 0x53);
      await rebase(s.dir.join("disk0.qcow2"), other);
    },
  },
  "rebase -u of the image in the middle": {
    reason: /its backing files are not those of the last backup \(now .*middle.* on .*other/,
    work: async (s) => {
      const { mtime } = await Deno.stat(s.middle);
      const other = s.dir.join("other.qcow2");
      await makeTemplate(other, 0x54);
      await rebase(s.middle, other);
      await Deno.utime(s.middle, mtime as Date, mtime as Date);
    },
  },
  "rebase -u onto nothing": {
    reason: /its backing files are not those of the last backup \(now none/,
    work: (s) => qemuImg(["rebase", "-u", "-b", "", s.dir.join("disk0.qcow2")]),
  },
};

async function rebase(path: string, onto: string) {
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", onto, path]);
}

for (const [name, { reason, work }] of Object.entries(EXCHANGES)) {
  Deno.test(`a disk whose backing files were exchanged gets a full backup: ${name}`, async () => {
    await using s = await templateScene();
    await backUp(s, "full");
    await s.vm.write("vd0", 0x44, 21 * MIB, MIB);
    // The VM was restarted, and nothing else has changed.
    await whileOff(s, () => Promise.resolve());
    await s.remember("inc");
    assertEquals((await backUp(s, "inc")).level, "inc");
    await s.assertRestores("inc");

    await whileOff(s, () => work(s));
    const { code, stderr } = await tool(s.backupArgs("inc"));
    assertEquals(code, 1);
    assertMatch(stderr, reason);
    await s.remember("exchanged");
    const row = await backUp(s, "auto");
    assertEquals(row.level, "full");
    assertMatch(row.reason, reason);
    await s.assertRestores("exchanged");
    await s.vm.write("vd0", 0x45, 22 * MIB, MIB);
    await s.remember("next");
    assertEquals((await backUp(s, "inc")).level, "inc");
    await s.assertRestores("next");
    await assertNothingLeft(s.vm, 1);
  });
}

Deno.test("a template that is replaced while QEMU has the old one open counts from the next start on", async () => {
  await using s = await templateScene();
  await backUp(s, "full");
  const fresh = s.dir.join("fresh.qcow2");
  await makeTemplate(fresh, 0x55);
  await qemuIo(fresh, "qcow2", "write -P 0x56 40M 4M");
  await s.vm.write("vd0", 0x46, 23 * MIB, MIB);
  await s.remember("old");
  await Deno.rename(fresh, s.template);
  assertEquals((await backUp(s, "inc")).level, "inc");
  await s.assertRestores("old");
  await whileOff(s, () => Promise.resolve());
  await s.remember("new");
  assertEquals((await backUp(s, "auto")).level, "full");
  await s.assertRestores("new");
});
