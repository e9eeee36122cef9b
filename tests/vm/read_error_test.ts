/** Which storage failed, a disk's own, that of the fleece or the target's, is told apart. */

import { assertEquals, assertMatch, assertNotMatch } from "@std/assert";
import { mountThin } from "../support/bad_fs.ts";
import { fullThenChanges, nextHoldsAll, type Run, runsOf } from "../support/next_run.ts";
import { compare, create } from "../support/qemu_img.ts";
import { leftInQemu, type Scene, scene, setSpeed, untilCopying } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;
const SLOW = ["--speed-limit", String(MIB)];
/** ENODATA: what Linux says of a bad sector, and nothing else here does. */
const BAD_SECTOR = 61;

/** Plugs in a raw disk of 64 MiB with data, on which one sector can't be read. */
async function plugBadDisk({ vm, dir }: Scene, offset: number) {
  const filename = dir.join("bad.raw");
  await create(filename, 64 * MIB, { format: "raw" });
  await vm.execute("blockdev-add", {
    driver: "raw",
    "node-name": "bad",
    file: {
      driver: "blkdebug",
      image: { driver: "file", filename },
      "inject-error": [{
        event: "none",
        iotype: "read",
        errno: BAD_SECTOR,
        sector: offset / 512,
        once: false,
      }],
    },
  });
  await vm.execute("device_add", { driver: "virtio-blk-pci", drive: "bad", id: "bad" });
  await vm.write("bad", 0x44, 0, 48 * MIB);
}

async function lastRow(s: Scene, name: string): Promise<Run["disks"][number]> {
  const rows = (await runsOf(s)).at(-1)?.disks ?? [];
  const row = rows.find(({ file }) => file.startsWith(`${name}/`));
  if (!row) throw new Error(`No row of ${name}`);
  return row;
}

for (const level of ["full", "copy"]) {
  Deno.test(`a sector of a disk that can't be read is told as that, with the system's words (${level})`, async () => {
    await using s = await scene({ disks: 1, vm: { running: true } });
    await plugBadDisk(s, 20 * MIB + 512);
    await s.remember("now");
    const { code, stderr } = await tool(s.backupArgs(level, "--include-raw"));
    assertEquals(code, 1, stderr);
    const { result, error } = await lastRow(s, "bad");
    assertEquals(result, "failed");
    assertMatch(
      error ?? "",
      /^The disk "bad" can't be read: No data available\. Check its storage, ".*bad\.raw/,
    );
    assertNotMatch(error ?? "", /could not be (copied|kept|written)/);
    assertEquals((await lastRow(s, "disk0")).result, "done");
    assertEquals(await leftInQemu(s.vm), []);
    if (level === "full") await restoreDisk0(s, "now");
  });
}

async function restoreDisk0(s: Scene, moment: string) {
  const out = s.dir.join("disk0.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/disk0`, "--targetfile", out]);
  await compare(s.dir.join(`${moment}.vd0.raw`), "raw", out, "qcow2");
}

Deno.test("a fleece whose storage fails is told as that, and not as the disk's or the target's", async () => {
  await using s = await scene({ vm: { running: true } });
  await using fleece = await mountThin(s.dir.join("fleece"), 96 * MIB);
  await fullThenChanges(s);
  const running = ended(
    startTool(s.backupArgs("inc", ...SLOW, "--fleece-dir", s.dir.join("fleece"))),
  );
  await untilCopying(s.vm);
  await fleece.setReadOnly();
  for (let i = 0; i < 6; i++) await s.vm.write("vd0", 0x53, i * 2 * MIB, 2 * MIB);
  await setSpeed(s.vm);
  const { code, stderr } = await running;
  assertEquals(code, 1, stderr);
  const { error } = await lastRow(s, "disk0");
  assertMatch(
    error ?? "",
    /what the guest overwrote .*could not be kept in ".*\/fleece\/.*fleece"/,
  );
  assertNotMatch(error ?? "", /can't be read|could not be written/);
  await fleece.comeBack();
  await nextHoldsAll(s);
});

Deno.test("a target whose storage fails is told as that, and not as the disk's", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountThin(s.target, 96 * MIB);
  await fullThenChanges(s);
  const running = ended(startTool(s.backupArgs("inc", ...SLOW)));
  await untilCopying(s.vm);
  await target.setReadOnly();
  await setSpeed(s.vm);
  const { stderr } = await running;
  assertMatch(
    stderr,
    /"disk0" could not be copied to ".*\/target\/disk0\/INC-.*": Read-only file system\. The target could not be written: check its storage/,
  );
  assertNotMatch(stderr, /can't be read/);
  await target.comeBack();
  await nextHoldsAll(s);
});
