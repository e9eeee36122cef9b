import { assertEquals, assertNotMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { decode, run } from "../support/deb_packages.ts";
import { type LinuxGuest, startLinuxGuest } from "../support/linux_guest.ts";
import { convertToRaw } from "../support/qemu_img.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import type { DiskSpec } from "../support/vm.ts";

const MIB = 1 << 20;

Deno.test("LinuxGuest.exec() returns what a program in the guest said and how it ended", async () => {
  await using dir = await tempDir();
  await using guest = await startLinuxGuest({ dir: dir.path, disks: [] });

  const script = 'echo "out: $1"; cat; echo err >&2; exit 3';
  const result = await guest.exec(["sh", "-c", script, "sh", "ä b"], "in\n");
  assertEquals(result, { code: 3, stdout: "out: ä b\nin\n", stderr: "err\n" });
  assertEquals((await guest.exec(["sh", "-c", "kill -9 $$"])).code, 128 + 9);

  // They take turns: the agent serves one at a time.
  const answers = await Promise.all([1, 2, 3].map((n) => guest.exec(["echo", String(n)])));
  assertEquals(answers.map(({ stdout }) => stdout), ["1\n", "2\n", "3\n"]);
  await assertRejects(() => guest.agent("guest-nonsense"), Error, "guest-nonsense");
});

Deno.test("LinuxGuest keeps what is not synced off the disks, until it is frozen", async () => {
  await using dir = await tempDir();
  const disks = twoDisks(dir);
  await using guest = await startLinuxGuest({ dir: dir.path, disks });
  for (const { node } of disks) {
    await guest.writeFile(`/mnt/${node}/synced`, `synced on ${node}`, { sync: true });
    await guest.writeFile(`/mnt/${node}/kept`, `kept on ${node}`);
  }
  for (const disk of disks) {
    const copy = await rawCopy(disk, dir);
    assertStringIncludes(await check(copy), "skipping journal recovery");
    await run("debugfs", ["-w", "-R", "journal_run", copy]);
    assertEquals(await readFromImage(copy, "/synced"), `synced on ${disk.node}`);
    assertEquals(await readFromImage(copy, "/kept"), "");
  }

  assertEquals(await guest.freezeStatus(), "thawed");
  assertEquals(await guest.agent("guest-fsfreeze-freeze"), disks.length);
  assertEquals(await guest.freezeStatus(), "frozen");
  await assertRejects(() => guest.exec(["true"]), Error, "guest-exec");
  for (const disk of disks) {
    const copy = await rawCopy(disk, dir);
    assertNotMatch(await check(copy), /recovery/);
    assertEquals(await readFromImage(copy, "/kept"), `kept on ${disk.node}`);
  }
  assertEquals(await guest.agent("guest-fsfreeze-thaw"), disks.length);
  assertEquals(await guest.freezeStatus(), "thawed");
  await guest.writeFile("/mnt/disk0/after", "it writes again", { sync: true });
});

Deno.test("startLinuxGuest() mounts what a guest before it has left, and formats nothing else", async () => {
  await using dir = await tempDir();
  const disks = twoDisks(dir);
  {
    await using guest = await startLinuxGuest({ dir: dir.path, disks });
    await guest.writeFile("/mnt/disk1/file", "still there", { sync: true });
  }
  {
    await using guest = await startLinuxGuest({ dir: dir.path, disks });
    assertEquals(await cat(guest, "/mnt/disk1/file"), "still there");
    await guest.exec(["umount", "/mnt/disk1"]);
    await guest.vm.write("vd1", 0xee, 0, 64 * 1024);
  }
  await assertRejects(
    () => startLinuxGuest({ dir: dir.path, disks }),
    Error,
    "Invalid argument",
  );
});

Deno.test("startLinuxGuest() throws with the last words of a kernel that panics", async () => {
  await using dir = await tempDir();
  const qemuArgs = ["-append", "console=ttyS0 panic=-1 rdinit=/none init=/none"];
  await assertRejects(
    () => startLinuxGuest({ dir: dir.path, disks: [], qemuArgs }),
    Error,
    "Kernel panic",
  );
});

function twoDisks(dir: TempDir): DiskSpec[] {
  return (["qcow2", "raw"] as const).map((format, i) => ({
    id: `vd${i}`,
    node: `disk${i}`,
    path: dir.join(`disk${i}.${format}`),
    format,
    sizeBytes: 64 * MIB,
  }));
}

async function rawCopy({ node, path, format }: DiskSpec, dir: TempDir): Promise<string> {
  const copy = dir.join(`${node}.copy`);
  await convertToRaw(path, format, copy);
  return copy;
}

/** Checks the file system in an image, throws if it has errors, and returns what was said. */
async function check(image: string): Promise<string> {
  return decode(await run("e2fsck", ["-fn", image]));
}

/** What a file in an image holds, without mounting it; nothing if there's no such file. */
async function readFromImage(image: string, path: string): Promise<string> {
  return decode(await run("debugfs", ["-R", `cat ${path}`, image]));
}

async function cat(guest: LinuxGuest, path: string): Promise<string> {
  return (await guest.exec(["cat", path])).stdout;
}
