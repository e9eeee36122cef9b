/**
 * A target on a file system without symbolic and hard links: all is done that can be, and what can't is a
 * warning.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { mountExfat } from "../support/exfat.ts";
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

async function onExfat(): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await scene({ disks: 1, diskBytes: 32 * MIB }));
  const mounted = await mountExfat(s.target, 256 * MIB);
  // Beside the target there is nothing, so that links can't be made by way of another file system.
  await assertNoLinks(s.target);
  stack.move();
  return {
    ...s,
    get vm() {
      return s.vm;
    },
    async [Symbol.asyncDispose]() {
      await mounted[Symbol.asyncDispose]();
      await s[Symbol.asyncDispose]();
    },
  };
}

async function assertNoLinks(folder: string) {
  const file = join(folder, "file");
  await Deno.writeTextFile(file, "");
  for (const make of [Deno.link, Deno.symlink]) {
    const made = await make(file, join(folder, "link")).then(() => true, () => false);
    assertEquals(made, false);
  }
  await Deno.remove(file);
}

Deno.test("--no-timestamp on exFAT keeps the backup, and warns of the link", async () => {
  await using s = await onExfat();
  for (const round of [1, 2]) {
    await s.vm.write("vd0", round, MIB, MIB);
    await s.remember("full");
    const { code, stderr } = await tool(s.backupArgs("full", "--no-timestamp", "--strict"));
    assertEquals(code, 3, stderr);
    assertMatch(stderr, /WARNING The link ".*FULL-disk0\.qcow2" could not be made: .*--no-symlink/);
    assert(!stderr.includes("bug of qmpbackup"), stderr);
    await s.assertRestores("full");
    assertEquals(await filesOf(s.target), ["disk0.qcow2.config", "disk0/disk0.qcow2", "uuid"]);
    await assertPlainConvert(join(s.target, "disk0/disk0.qcow2"), s.dir.join("full.vd0.raw"));
  }
  await assertNothingLeft(s.vm, 1);
  const { code, stderr } = await tool(
    s.backupArgs("full", "--no-timestamp", "--no-symlink", "--strict"),
  );
  assertEquals(code, 0, stderr);
});

for (const way of ["rebase", "commit", "snapshotrebase"]) {
  Deno.test(`restore ${way} on exFAT does all, and warns of the link`, async () => {
    await using s = await onExfat();
    await succeed(s.backupArgs("full"));
    await s.vm.write("vd0", 0x51, MIB, MIB);
    await s.remember("inc");
    await succeed(s.backupArgs("inc"));
    const { stdout, stderr } = await succeed(["restore", way, "--dir", join(s.target, "disk0")]);
    assertStringIncludes(stdout, `${way} of 2 images`);
    assertMatch(stderr, /WARNING The link ".*\/image" could not be made: .*: use "(FULL|INC)-/);
    await s.assertRestores("inc");
    const newest = (await filesOf(s.target)).filter((file) => /\/(FULL|INC)-/.test(file)).at(-1);
    await assertPlainConvert(join(s.target, newest ?? ""), s.dir.join("inc.vd0.raw"));
    // The chain goes on.
    await s.vm.write("vd0", 0x52, 2 * MIB, MIB);
    await s.remember("more");
    await succeed(s.backupArgs("auto"));
    await s.assertRestores("more");
  });
}

Deno.test("restore merge makes a file on exFAT, and replaces none", async () => {
  await using s = await onExfat();
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  const out = join(s.target, "restored");
  const args = ["restore", "merge", "--dir", s.target, "--targetfile", out];
  await succeed(args);
  await compare(s.dir.join("full.vd0.raw"), "raw", out, "qcow2");
  assertEquals((await tool(args)).code, 2);
  await compare(s.dir.join("full.vd0.raw"), "raw", out, "qcow2");
});
