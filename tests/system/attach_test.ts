import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { writeAttachment } from "../../src/repo/attachment.ts";
import { ATTACHED_FOLDER } from "../../src/repo/layout.ts";
import { writeRun } from "../../src/repo/repository.ts";
import { createTarget } from "../../src/repo/repository.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { qemuImg } from "../support/qemu_img.ts";
import { mustRun, run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { contentsOf, firstDifference, KIB, makeLayer, names, readImage } from "./_images.ts";
import type { Write } from "./_images.ts";
import { deadline } from "../support/deadline.ts";

await ensurePrograms({ "qemu-storage-daemon": "qemu-system-common", "qemu-img": "qemu-utils" });

const SIZE = 1024 * KIB;
const FULL: Write[] = [[0, SIZE / 2, 0x11]];
const INC_1: Write[] = [[64 * KIB, 128 * KIB, 0x22], [SIZE - 64 * KIB, 64 * KIB, 0x33]];
const INC_2: Write[] = [[128 * KIB, 64 * KIB, 0], [192 * KIB, 64 * KIB, 0x44]];
const ALL = [...FULL, ...INC_1, ...INC_2];

const NAMES = ["FULL-1700000000-d.qcow2", "INC-1700000100-d.qcow2", "INC-1700000200-d.qcow2"];

/** A disk's folder, with links between its images or, as the Python qmpbackup leaves it, without. */
async function diskFolder(dir: string, { linked }: { linked: boolean }): Promise<string> {
  const folder = `${dir}/target/disk0`;
  await Deno.mkdir(folder, { recursive: true });
  for (const [i, writes] of [FULL, INC_1, INC_2].entries()) {
    const link = linked ? NAMES[i - 1] : undefined;
    await makeLayer(`${folder}/${NAMES[i]}`, SIZE, writes, link === undefined ? {} : { link });
  }
  return folder;
}

async function digests(folder: string): Promise<string> {
  return await mustRun("sha256sum", (await names(folder)).filter((name) => name !== "_qmpbackup"), {
    cwd: folder,
  });
}

async function assertHolds(path: string, writes: Write[]) {
  assertEquals(firstDifference(await readImage(path, "qcow2"), contentsOf(SIZE, writes)), null);
}

/** What an NBD export holds. */
async function assertServes(uri: string, copy: string, writes: Write[]) {
  await qemuImg(["convert", "-f", "raw", "-O", "raw", uri, copy]);
  assertEquals(firstDifference(await Deno.readFile(copy), contentsOf(SIZE, writes)), null);
  await Deno.remove(copy);
}

interface Summary {
  name: string;
  disks: { disk: string; open: string }[];
  commands: { does: string; line: string }[];
}

async function attach(dir: string, ...words: string[]): Promise<Summary> {
  const { stdout } = await succeed(["restore", "attach", "--json", "--dir", dir, ...words]);
  return JSON.parse(stdout);
}

const openOf = ({ disks: [disk] }: Summary) => disk?.open ?? "";
const detachAll = (dir: string) => succeed(["restore", "attach", "--dir", dir, "--detach", "all"]);

for (const linked of [true, false]) {
  const kind = linked ? "with links" : "without links";
  Deno.test(`an overlay on a chain ${kind} holds the point, can be written, and goes again`, async () => {
    await using dir = await tempDir();
    const folder = await diskFolder(dir.path, { linked });
    const before = await digests(folder);
    const summary = await attach(folder, "--target-dir", dir.join("try"));
    assertEquals(openOf(summary), dir.join("try", "disk0.qcow2"));
    await assertHolds(openOf(summary), ALL);
    await mustRun("qemu-io", ["-f", "qcow2", "-c", "write -q -P 7 0 64k", openOf(summary)]);
    await assertHolds(openOf(summary), [...ALL, [0, 64 * KIB, 7]]);
    assertEquals(await digests(folder), before);
    const copy = summary.commands.find(({ line }) => line.startsWith("qemu-img convert"));
    await mustRun("sh", ["-c", copy?.line ?? ""], { cwd: dir.path });
    assertEquals((await Deno.stat(dir.join("disk.raw"))).size, SIZE);
    await detachAll(folder);
    assertEquals(await names(dir.join("try")), []);
    assertEquals(await names(folder), NAMES);
  });

  Deno.test(`--nbd serves a chain ${kind}, read-only, until it is detached`, async () => {
    await using dir = await tempDir();
    const folder = await diskFolder(dir.path, { linked });
    const before = await digests(folder);
    const sockets = ["--target-dir", dir.join("s"), "--until", NAMES[1]!];
    const summary = await attach(folder, "--nbd", ...sockets);
    try {
      await assertServes(openOf(summary), dir.join("copy"), [...FULL, ...INC_1]);
      const write = ["-f", "raw", "-c", "write 0 64k", openOf(summary)];
      const { code, stdout, stderr } = await run("qemu-io", write);
      assertMatch(stdout + stderr, /read.only|not permitted|Permission denied/i);
      assertEquals(code, 1);
    } finally {
      await detachAll(folder);
    }
    assertEquals(await names(dir.join("s")), []);
    assertEquals(await digests(folder), before);
  });
}

Deno.test("a long chain without links takes several overlays, and holds the point", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  const writes = Array.from({ length: 24 }, (_, i): Write => [i % 9 * 64 * KIB, 128 * KIB, i + 1]);
  for (const [i, write] of writes.entries()) {
    const name = `${i === 0 ? "FULL" : "INC"}-${1700000000 + i}-${"d".repeat(120)}`;
    await makeLayer(`${folder}/${name}`, SIZE, [write]);
  }
  const summary = await attach(folder, "--target-dir", dir.join("try"));
  assert((await names(dir.join("try"))).length > 4);
  await assertHolds(openOf(summary), writes);
  await detachAll(folder);
  assertEquals(await names(dir.join("try")), []);
});

/** A target with records: two disks, of one run. */
async function recordedTarget(dir: string): Promise<string> {
  const target = `${dir}/target`;
  await createTarget(deadline, target);
  const disks = ["disk0", "disk1"].map((name) =>
    aDiskRecord(name, { file: `${name}/FULL-1700000000-d`, level: "full", parent: null })
  );
  for (const [i, { folder, file }] of disks.entries()) {
    await Deno.mkdir(`${target}/${folder}`);
    await makeLayer(`${target}/${file}`, SIZE, [[0, SIZE, i + 1]]);
  }
  await writeRun(deadline, target, aRun(disks));
  return target;
}

Deno.test("all disks of a run are attached under one name, and listed by each folder", async () => {
  await using dir = await tempDir();
  const target = await recordedTarget(dir.path);
  const served = await attach(target, "--nbd", "--target-dir", dir.join("s"));
  const tried = await attach(target, "--target-dir", dir.join("try"));
  try {
    for (const [i, { open }] of served.disks.entries()) {
      await assertServes(open, dir.join("copy"), [[0, SIZE, i + 1]]);
    }
    assertEquals(await names(dir.join("try")), ["disk0.qcow2", "disk1.qcow2"]);
    await assertHolds(dir.join("try", "disk1.qcow2"), [[0, SIZE, 2]]);
    for (const folder of [target, `${target}/disk1`, dir.path]) {
      const { stdout } = await succeed(["restore", "attach", "--dir", folder, "--list"]);
      for (const { name } of [served, tried]) assertStringIncludes(stdout, name);
    }
    const one = ["restore", "attach", "--dir", target, "--detach"];
    await succeed([...one, tried.name]);
    assertEquals(await names(dir.join("try")), []);
    assertEquals(await names(dir.join("s")), [`${served.name}.nbd`, `${served.name}.qmp`]);
    const unknown = await tool([...one, tried.name]);
    assertEquals(unknown.code, 2);
    assertStringIncludes(unknown.stderr, served.name);
  } finally {
    await detachAll(target);
  }
  // The runs' records are not touched.
  assertEquals((await names(`${target}/_qmpbackup/runs`)).length, 1);
});

for (const way of ["commit", "rebase", "snapshotrebase"]) {
  Deno.test(`restore ${way} is refused while an image is attached, and goes on when that is dead`, async () => {
    await using dir = await tempDir();
    const folder = await diskFolder(dir.path, { linked: false });
    const before = await digests(folder);
    await attach(folder, "--target-dir", dir.join("try"));
    const refused = await tool(["restore", way, "--dir", folder]);
    assertEquals(refused.code, 1);
    assertMatch(refused.stderr, /is attached as "\w+".*--detach/);
    assertEquals(await digests(folder), before);
    await Deno.remove(dir.join("try"), { recursive: true });
    await succeed(["restore", way, "--dir", folder]);
    assert(!(await names(folder)).includes("_qmpbackup"));
  });
}

/** Only one process has these sockets in its command line. */
async function killServer(socket: string) {
  for await (const { name } of Deno.readDir("/proc")) {
    const words = await Deno.readTextFile(`/proc/${name}/cmdline`).catch(() => "");
    if (words.includes(socket)) Deno.kill(Number(name), "SIGKILL");
  }
}

Deno.test("a server that was killed is seen, and what it left is removed", async () => {
  await using dir = await tempDir();
  const folder = await diskFolder(dir.path, { linked: false });
  const { name } = await attach(folder, "--nbd", "--target-dir", dir.join("s"));
  const list = ["restore", "attach", "--dir", folder, "--list"];
  assertMatch((await succeed(list)).stdout, / attached /);
  await killServer(dir.join("s", name));
  while (!(await succeed(list)).stdout.includes(" dead "));
  assertEquals((await names(dir.join("s"))).length, 3);
  assertStringIncludes((await detachAll(folder)).stdout, name);
  assertEquals(await names(dir.join("s")), []);
  assertEquals((await succeed(list)).stdout, "Nothing is attached\n");
});

Deno.test("an overlay that a program has open is not detached", async () => {
  await using dir = await tempDir();
  const folder = await diskFolder(dir.path, { linked: true });
  const open = openOf(await attach(folder, "--target-dir", dir.join("try")));
  const user = new Deno.Command("qemu-io", {
    args: ["-f", "qcow2", open],
    stdin: "piped",
    stdout: "piped",
  }).spawn();
  const stdout = user.stdout.getReader();
  // It asks for a command when it has opened the file.
  await stdout.read();
  const refused = await tool(["restore", "attach", "--dir", folder, "--detach", "all"]);
  assertEquals(refused.code, 1);
  assertStringIncludes(refused.stderr, "is in use");
  await user.stdin.close();
  while (!(await stdout.read()).done);
  await user.status;
  await detachAll(folder);
  assertEquals(await names(dir.join("try")), []);
});

Deno.test("a record from elsewhere makes us remove no other file", async () => {
  await using dir = await tempDir();
  const folder = await diskFolder(dir.path, { linked: true });
  for (const name of ["text", "disk.qcow2"]) await Deno.writeTextFile(dir.join(name), "mine");
  await qemuImg(["create", "-q", "-f", "qcow2", dir.join("disk.qcow2"), "1M"]);
  await attach(folder, "--target-dir", dir.join("try"));
  const [record = ""] = await names(`${folder}/${ATTACHED_FOLDER}`);
  const attachment = JSON.parse(await Deno.readTextFile(`${folder}/${ATTACHED_FOLDER}/${record}`));
  const files = ["text", "disk.qcow2"].map((name) => dir.join(name));
  await writeAttachment(deadline, folder, {
    ...attachment,
    files: [...files, ...attachment.files],
  });
  const { stderr } = await detachAll(folder);
  for (const file of files) assertStringIncludes(stderr, file);
  assertEquals(await names(dir.path), ["disk.qcow2", "target", "text", "try"]);
  assertEquals(await names(dir.join("try")), []);
});

Deno.test("what another host has attached is neither dead nor detached here", async () => {
  await using dir = await tempDir();
  const folder = await diskFolder(dir.path, { linked: true });
  await attach(folder, "--target-dir", dir.join("try"));
  const [record = ""] = await names(`${folder}/${ATTACHED_FOLDER}`);
  const attachment = JSON.parse(await Deno.readTextFile(`${folder}/${ATTACHED_FOLDER}/${record}`));
  await writeAttachment(deadline, folder, { ...attachment, host: "elsewhere" });
  await Deno.remove(dir.join("try"), { recursive: true });
  for (const words of [["attach", "--detach", "all"], ["rebase"]]) {
    const { code } = await tool(["restore", ...words, "--dir", folder]);
    assertEquals(code, 1, words.join(" "));
  }
});

Deno.test("`restore attach` leaves nothing where it fails, and says what to do", async () => {
  await using dir = await tempDir();
  const folder = await diskFolder(dir.path, { linked: false });
  const command = ["restore", "attach", "--dir", folder];
  const out = ["--target-dir", dir.join("try")];
  await Deno.mkdir(dir.join("bin"));
  const [, qemuImgPath = ""] = /(\S+)\n/.exec(await mustRun("which", ["qemu-img"])) ?? [];
  await Deno.symlink(qemuImgPath, dir.join("bin", "qemu-img"));
  const bare = await ended(
    startTool([...command, ...out, "--nbd"], { env: { PATH: dir.join("bin") } }),
  );
  assertEquals(bare.code, 1);
  assertStringIncludes(bare.stderr, "qemu-storage-daemon is not installed");
  const long = await tool([...command, "--nbd", "--target-dir", dir.join("s".repeat(100))]);
  assertStringIncludes(long.stderr, "too long for a socket");
  const mixed = await tool([...command, ...out, "--list"]);
  assertEquals(mixed.code, 2);
  assertEquals((await tool(command)).code, 2);
  assertEquals(await names(dir.path), ["bin", "target"]);
  await Deno.mkdir(dir.join("try"));
  await Deno.writeTextFile(dir.join("try", "disk0.qcow2"), "mine");
  const taken = await tool([...command, ...out]);
  assertEquals(taken.code, 2);
  assertStringIncludes(taken.stderr, "is not overwritten");
  assertEquals(await Deno.readTextFile(dir.join("try", "disk0.qcow2")), "mine");
  assertEquals(await names(folder), NAMES);
});
