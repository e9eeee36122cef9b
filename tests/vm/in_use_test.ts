/** Another program's job or export on a disk: it is named, and the other disks are backed up. */

import { assertEquals, assertMatch } from "@std/assert";
import { compare } from "../support/qemu_img.ts";
import { assertNothingLeft, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

Deno.test("a job that keeps a disk from being backed up is named, and the other disk is done", async () => {
  await using s = await scene();
  const overlay = s.dir.join("overlay.qcow2");
  await s.vm.execute("blockdev-snapshot-sync", {
    "node-name": "disk0",
    "snapshot-file": overlay,
    "snapshot-node-name": "overlay0",
  });
  await s.vm.write("vd0", 0x31, 0, 8 * MIB);
  await s.vm.execute("block-commit", { "job-id": "merging", device: "overlay0", speed: 1 });
  await s.vm.snapshotContents("vd1", s.dir.join("vd1.raw"));
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /The disk "overlay0" can't be backed up now: another program's job "merging" \(commit\) is at work on it: wait for its end, or end it \(QMP command job-cancel\)\. Then run again \(QEMU: /,
  );
  const out = s.dir.join("disk1.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/disk1`, "--targetfile", out]);
  await compare(s.dir.join("vd1.raw"), "raw", out, "qcow2");
  // The job was left alone, and so was the disk.
  const jobs = await s.vm.execute("query-jobs") as { id: string; status: string }[];
  assertEquals(jobs.map(({ id }) => id), ["merging"]);
  await s.vm.execute("job-cancel", { id: "merging" });
  await succeed(s.backupArgs("auto"));
  const restored = s.dir.join("disk0.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/overlay0`, "--targetfile", restored]);
  await s.vm.flush("vd0");
  await compare(overlay, "qcow2", restored, "qcow2");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("an export that lets others write to a disk is named", async () => {
  await using s = await scene({ disks: 1, vm: { qemuArgs: ["-device", "virtio-scsi-pci"] } });
  const path = s.dir.join("shared.qcow2");
  const disk = { id: "sd1", node: "shared", path, format: "qcow2", sizeBytes: 8 * MIB } as const;
  await s.vm.addDisk({ ...disk, driver: "scsi-hd", shareRw: true });
  await s.vm.write("sd1", 0x32, 0, MIB);
  const addr = { type: "unix", data: { path: s.dir.join("nbd") } };
  await s.vm.execute("nbd-server-start", { addr });
  const nbd = { type: "nbd", id: "tenant", "node-name": "shared", writable: true };
  await s.vm.execute("block-export-add", nbd);
  await s.remember("full");
  const { code, stderr } = await tool(s.backupArgs("full"));
  assertEquals(code, 1);
  assertMatch(
    stderr,
    /The disk "shared" can't be backed up now: the export "tenant" \(nbd\) lets others write to its node "shared": remove it \(QMP command block-export-del\)/,
  );
  const disk0 = s.dir.join("disk0.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/disk0`, "--targetfile", disk0]);
  await compare(s.dir.join("full.vd0.raw"), "raw", disk0, "qcow2");
  const exports = await s.vm.execute("query-block-exports") as { id: string }[];
  assertEquals(exports.map(({ id }) => id), ["tenant"]);
  await s.vm.execute("block-export-del", { id: "tenant" });
  await succeed(s.backupArgs("auto"));
  await s.vm.snapshotContents("sd1", s.dir.join("sd1.raw"));
  const out = s.dir.join("shared.out");
  await succeed(["restore", "merge", "--dir", `${s.target}/shared`, "--targetfile", out]);
  await compare(s.dir.join("sd1.raw"), "raw", out, "qcow2");
});
