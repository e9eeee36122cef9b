import { assertEquals, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import { digestsFile, readDigests } from "../../src/digest/store.ts";
import { Deadline } from "../../src/fs/deadline.ts";
import { findBackups } from "../../src/verify/find.ts";
import { verify } from "../../src/verify/verify.ts";
import { create, qemuIo } from "../support/qemu_img.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { until } from "../support/scene.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { names } from "./_images.ts";
import { tool } from "../support/tool.ts";

await ensurePrograms({
  "qemu-storage-daemon": "qemu-system-common",
  "qemu-img": "qemu-utils",
  fusermount3: "fuse3",
});

const MIB = 1 << 20;
const deadline = new Deadline(60_000);

const FULL = "FULL-1700000000-a.qcow2", INC = "INC-1700000100-a.qcow2";

/** A target as the Python tool leaves it: no links, no records. */
async function pythonTarget(dir: TempDir): Promise<{ target: string; disk: string }> {
  const target = dir.join("backup", "vm1"), disk = join(target, "disk0");
  await Deno.mkdir(disk, { recursive: true });
  await Deno.writeTextFile(join(target, "uuid"), "d2a5cb9e-7a5b-4b6c-8f4c-0c0a4b6a5a4c");
  await Deno.writeTextFile(join(target, "a.qcow2.config"), "{}");
  for (const [name, command] of [[FULL, "write -P 1 0 1M"], [INC, "write -P 2 8M 20M"]] as const) {
    await create(join(disk, name), 64 * MIB);
    await qemuIo(join(disk, name), "qcow2", command);
  }
  return { target, disk };
}

async function flip(path: string, offset: number) {
  using file = await Deno.open(path, { read: true, write: true });
  const byte = new Uint8Array(1);
  await file.seek(offset, Deno.SeekMode.Start);
  await file.read(byte);
  await file.seek(offset, Deno.SeekMode.Start);
  await file.write(byte.map((value) => value ^ 1));
}

async function verifyJson(dir: string, ...more: string[]) {
  const { code, stdout, stderr } = await tool([
    ...["restore", "verify", "--json", "--dir", dir],
    ...more,
  ]);
  const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
  const of = (type: string) => lines.filter(({ message_type }) => message_type === type);
  return { code, stderr, damages: of("damage"), verified: of("verified"), error: of("error")[0] };
}

Deno.test("restore verify begins with the digests of a chain of the Python tool, and our rebase keeps them in step", async () => {
  await using dir = await tempDir();
  const { target, disk } = await pythonTarget(dir);
  const first = await verifyJson(dir.join("backup"));
  assertEquals([first.code, first.verified[0].target, first.verified[0].recorded], [0, target, 2]);
  for (const name of [target, disk]) {
    const { code, verified } = await verifyJson(name);
    assertEquals([code, verified[0].recorded], [0, 0]);
  }
  // In the first part, which the rebase changes, and in the second, which it does not.
  for (const offset of [6 * MIB, 18 * MIB]) {
    await flip(join(disk, INC), offset);
    const { code, damages } = await verifyJson(target);
    assertEquals([code, damages.map(({ file }) => file)], [1, [`disk0/${INC}`]]);
    assertEquals(damages[0].spoiled, [`disk0/${INC}`]);
    assertEquals(damages[0].intact, [`disk0/${FULL}`]);
    if (offset < 16 * MIB) await flip(join(disk, INC), offset);
  }
  assertEquals((await tool(["restore", "rebase", "--dir", disk])).code, 0);
  const still = await verifyJson(target);
  assertEquals(still.damages.map(({ range }) => range.offset), [16 * MIB]);
  await flip(join(disk, INC), 18 * MIB);
  assertEquals((await verifyJson(target)).damages, []);
  assertEquals((await tool(["restore", "commit", "--dir", disk])).code, 0);
  assertEquals((await verifyJson(target)).damages, []);
  assertEquals(await readDigests(deadline, target, `disk0/${INC}`), null);
});

Deno.test("restore verify finds what is missing of a linked chain, and a flipped bit in a raw image", async () => {
  await using dir = await tempDir();
  const { target, disk } = await pythonTarget(dir);
  const last = "INC-1700000200-a.qcow2";
  await create(join(disk, last), 64 * MIB, { backing: INC });
  const raw = join(target, "raw");
  await Deno.mkdir(raw);
  await Deno.writeTextFile(join(target, "b.raw.config"), '{"format": "raw"}');
  await Deno.writeFile(join(raw, "FULL-1700000000-b.raw"), new Uint8Array(MIB));
  assertEquals((await verifyJson(target)).code, 0);
  await flip(join(raw, "FULL-1700000000-b.raw"), 5000);
  await Deno.remove(join(disk, INC));
  const { code, damages } = await verifyJson(target);
  assertEquals([code, damages.map(({ file }) => basename(file))], [1, [
    last,
    "FULL-1700000000-b.raw",
  ]]);
  assertStringIncludes(damages[0].reason, `is linked to "${join(disk, INC)}", but builds on`);
});

Deno.test("restore verify reads a share each day, and in so many days everything", async () => {
  await using dir = await tempDir();
  const { target, disk } = await pythonTarget(dir);
  const { signal } = new AbortController();
  const night = async (day: number) => {
    const [backups] = await findBackups(deadline, target);
    const { result } = await verify(backups!, {
      ...{ deadline, signal, day, toolVersion: "1", keyFile: null, onProgress: () => {} },
      subset: { numerator: 1, denominator: 3 },
    });
    return result;
  };
  const nights = [await night(7), await night(8), await night(9)];
  assertEquals(nights.reduce((sum, { recorded }) => sum + recorded, 0), 2);
  for (const offset of [6 * MIB, 18 * MIB]) await flip(join(disk, INC), offset);
  const found = [await night(11), await night(12), await night(13)].map(({ damages }) =>
    damages.map(({ range }) => range?.offset)
  );
  assertEquals(new Set(found.flat()), new Set([0, 16 * MIB]));
});

Deno.test("restore verify says when its result can't be stored, and goes on", async () => {
  await using dir = await tempDir();
  const { target } = await pythonTarget(dir);
  // As good as a read-only file system, which root can't be kept out of otherwise.
  await Deno.mkdir(join(target, "_qmpbackup"));
  for (const name of ["digests", "verified"]) {
    await Deno.writeTextFile(join(target, "_qmpbackup", name), "");
  }
  const { code, stderr, verified } = await verifyJson(target);
  assertEquals([code, verified[0].stored, verified[0].recorded], [0, false, 0]);
  assertStringIncludes(stderr, `The result could not be stored in ${target}`);
  assertStringIncludes(stderr, "could not be recorded");
});

Deno.test("restore verify writes nothing where others could exchange its files", async () => {
  await using dir = await tempDir();
  const { target } = await pythonTarget(dir);
  await Deno.chown(target, 54321, 54321);
  const { code, stderr, verified } = await verifyJson(target);
  assertEquals([code, verified[0].stored, verified[0].recorded], [0, false, 0]);
  assertEquals(verified[0].warnings.length, 1);
  assertStringIncludes(stderr, `No digests are recorded: "${target}" belongs to the user 54321`);
  assertEquals(await names(target), ["a.qcow2.config", "disk0", "uuid"]);
});

Deno.test("restore verify refuses what holds no backups, and a share that is none", async () => {
  await using dir = await tempDir();
  for (const name of ["nowhere", "."]) {
    assertEquals((await verifyJson(dir.join(name))).code, 2);
  }
  await pythonTarget(dir);
  const { code, error } = await verifyJson(dir.path, "--subset", "8/7");
  assertEquals([code, error.message], [
    2,
    '--subset takes a share such as 10% or 1/7, not "8/7"',
  ]);
});

Deno.test("restore verify does not take old digests for those of an image that was replaced by a later one of its name", async () => {
  await using dir = await tempDir();
  const { target, disk } = await pythonTarget(dir);
  await verifyJson(target);
  const file = digestsFile(target, `disk0/${INC}`);
  await Deno.copyFile(digestsFile(target, `disk0/${FULL}`), file);
  const { damages } = await verifyJson(disk);
  assertEquals(damages.map(({ file }) => basename(file)), [`${INC}.json`]);
  assertStringIncludes(damages[0].reason, "to another image");
});

/** Mounts a copy of a file on itself, of which a sector can't be read, until disposed. */
async function badSector(path: string, offset: number): Promise<AsyncDisposable> {
  await Deno.copyFile(path, `${path}.below`);
  const image = { driver: "file", filename: `${path}.below` };
  const error = { event: "none", iotype: "read", sector: offset / 512, errno: 5 };
  const file = { driver: "blkdebug", image, "inject-error": [error] };
  const { dev } = await Deno.stat(path);
  const daemon = new Deno.Command("qemu-storage-daemon", {
    args: [
      ...["--blockdev", JSON.stringify({ driver: "raw", "node-name": "bad", file })],
      ...["--export", `type=fuse,id=bad,node-name=bad,mountpoint=${path}`],
    ],
    stdin: "null",
  }).spawn();
  await until(async () => (await Deno.stat(path)).dev !== dev);
  return {
    async [Symbol.asyncDispose]() {
      daemon.kill("SIGTERM");
      await daemon.status;
    },
  };
}

Deno.test("restore verify names the range that can't be read any more, and goes on", async () => {
  await using dir = await tempDir();
  const { target, disk } = await pythonTarget(dir);
  await verifyJson(target);
  const path = join(disk, INC);
  await using _bad = await badSector(path, 18 * MIB);
  await Deno.rename(`${path}.below`, join(dir.path, "below"));
  const { code, damages } = await verifyJson(target);
  assertEquals([code, damages.length], [1, 1]);
  const { file, range, reason, intact } = damages[0];
  assertEquals([file, range.offset, intact], [`disk0/${INC}`, 16 * MIB, [`disk0/${FULL}`]]);
  assertStringIncludes(reason, "can't be read: Input/output error");
});
