import { assertEquals, assertMatch } from "@std/assert";
import { basename, join } from "@std/path";
import { exists } from "../../src/fs/durable.ts";
import { runsOf } from "../support/next_run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { assertPlainConvert, filesOf, type Scene, scene, until } from "../support/scene.ts";
import { compare, create, qemuImg } from "../support/qemu_img.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { applySteps } from "../../src/restore/apply.ts";
import { planCommit, type Step } from "../../src/restore/in_place.ts";
import { pointsOfDisk } from "../../src/restore/points.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;

/** A full backup and three increments of one disk; what each held is in `m0.vd0.raw` and so on. */
async function chain(): Promise<Scene> {
  const s = await scene({ disks: 1 });
  for (let i = 0; i < 4; i++) {
    await s.vm.write("vd0", 0x30 + i, i * MIB, 2 * MIB);
    await s.vm.zero("vd0", (i + 8) * MIB, MIB);
    await s.remember(`m${i}`);
    await succeed(s.backupArgs(i === 0 ? "full" : "inc"));
  }
  return s;
}

const images = async (s: Scene) =>
  (await filesOf(s.target)).filter((file) => /^disk0\/(FULL|INC)/.test(file));

async function newest(s: Scene, moment: string) {
  const out = s.dir.join(`${moment}.${crypto.randomUUID()}`);
  await succeed(["restore", "merge", "--dir", join(s.target, "disk0"), "--targetfile", out]);
  await compare(s.dir.join(`${moment}.vd0.raw`), "raw", out, "qcow2");
  await Deno.remove(out);
}

/** The chain must go on after a restore in place. */
async function goesOn(s: Scene) {
  await s.vm.write("vd0", 0x77, 33 * MIB, MIB);
  await s.remember("next");
  const { stdout } = await succeed(s.backupArgs("auto", "--json"));
  assertEquals((JSON.parse(stdout) as { disks: { level: string }[] }).disks[0]?.level, "inc");
  await newest(s, "next");
}

Deno.test("restore rebase links a chain anew, relative, and `image` to the newest", async () => {
  await using s = await chain();
  const files = await images(s);
  // As the reference leaves a chain: without links, and without records.
  const alone = s.dir.join("alone");
  await Deno.mkdir(alone);
  for (const file of files) {
    const copy = join(alone, basename(file));
    await Deno.copyFile(join(s.target, file), copy);
    await Deno.chmod(copy, 0o600);
    await qemuImg(["rebase", "-u", "-f", "qcow2", "-b", "", copy]);
  }
  await succeed(["restore", "rebase", "--dir", alone]);
  const moved = s.dir.join("moved");
  await Deno.rename(alone, moved);
  await assertPlainConvert(`${moved}/image`, s.dir.join("m3.vd0.raw"));
});

Deno.test("restore rebase --until links `image` to that point", async () => {
  await using s = await chain();
  const [, , second] = await images(s);
  await succeed(["restore", "rebase", "--dir", `${s.target}/disk0`, "--until", second as string]);
  await assertPlainConvert(`${s.target}/disk0/image`, s.dir.join("m2.vd0.raw"));
  await newest(s, "m3");
});

Deno.test("restore commit leaves one image with the newest contents, and the chain goes on", async () => {
  await using s = await chain();
  const [full] = await images(s);
  await succeed(["restore", "commit", "--dir", `${s.target}/disk0`]);
  assertEquals(await images(s), [full]);
  await assertPlainConvert(`${s.target}/${full}`, s.dir.join("m3.vd0.raw"));
  await newest(s, "m3");
  await goesOn(s);
});

Deno.test("restore commit --until keeps the increments after it", async () => {
  await using s = await chain();
  const [full, , second, third] = await images(s);
  await succeed(["restore", "commit", "--dir", `${s.target}/disk0`, "--until", second as string]);
  assertEquals(await images(s), [full, third]);
  await assertPlainConvert(`${s.target}/${full}`, s.dir.join("m2.vd0.raw"));
  await assertPlainConvert(`${s.target}/${third}`, s.dir.join("m3.vd0.raw"));
  await newest(s, "m3");
  await goesOn(s);
});

/** The full backup must hold the first state and the last, and one snapshot for each increment. */
async function assertSnapshots(s: Scene) {
  const [full, ...rest] = await images(s);
  assertEquals(rest, []);
  const listed = await qemuImg(["snapshot", "-l", `${s.target}/${full}`]);
  const names = listed.match(/\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d/g) ?? [];
  // The last column but one is the time at which the snapshot was made.
  const increments = [...new Set(names)];
  assertEquals(increments.length, 3, listed);
  await assertPlainConvert(`${s.target}/${full}`, s.dir.join("m3.vd0.raw"));
  for (const [i, name] of ["FULL-BACKUP", ...increments].entries()) {
    const raw = s.dir.join(`m${i}.snapshot`);
    const of = ["-l", `snapshot.name=${name}`];
    await qemuImg(["convert", ...of, "-O", "raw", `${s.target}/${full}`, raw]);
    await compare(raw, "raw", s.dir.join(`m${i}.vd0.raw`), "raw");
  }
}

Deno.test("restore snapshotrebase keeps every point as an internal snapshot", async () => {
  await using s = await chain();
  await succeed(["restore", "snapshotrebase", "--dir", `${s.target}/disk0`]);
  await assertSnapshots(s);
  await goesOn(s);
});

for (const way of ["commit", "snapshotrebase"] as const) {
  const snapshots = way === "commit" ? null : [];
  const plan = async (s: Scene): Promise<Step[]> => {
    const points = await pointsOfDisk(deadline, `${s.target}/disk0`);
    return planCommit(points.at(-1)?.layers() ?? [], [], snapshots);
  };

  Deno.test(`restore ${way} can be stopped after every step, and run again`, async () => {
    const steps = await (async () => {
      await using s = await chain();
      return (await plan(s)).length;
    })();
    for (let n = 1; n < steps; n++) {
      await using s = await chain();
      const done = (await plan(s)).slice(0, n);
      const { signal } = new AbortController();
      await applySteps(done, s.target, {
        rateLimitBytesPerSecond: 0,
        deadline,
        signal,
        digest: true,
      });
      await newest(s, "m3");
      // After the last record there is nothing left to do but to remove what that gave up.
      const isDone =
        (await pointsOfDisk(deadline, `${s.target}/disk0`)).at(-1)?.layers().length === 1;
      const { code } = await tool(["restore", way, "--dir", `${s.target}/disk0`]);
      assertEquals(code, isDone ? 2 : 0);
      assertEquals((await images(s)).length, 1);
      await newest(s, "m3");
      if (way === "snapshotrebase") await assertSnapshots(s);
      else await goesOn(s);
    }
  });
}

Deno.test("restore --dry-run prints the commands, runs none, and they do the same", async () => {
  await using s = await chain();
  const before = await images(s);
  const { stdout } = await succeed([
    "restore",
    "commit",
    "--dir",
    `${s.target}/disk0`,
    "--dry-run",
  ]);
  assertEquals(await images(s), before);
  await newest(s, "m3");
  const shell = new Deno.Command("sh", { args: ["-e", "-c", stdout] });
  assertEquals((await shell.output()).code, 0, stdout);
  await assertPlainConvert(`${s.target}/${before[0]}`, s.dir.join("m3.vd0.raw"));
});

Deno.test("restore in place of a folder without an increment is an error", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  for (const way of ["rebase", "commit", "snapshotrebase"]) {
    const { code, stderr } = await tool(["restore", way, "--dir", `${s.target}/disk0`]);
    assertEquals(code, 2);
    assertMatch(stderr, /has no increment: there is nothing to do/);
  }
});

Deno.test("restore in place refuses to write what another image beside builds on", async () => {
  await using s = await chain();
  const before = await images(s);
  for (const parent of [before[0] as string, before.at(-1) as string]) {
    // As the README has it, to start a VM on a backup.
    const disk = join(s.target, "disk0/new.qcow2");
    await qemuImg(["create", "-f", "qcow2", "-F", "qcow2", "-b", basename(parent), disk]);
    for (const way of ["commit", "snapshotrebase"]) {
      const { code, stderr } = await tool(["restore", way, "--dir", join(s.target, "disk0")]);
      assertEquals(code, 1);
      assertMatch(stderr, /disk0\/new.qcow2" also builds on these images, and would be damaged/);
    }
    assertEquals(await images(s), before);
    await Deno.remove(disk);
  }
  await succeed(["restore", "commit", "--dir", join(s.target, "disk0")]);
  await newest(s, "m3");
});

for (const way of ["rebase", "commit", "snapshotrebase"]) {
  Deno.test(`restore ${way} refuses a folder in which an image is missing`, async () => {
    await using s = await chain();
    // Copied by itself, without the records.
    const copy = s.dir.join("copy");
    await Deno.mkdir(copy);
    const names = (await images(s)).map((file) => basename(file));
    const [, , missing] = names;
    for (const name of names.filter((name) => name !== missing)) {
      await Deno.copyFile(join(s.target, "disk0", name), join(copy, name));
    }
    const before = await Promise.all(names.map((name) => imageText(join(copy, name))));
    const { code, stderr } = await tool(["restore", way, "--dir", copy]);
    assertEquals(code, 1);
    assertMatch(stderr, new RegExp(`builds on "${missing}", which is not in its chain`));
    assertEquals(await Promise.all(names.map((name) => imageText(join(copy, name)))), before);
  });
}

async function imageText(path: string): Promise<string> {
  return await qemuImg(["info", path]).catch(() => "");
}

Deno.test("restore commit refuses a chain in which the disk has shrunk", async () => {
  await using dir = await tempDir();
  const [full, inc] = [dir.join("FULL-1-d.qcow2"), dir.join("INC-2-d.qcow2")];
  await create(full, 4 * MIB);
  await create(inc, 2 * MIB, { backing: full, options: ["backing_fmt=qcow2"] });
  for (const way of ["commit", "snapshotrebase"]) {
    const { code, stderr } = await tool(["restore", way, "--dir", dir.path]);
    assertEquals(code, 1);
    assertMatch(stderr, /The disk is smaller in ".*INC-2-d.qcow2" than before/);
  }
  await succeed(["restore", "merge", "--dir", dir.path, "--targetfile", dir.join("out")]);
});

Deno.test("restore commit of a folder by way of a link keeps the records in step", async () => {
  await using s = await chain();
  const link = s.dir.join("link");
  await Deno.symlink(`${s.target}/disk0`, link);
  await succeed(["restore", "commit", "--dir", link]);
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", s.target, "--json"]);
  assertEquals(stdout.match(/"result":"done"/g)?.length, 1);
  // And say what the image takes now.
  const rows = stdout.split("\n").slice(0, -2).flatMap((line) => JSON.parse(line).disks);
  const [row] = rows.filter(({ result }) => result === "done");
  const { blocks } = await Deno.stat(join(s.target, row.file));
  assertEquals(row.bytesWritten, (blocks ?? 0) * 512);
  await newest(s, "m3");
  await goesOn(s);
});

Deno.test("restore merge of a disk that is committed before its turn ends with an error", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd1", 0x31, 0, MIB);
  await succeed(s.backupArgs("inc"));
  const out = s.dir.join("out");
  const [full] = await runsOf(s);
  const child = startTool([
    ...["restore", "merge", "--dir", s.target, "--until", full?.id ?? "", "--target-dir", out],
    ...["--rate-limit", String(MIB / 2)],
  ]);
  await until(() => exists(deadline, join(out, "disk0.qcow2.partial")));
  await succeed(["restore", "commit", "--dir", `${s.target}/disk1`]);
  const { code, stderr } = await ended(child);
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /were changed while they were read \(restore commit, cleanup --prune, or a backup with/,
  );
  assertEquals(await filesOf(out), ["disk0.qcow2"]);
});
