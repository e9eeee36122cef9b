/**
 * Older images that are not what they were: nothing is built on them, nothing is restored from them as if
 * all were well.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import { compare, create, info, qemuImg, qemuIo } from "../support/qemu_img.ts";
import { type Scene, scene, until } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const MIB = 1 << 20;
const SIZE = 32 * MIB;

interface Chain {
  s: Scene;
  /** Absolute. */
  full: string;
  inc: string;
  /** The full backup of the chain before, of the same size. */
  olderFull: string;
}

interface Damage {
  /** Which image it hits. */
  image: "full" | "inc";
  state: "missing" | "changed";
  says: string;
  /** The file has as many bytes as before. */
  keepsSize?: true;
  hurt(path: string, chain: Chain): Promise<unknown>;
}

async function mkfifo(path: string) {
  assertEquals((await new Deno.Command("mkfifo", { args: [path] }).output()).code, 0);
}

async function replace(path: string, make: (path: string) => Promise<unknown>) {
  await Deno.remove(path);
  await make(path);
}

async function startOn(path: string, dir: string, write: boolean) {
  const disk = { id: "x", node: "x", path, format: "qcow2" } as const;
  await using vm = await startVm({ dir, name: "other", disks: [disk] });
  if (write) await vm.write("x", 0x77, 25 * MIB, MIB);
  await vm.quit();
}

/** What is written where a cluster is already changes neither size nor tables. */
async function overwrite(path: string) {
  await qemuIo(path, "qcow2", "write -P 0x77 3M 64k");
}

const DAMAGE: Record<string, Damage> = {
  "a full backup cut to nothing": {
    image: "full",
    state: "changed",
    says: "it has 0 bytes, and had",
    hurt: (path) => Deno.truncate(path, 0),
  },
  "an increment cut to half": {
    image: "inc",
    state: "changed",
    says: "bytes, and had",
    hurt: async (path) => await Deno.truncate(path, (await Deno.stat(path)).size >> 1),
  },
  "a full backup that is gone": {
    image: "full",
    state: "missing",
    says: "is missing",
    hurt: (path) => Deno.remove(path),
  },
  "an empty image in its place": {
    image: "full",
    state: "changed",
    says: "was changed",
    hurt: (path) => replace(path, (path) => create(path, SIZE)),
  },
  "another disk's image in its place": {
    image: "inc",
    state: "changed",
    says: "was changed",
    hurt: (path) =>
      replace(path, async (path) => {
        await create(path, SIZE);
        await qemuIo(path, "qcow2", "write -P 0x33 0 2M");
      }),
  },
  "a pipe in its place": {
    image: "full",
    state: "changed",
    says: "is not a regular file",
    hurt: (path) => replace(path, mkfifo),
  },
  "a link in its place": {
    image: "full",
    state: "changed",
    says: "is a symbolic link",
    hurt: async (path, { s }) => {
      const moved = s.dir.join(basename(path));
      await Deno.rename(path, moved);
      await Deno.symlink(moved, path);
    },
  },
  "a VM that was started on it": {
    image: "full",
    state: "changed",
    says: "was changed",
    hurt: (path, { s }) => startOn(path, s.dir.path, true),
  },
  "a VM that was started on it and wrote nothing": {
    image: "inc",
    state: "changed",
    says: "a VM was started on it",
    keepsSize: true,
    hurt: (path, { s }) => startOn(path, s.dir.path, false),
  },
  "a write that changes neither size nor tables": {
    image: "full",
    state: "changed",
    says: "another program wrote to it",
    keepsSize: true,
    hurt: overwrite,
  },
  "an older version put back": {
    image: "full",
    state: "changed",
    says: "another version of it",
    keepsSize: true,
    hurt: (path, { olderFull }) => replace(path, (path) => Deno.copyFile(olderFull, path)),
  },
};

/** The image that the newest run wrote; absolute. */
async function backUp(s: Scene, level: string, ...more: string[]) {
  const { stdout } = await succeed(s.backupArgs(level, "--json", ...more));
  const { disks, warnings } = JSON.parse(stdout) as {
    disks: { level: string; reason: string; file: string }[];
    warnings: string[];
  };
  const [disk] = disks;
  assert(disk);
  return { ...disk, path: join(s.target, disk.file), warnings };
}

/** How `info` tells each image, by its path in the target. */
async function imageStates(target: string): Promise<Map<string, string[]>> {
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", target, "--json"]);
  const lines = stdout.trim().split("\n").map((line) =>
    JSON.parse(line) as { disks?: { file: string; image: string; result: string }[] }
  );
  return new Map(
    lines.flatMap(({ disks }) => disks ?? []).map((
      { file, image, result },
    ) => [file, [result, image]]),
  );
}

async function refuses(args: string[], says: string, path: string) {
  const { code, stderr, stdout } = await tool(args);
  assertEquals(code, 1, stdout);
  assertStringIncludes(stderr, says);
  assertStringIncludes(stderr, basename(path));
}

Deno.test("an older image that was changed is built on by no run, and restored by none", async (t) => {
  await using s = await scene({ disks: 1, diskBytes: SIZE });
  let olderFull = (await backUp(s, "full")).path;
  let full = (await backUp(s, "full")).path;
  assertEquals((await Deno.stat(olderFull)).size, (await Deno.stat(full)).size);
  let pattern = 0x40;
  for (const [name, { image, state, says, keepsSize, hurt }] of Object.entries(DAMAGE)) {
    await t.step(name, async () => {
      await s.vm.write("vd0", pattern++, MIB, MIB);
      const inc = (await backUp(s, "inc")).path;
      const path = { full, inc }[image];
      const file = path.slice(s.target.length + 1);
      // A user with the right to, who was not held back by the missing bit.
      await Deno.chmod(path, 0o600);
      const { size } = await Deno.stat(path);
      await hurt(path, { s, full, inc, olderFull });
      if (keepsSize) assertEquals((await Deno.stat(path)).size, size);
      await s.vm.write("vd0", pattern++, 2 * MIB, MIB);

      const table = await succeed(["info", "--show", "backups", "--all", "--dir", s.target]);
      assertMatch(table.stdout, new RegExp(` ${state} .* ${file} `));
      assertEquals((await imageStates(s.target)).get(file), ["done", state]);
      const out = s.dir.join("refused.qcow2");
      await refuses(["restore", "merge", "--dir", s.target, "--targetfile", out], says, path);
      for (const file of [out, `${out}.partial`]) {
        assertEquals(await Deno.lstat(file).catch(() => null), null);
      }
      for (const way of ["rebase", "commit"]) {
        await refuses(["restore", way, "--dir", join(s.target, "disk0")], says, path);
      }
      await refuses(s.backupArgs("inc"), says, path);
      await refuses(s.backupArgs("inc", "--on-lost-bitmap", "compare"), says, path);

      await s.remember(name);
      const compared = ["--on-lost-bitmap", "compare"];
      const auto = await backUp(s, "auto", ...(image === "inc" ? compared : []));
      assertEquals(auto.level, "full");
      assertStringIncludes(auto.reason, file);
      assertStringIncludes(auto.reason, says);
      // That they were removed, their owner knows.
      assertEquals(auto.warnings.some((text) => text.includes(file)), state !== "missing");
      await s.assertRestores(name);
      [olderFull, full] = [full, auto.path];
      if (name === "a write that changes neither size nor tables") {
        // For the next: a full backup of this one's size, of other contents.
        await s.vm.write("vd0", pattern++, MIB, MIB);
        [olderFull, full] = [full, (await backUp(s, "full")).path];
      }
    });
  }
});

Deno.test("a copied target is as good as the first one", async () => {
  await using s = await scene({ disks: 1, diskBytes: SIZE });
  await backUp(s, "full");
  await s.vm.write("vd0", 0x51, MIB, MIB);
  await backUp(s, "inc");
  const copy = s.dir.join("copy");
  assertEquals((await new Deno.Command("cp", { args: ["-r", s.target, copy] }).output()).code, 0);
  for (const states of (await imageStates(copy)).values()) {
    assertEquals(states, ["done", "present"]);
  }
  await s.vm.write("vd0", 0x52, 2 * MIB, MIB);
  await s.remember("inc");
  await succeed(["backup", "--socket", s.vm.socket, "--level", "inc", "--target", copy]);
  const out = s.dir.join("out.qcow2");
  await succeed(["restore", "merge", "--dir", copy, "--targetfile", out]);
  await compare(s.dir.join("inc.vd0.raw"), "raw", out, "qcow2");
});

for (const way of ["rebase", "commit", "snapshotrebase"]) {
  Deno.test(`after restore ${way} the images are known again, read-only, and the chain goes on`, async () => {
    await using s = await scene({ disks: 1, diskBytes: SIZE });
    await backUp(s, "full");
    for (const pattern of [0x51, 0x52]) {
      await s.vm.write("vd0", pattern, MIB, MIB);
      await backUp(s, "inc");
    }
    await s.remember("before");
    await succeed(["restore", way, "--dir", join(s.target, "disk0")]);
    for (const [file, states] of await imageStates(s.target)) {
      if (states[0] === "superseded") continue;
      assertEquals(states, ["done", "present"]);
      assertEquals((await Deno.stat(join(s.target, file))).mode! & 0o777, 0o400);
    }
    await s.assertRestores("before");
    await s.vm.write("vd0", 0x53, 2 * MIB, MIB);
    const inc = await backUp(s, "auto");
    assertEquals(inc.level, "inc");
    await s.remember("inc");
    await s.assertRestores("inc");
    // And they are looked at again.
    await Deno.chmod(inc.path, 0o600);
    await overwrite(inc.path);
    await refuses(s.backupArgs("inc"), "was changed", inc.path);
  });
}

Deno.test("images without a fingerprint, of an older program, get one with the next run", async () => {
  await using s = await scene({ disks: 1, diskBytes: SIZE });
  const full = await backUp(s, "full");
  const runs = join(s.target, "_qmpbackup", "runs");
  for await (const { name } of Deno.readDir(runs)) {
    const run = JSON.parse(await Deno.readTextFile(join(runs, name)));
    for (const disk of run.disks) delete disk.fingerprint;
    await Deno.writeTextFile(join(runs, name), JSON.stringify(run));
  }
  await s.vm.write("vd0", 0x51, MIB, MIB);
  assertEquals((await backUp(s, "auto")).level, "inc");
  await Deno.chmod(full.path, 0o600);
  await overwrite(full.path);
  await refuses(s.backupArgs("inc"), "was changed", full.path);
});

Deno.test("an image that QEMU marked as corrupt counts as damaged, whatever is recorded", async () => {
  await using s = await scene({ disks: 1, diskBytes: SIZE });
  const { path } = await backUp(s, "full");
  const runs = join(s.target, "_qmpbackup", "runs");
  await Deno.chmod(path, 0o600);
  using file = await Deno.open(path, { write: true });
  await file.seek(79, Deno.SeekMode.Start);
  await file.write(Uint8Array.of(2));
  for await (const { name } of Deno.readDir(runs)) {
    const run = JSON.parse(await Deno.readTextFile(join(runs, name)));
    for (const disk of run.disks) delete disk.fingerprint;
    await Deno.writeTextFile(join(runs, name), JSON.stringify(run));
  }
  await refuses(s.backupArgs("inc"), "is marked as corrupt by QEMU", path);
  const out = s.dir.join("out.qcow2");
  const merge = ["restore", "merge", "--dir", s.target, "--targetfile", out, "--skip-check"];
  await refuses(merge, "is marked as corrupt by QEMU", path);
});

/** An image that leads to a file elsewhere, which it reads from and writes to. */
async function leadTo(victim: string, path: string, backing: string[] = []) {
  const contents = await Deno.readFile(victim);
  const options = `data_file=${victim}${backing.length > 0 ? "" : ",preallocation=metadata"}`;
  await qemuImg(["create", "-q", "-f", "qcow2", "-o", options, ...backing, path, String(SIZE)]);
  await Deno.writeFile(victim, contents);
}

Deno.test("an image exchanged while restore merge works is not read", async () => {
  await using s = await scene({ disks: 2, diskBytes: SIZE });
  await succeed(s.backupArgs("full", "--json"));
  const secret = s.dir.join("secret");
  await Deno.writeFile(secret, new Uint8Array(SIZE).fill(0x5e));
  const evil = s.dir.join("evil");
  await leadTo(secret, evil);
  const out = s.dir.join("out");
  const slow = ["--rate-limit", String(2 * MIB)];
  const child = startTool([
    "restore",
    "merge",
    ...["--dir", s.target, "--target-dir", out, ...slow],
  ]);
  await until(() => Deno.lstat(join(out, "disk0.qcow2.partial")).then(() => true, () => false));
  const [name = ""] = await Array.fromAsync(
    Deno.readDir(join(s.target, "disk1")),
    ({ name }) => name,
  );
  await Deno.rename(evil, join(s.target, "disk1", name));
  const { code, stderr } = await ended(child);
  assertEquals(code, 1);
  assertStringIncludes(stderr, name);
  for await (const { name } of Deno.readDir(out)) assertEquals(name, "disk0.qcow2");
});

/** Whether a `qemu-img commit` has the image open. */
async function isBeingCommittedTo(image: string): Promise<boolean> {
  for await (const { name: pid } of Deno.readDir("/proc")) {
    try {
      const words = (await Deno.readTextFile(`/proc/${pid}/cmdline`)).split("\0");
      if (!words[0]?.endsWith("qemu-img") || !words.includes("commit")) continue;
      for await (const { name } of Deno.readDir(`/proc/${pid}/fd`)) {
        if (await Deno.readLink(`/proc/${pid}/fd/${name}`) === image) return true;
      }
    } catch {
      // Not a process, or one that has ended meanwhile.
    }
  }
  return false;
}

for (const which of ["full", "inc"] as const) {
  Deno.test(`restore commit leads nowhere else if its ${which} image is exchanged while it works`, async () => {
    await using s = await scene({ disks: 1, diskBytes: SIZE });
    const images = { full: (await backUp(s, "full")).path, inc: "" };
    for (const pattern of [0x51, 0x52]) {
      await s.vm.write("vd0", pattern, MIB, 8 * MIB);
      images.inc = (await backUp(s, "inc")).path;
    }
    const victim = s.dir.join("victim");
    await Deno.writeFile(victim, new Uint8Array(SIZE).fill(0x5e));
    const evil = s.dir.join("evil");
    await leadTo(victim, evil, which === "full" ? [] : ["-F", "qcow2", "-b", images.full]);
    const slow = ["--rate-limit", String(2 * MIB)];
    const child = startTool(["restore", "commit", "--dir", join(s.target, "disk0"), ...slow]);
    // The first record that says so is written when the first commit begins.
    const runs = join(s.target, "_qmpbackup", "runs");
    await until(async () => {
      const names = await Array.fromAsync(Deno.readDir(runs), ({ name }) => name);
      const texts = await Promise.all(
        names.filter((name) => name.endsWith(".json"))
          .map((name) => Deno.readTextFile(join(runs, name))),
      );
      return texts.some((text) => text.includes('"superseded"'));
    });
    await until(() => isBeingCommittedTo(images.full));
    await Deno.rename(evil, images[which]);
    const { code, stderr } = await ended(child);
    assert(
      (await Deno.readFile(victim)).every((byte) => byte === 0x5e),
      "the other file was written",
    );
    assertEquals(code, 1);
    assertStringIncludes(stderr, images[which]);
    const { backing } = await info(images[which]);
    assertEquals(backing, which === "full" ? undefined : images.full, "nobody linked it anew");
  });
}
