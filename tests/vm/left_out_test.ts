/** What is not in a backup is named, and a warning where nobody asked to leave it out. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ensurePrograms } from "../support/install_qemu.ts";
import { compare, create } from "../support/qemu_img.ts";
import { type Scene, scene, until } from "../support/scene.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

await ensurePrograms({ "qemu-storage-daemon": "qemu-utils" });

interface Result {
  disks: { name: string }[];
  leftOut: { device: string; reason: string; unasked?: boolean }[];
  warnings: string[];
}

/** Runs a backup under `--strict`, and checks that its exit code is 3 if and only if there are warnings. */
async function backUp(s: Scene, level: string, ...more: string[]): Promise<Result> {
  const { code, stdout, stderr } = await tool(s.backupArgs(level, "--strict", "--json", ...more));
  const result = JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Result;
  assertEquals(code, result.warnings.length > 0 ? 3 : 0, stderr + stdout);
  return result;
}

const unaskedOf = ({ leftOut }: Result) =>
  leftOut.filter(({ unasked }) => unasked).map(({ device }) => device).sort();

async function addRawDisk(s: Scene) {
  const path = s.dir.join("r.raw");
  const disk = { id: "vr", node: "rawdisk", path, format: "raw", sizeBytes: 4 * MIB } as const;
  await s.vm.addDisk(disk);
  await s.vm.write("vr", 0x77, 0, MIB);
}

async function metric(s: Scene, name: string): Promise<string | undefined> {
  const text = await Deno.readTextFile(s.dir.join("vm.prom"));
  return new RegExp(`^${name}\\{vm="testvm"\\} (.*)$`, "m").exec(text)?.[1];
}

Deno.test("a raw disk that nobody asked for is a warning with what to do, and a metric", async () => {
  await using s = await scene({ disks: 1 });
  await addRawDisk(s);
  const metrics = ["--metrics-file", s.dir.join("vm.prom")];
  await s.remember("full");
  const full = await backUp(s, "full", ...metrics);
  assertEquals(full.disks.map(({ name }) => name), ["disk0"]);
  assertEquals(unaskedOf(full), ["rawdisk"]);
  assertEquals(full.warnings, [
    '"rawdisk" is not in this backup: format raw: --include-raw or --include takes it. ' +
    "If that is intended, say so with --exclude rawdisk",
  ]);
  assertEquals(await metric(s, "qmpbackup_disks_left_out"), "1");
  await s.assertRestores("full");
  for (const choice of [["--exclude", "rawdisk"], ["--include", "disk0"], ["--include-raw"]]) {
    const { warnings } = await backUp(s, "auto", ...metrics, ...choice);
    assertEquals(warnings, []);
    assertEquals(await metric(s, "qmpbackup_disks_left_out"), "0");
  }
  // The last one had it.
  const out = s.dir.join("raw.out");
  await s.vm.snapshotContents("vr", s.dir.join("vr.raw"));
  await succeed(["restore", "merge", "--dir", `${s.target}/rawdisk`, "--targetfile", out]);
  await compare(s.dir.join("vr.raw"), "raw", out, "qcow2");
});

Deno.test("a disk that was in the last run and is not in this one is a warning, once", async () => {
  await using s = await scene({
    disks: 1,
    vm: { running: true, qemuArgs: ["-device", "virtio-scsi-pci,id=scsi"] },
  });
  const path = s.dir.join("disk1.qcow2");
  const disk = { id: "sd1", node: "disk1", path, format: "qcow2", sizeBytes: 8 * MIB } as const;
  await s.vm.addDisk({ ...disk, driver: "scsi-hd" });
  assertEquals((await backUp(s, "full")).warnings, []);
  await s.vm.execute("device_del", { id: "sd1" });
  await until(async () => (await s.vm.execute("query-block") as unknown[]).length === 1);
  // It is not what a run of one disk alone is about.
  assertEquals((await backUp(s, "inc", "--include", "disk0")).warnings, []);
  assertEquals((await backUp(s, "inc", "--exclude", "disk1")).warnings, []);
  const inc = await backUp(s, "inc");
  assertEquals(unaskedOf(inc), ["disk1"]);
  assertEquals(inc.warnings, [
    '"disk1" is not in this backup: it was in the last backup, but the VM does not have this disk any ' +
    "more. If that is intended, say so with --exclude disk1",
  ]);
  assertEquals((await backUp(s, "inc")).warnings, []);
});

interface Outside extends AsyncDisposable {
  qemuArgs: string[];
}

/** Devices of this QEMU that its block layer does not know, with what they need. */
async function outside(dir: TempDir): Promise<Outside> {
  const [disk, socket] = [dir.join("vhost.raw"), dir.join("vhost.sock")];
  for (const name of ["vhost", "pmem", "nvdimm"]) {
    await create(dir.join(`${name}.raw`), 32 * MIB, { format: "raw" });
  }
  await Deno.mkdir(dir.join("share"));
  const daemon = new Deno.Command("qemu-storage-daemon", {
    args: [
      ...["--blockdev", `driver=file,filename=${disk},node-name=file`],
      ...["--blockdev", "driver=raw,file=file,node-name=disk"],
      "--export",
      `vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket},writable=on`,
    ],
    stdin: "null",
  }).spawn();
  await until(() => Deno.lstat(socket).then(() => true, () => false));
  const file = (name: string) =>
    `memory-backend-file,id=${name},share=on,size=32M,mem-path=${dir.join(`${name}.raw`)}`;
  return {
    qemuArgs: [
      ...["-machine", "q35,nvdimm=on", "-m", "64,slots=2,maxmem=1G"],
      ...["-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-numa", "node,memdev=mem"],
      ...["-chardev", `socket,id=vhost,path=${socket}`],
      ...["-device", "vhost-user-blk-pci,chardev=vhost,id=vub"],
      ...["-object", file("pmem"), "-device", "virtio-pmem-pci,memdev=pmem,id=pm0"],
      ...["-object", file("nvdimm"), "-device", "nvdimm,memdev=nvdimm,id=nv0"],
      ...["-fsdev", `local,id=share,path=${dir.join("share")},security_model=none`],
      ...["-device", "virtio-9p-pci,fsdev=share,mount_tag=a,id=share0"],
      ...["-device", "virtio-9p-pci,fsdev=share,mount_tag=b"],
      ...["-device", "virtio-scsi-pci,id=scsi", "-device", "scsi-cd,id=cd0,bus=scsi.0"],
    ],
    async [Symbol.asyncDispose]() {
      daemon.kill();
      await daemon.status;
    },
  };
}

Deno.test("devices that may hold data and that query-block does not know are named, and warnings", async () => {
  await using dir = await tempDir();
  await using devices = await outside(dir);
  await using s = await scene({ disks: 1, vm: { qemuArgs: devices.qemuArgs } });
  await s.remember("full");
  const full = await backUp(s, "full");
  const anonymous = "/machine/peripheral-anon/device[0]";
  const names = [anonymous, "nv0", "pm0", "share0", "vub"];
  assertEquals(unaskedOf(full), names);
  assertEquals(full.warnings.length, names.length);
  const reasonOf = (name: string) =>
    full.leftOut.find(({ device }) => device === name)?.reason ?? "";
  assertMatch(
    reasonOf("vub"),
    /^a vhost-user-blk-pci, whose disk another process than QEMU serves/,
  );
  assertMatch(reasonOf("nv0"), /^an nvdimm, memory that is kept in a file of the host/);
  assertMatch(reasonOf(anonymous), /^a virtio-9p-pci, a shared folder of the host/);
  // As ever: no loss.
  assertEquals(reasonOf("cd0"), "the drive is empty");
  const inc = await backUp(s, "inc", "--exclude", "nv0,pm0,share0,vub", "--exclude", anonymous);
  assertEquals([inc.warnings, unaskedOf(inc)], [[], []]);
  assertEquals(inc.leftOut.length, names.length + 1);
  await s.assertRestores("full");
  const { stdout } = await succeed(["info", "--socket", s.vm.socket, "--show", "blockdev"]);
  for (const name of names) assertStringIncludes(stdout, `No disk to back up: ${name}, a`);
  const { code, stderr } = await tool(s.backupArgs("inc", "--include", "vub"));
  assertEquals(code, 2);
  assertStringIncludes(stderr, `"vub" can't be backed up: a vhost-user-blk-pci`);
});

Deno.test("a VM whose disks are all read-only is told just that", async () => {
  await using s = await scene({ disks: 1 });
  const path = s.dir.join("ro.qcow2");
  await create(path, MIB);
  const file = { driver: "file", filename: path };
  const add = { driver: "qcow2", "node-name": "ro0", "read-only": true, file };
  await s.vm.execute("blockdev-add", add);
  await s.vm.execute("device_add", { driver: "virtio-blk-pci", id: "vro", drive: "ro0" });
  const { code, stderr } = await tool(s.backupArgs("full", "--exclude", "disk0"));
  assertEquals(code, 2);
  assertMatch(stderr, /No disk is left to back up: "disk0" named by --exclude; "ro0" read-only\n/);
  await using vm = await scene({ disks: 0, vm: { qemuArgs: readOnlyDisk(path), name: "ro" } });
  const all = await tool(vm.backupArgs("full"));
  assertEquals(all.code, 2);
  assertStringIncludes(
    all.stderr,
    'All disks of the VM are read-only, and there is nothing to back up: "ro1" read-only',
  );
  assert(!await Deno.lstat(vm.target).then(() => true, () => false), "a folder was made");
});

function readOnlyDisk(path: string): string[] {
  const node = { driver: "qcow2", "node-name": "ro1", "read-only": true };
  const file = { driver: "file", filename: path };
  return [
    ...["-blockdev", JSON.stringify({ ...node, file })],
    ...["-device", "virtio-blk-pci,id=vro,drive=ro1"],
  ];
}

Deno.test("--level copy to a folder of its own does not ask for a file system", async () => {
  await using s = await scene({ disks: 1 });
  await backUp(s, "full");
  await s.remember("copy");
  const other = s.dir.join("copies");
  const args = s.backupArgs("copy", "--strict").map((word) => word === s.target ? other : word);
  const { code, stdout } = await tool(args);
  assertEquals(code, 0, stdout);
  const out = s.dir.join("copy.out");
  await succeed(["restore", "merge", "--dir", other, "--targetfile", out]);
  await compare(s.dir.join("copy.vd0.raw"), "raw", out, "qcow2");
});
