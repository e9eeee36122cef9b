import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { ensurePrograms } from "../support/install_qemu.ts";
import { startLinuxGuest } from "../support/linux_guest.ts";
import { create } from "../support/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed } from "../support/tool.ts";

await ensurePrograms({
  "qemu-storage-daemon": "qemu-system-common",
  "/usr/sbin/debugfs": "e2fsprogs",
});

Deno.test("a Linux is booted from a full backup and three increments, and its files are read", async (t) => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const path = dir.join("disk0.qcow2");
  await create(path, 64 << 20);
  {
    const disks = [{ id: "vd0", node: "disk0", path, format: "qcow2" as const }];
    await using guest = await startLinuxGuest({ dir: dir.path, disks });
    const backup = ["backup", "--socket", guest.vm.socket, "--target", target, "--level"];
    for (const level of ["full", "inc", "inc", "inc"]) {
      await guest.writeFile("/mnt/disk0/level", `${level} ${crypto.randomUUID()}`, { sync: true });
      await succeed([...backup, level]);
    }
    // In the journal only: that is what a backup of a running guest holds.
    await guest.writeFile("/mnt/disk0/last", "the last", { sync: true });
    await succeed([...backup, "inc"]);
  }

  await t.step("by `restore test`, with the kernel that the record names", async () => {
    const test = ["restore", "test", "--dir", target, "--accel", "tcg"];
    const { stdout } = await succeed([...test, "--json"]);
    const { state, waitedFor, runId } = JSON.parse(stdout);
    assertEquals([state, waitedFor], ["booted", "agent"]);
    assert(runId);
    const listed = await succeed(["list", "--dir", target]);
    assertStringIncludes(listed.stdout, "boots: the guest agent answered after");
  });

  await t.step("by `restore files`, whose journal is replayed", async () => {
    const out = dir.join("out");
    const files = ["restore", "files", "--dir", `${target}/disk0`];
    await succeed([...files, "--copy", "/0/last", "--target-dir", out]);
    assertEquals(await Deno.readTextFile(`${out}/last`), "the last");
  });
});
