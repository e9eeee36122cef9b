import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { compare, create, qemuImg, qemuIo } from "../support/qemu_img.ts";
import { assertNothingLeft, filesOf, scene, untilSwitched } from "../support/scene.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { startVm, type Vm } from "../support/vm.ts";

const MIB = 1 << 20;

interface Kind {
  /** The folder we expect, and what `qemu-io -d` calls the device. */
  folder: string;
  qdev: string;
  path: string;
  /** What `qemu-img convert` reads the disk's contents by. */
  source: string[];
}

/** One disk of every kind. */
async function everyKind(dir: TempDir): Promise<{ kinds: Kind[]; qemuArgs: string[] }> {
  const path = (name: string) => dir.join(name);
  const plain = ["scsi", "ide", "virtio", "nvme", "usb", "throttled", "twin", "threaded"];
  // "threaded" has its writes done in an I/O thread of its own.
  for (const name of plain) await create(path(`${name}.qcow2`), 8 * MIB);
  await Deno.mkdir(path("other"));
  await create(path("other/twin.qcow2"), 8 * MIB);
  await create(path("base.qcow2"), 8 * MIB);
  await qemuIo(path("base.qcow2"), "qcow2", "write -P 0x33 1M 2M");
  await create(path("overlay.qcow2"), 8 * MIB, {
    backing: path("base.qcow2"),
    options: ["backing_fmt=qcow2"],
  });
  await create(path("external.qcow2"), 8 * MIB, {
    options: [`data_file=${path("external.data")}`],
  });
  await create(path("odd.qcow2"), 5 * MIB + 512, { options: ["cluster_size=4096"] });
  await create(path("large.qcow2"), 8 * MIB, { options: ["cluster_size=2M,lazy_refcounts=on"] });
  await create(path("disk.raw"), 8 * MIB, { format: "raw" });
  for (const name of ["code.raw", "vars.raw"]) await create(path(name), MIB, { format: "raw" });
  await create(path("cd.qcow2"), MIB);

  const kind = (folder: string, qdev: string, file = `${folder}.qcow2`): Kind => ({
    folder,
    qdev,
    path: path(file),
    source: file.endsWith(".qcow2") ? ["-f", "qcow2"] : ["-f", "raw"],
  });
  const drive = (id: string, file: string) => `if=none,id=${id},format=qcow2,file=${path(file)}`;
  const node = (name: string, file: string) =>
    `driver=qcow2,node-name=${name},file.driver=file,file.filename=${path(file)}`;
  const virtio = (name: string) => `/machine/peripheral/${name}/virtio-backend`;
  return {
    kinds: [
      kind("scsi", "sd0"),
      kind("ide", "ide0dev"),
      kind("virtio0", "/machine/peripheral-anon/device[0]/virtio-backend", "virtio.qcow2"),
      kind("nvme", "nvme0"),
      kind("usb", "usb0"),
      kind("throttled", virtio("throttled-dev")),
      kind("twin", virtio("twin-dev")),
      kind("twin2", virtio("twin2-dev"), "other/twin.qcow2"),
      kind("threaded", virtio("threaded-dev")),
      kind("overlay", virtio("overlay-dev")),
      kind("external", virtio("external-dev")),
      kind("odd", virtio("odd-dev")),
      kind("large", virtio("large-dev")),
      kind("rawdisk", virtio("rawdisk-dev"), "disk.raw"),
      kind("pflash1", "/machine/system.flash1", "vars.raw"),
    ],
    qemuArgs: [
      ...["-drive", `if=virtio,format=qcow2,file=${path("virtio.qcow2")}`],
      ...["-device", "virtio-scsi-pci,id=scsi0"],
      ...["-drive", drive("scsi", "scsi.qcow2"), "-device", "scsi-hd,drive=scsi,id=sd0"],
      ...["-drive", drive("ide", "ide.qcow2"), "-device", "ide-hd,drive=ide,id=ide0dev"],
      ...["-drive", drive("nvme", "nvme.qcow2"), "-device", "nvme,serial=1,drive=nvme,id=nvme0"],
      ...["-device", "qemu-xhci", "-drive", drive("usb", "usb.qcow2")],
      ...["-device", "usb-storage,drive=usb,id=usb0"],
      ...["-object", "throttle-group,id=slow,x-bps-total=500000000"],
      ...["-blockdev", node("throttled", "throttled.qcow2")],
      ...["-blockdev", "driver=throttle,node-name=brake,throttle-group=slow,file=throttled"],
      ...["-device", "virtio-blk-pci,drive=brake,id=throttled-dev"],
      ...["twin", "overlay", "external", "odd", "large"].flatMap((name) => [
        ...["-blockdev", node(name, `${name}.qcow2`)],
        ...["-device", `virtio-blk-pci,drive=${name},id=${name}-dev`],
      ]),
      ...["-object", "iothread,id=io0", "-blockdev", node("threaded", "threaded.qcow2")],
      ...["-device", "virtio-blk-pci,drive=threaded,id=threaded-dev,iothread=io0"],
      ...["-blockdev", node("twin2", "other/twin.qcow2")],
      ...["-device", "virtio-blk-pci,drive=twin2,id=twin2-dev"],
      "-blockdev",
      `driver=raw,node-name=rawdisk,file.driver=file,file.filename=${path("disk.raw")}`,
      ...["-device", "virtio-blk-pci,drive=rawdisk,id=rawdisk-dev"],
      ...["-drive", `if=pflash,unit=0,readonly=on,format=raw,file=${path("code.raw")}`],
      ...["-drive", `if=pflash,unit=1,format=raw,file=${path("vars.raw")}`],
      ...["-drive", `if=none,id=cd,media=cdrom,file=${path("cd.qcow2")}`],
      ...["-device", "scsi-cd,drive=cd,bus=scsi0.0", "-device", "scsi-cd,id=empty-cd,bus=scsi0.0"],
    ],
  };
}

async function write(vm: Vm, { qdev }: Kind, pattern: number, offset: number, length: number) {
  await vm.execute("human-monitor-command", {
    "command-line": `qemu-io -d ${qdev} "write -P ${pattern} ${offset} ${length}"`,
  });
  await vm.execute("human-monitor-command", { "command-line": `qemu-io -d ${qdev} "flush"` });
}

async function copyContents({ path, source }: Kind, to: string) {
  await qemuImg(["convert", "-U", ...source, "-O", "raw", path, to]);
}

Deno.test("backup takes disks of every kind, and says why it leaves out others", async () => {
  await using dir = await tempDir();
  const { kinds, qemuArgs } = await everyKind(dir);
  await using vm = await startVm({ dir: dir.path, disks: [], qemuArgs });
  const target = dir.join("target");
  const args = (level: string) => [
    ...["backup", "--socket", vm.socket, "--level", level, "--target", target],
    ...["--include-raw", "--json"],
  ];
  for (const [step, level] of ["full", "inc", "inc"].entries()) {
    for (const [i, kind] of kinds.entries()) {
      await write(vm, kind, 16 * (step + 1) + i, step * 300 * 1024 + 512, 100 * 1024);
      await copyContents(kind, dir.join(`${step}.${kind.folder}.raw`));
    }
    const { disks, leftOut } = JSON.parse((await succeed(args(level))).stdout) as {
      disks: { folder: string; level: string }[];
      leftOut: { device: string; reason: string }[];
    };
    assertEquals(disks.map(({ folder }) => folder).sort(), kinds.map((k) => k.folder).sort());
    assertEquals(leftOut.toSorted((a, b) => a.device < b.device ? -1 : 1), [
      { device: "cd", reason: "read-only" },
      { device: "empty-cd", reason: "the drive is empty" },
      { device: "pflash0", reason: "read-only" },
    ]);
    const out = dir.join(`out${step}`);
    await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
    for (const { folder } of kinds) {
      const copy = dir.join(`${step}.${folder}.raw`);
      await compare(copy, "raw", `${out}/${folder}.qcow2`, "qcow2")
        .catch((error) => Promise.reject(new Error(`${folder}, ${level}: ${error.message}`)));
    }
    await Deno.remove(out, { recursive: true });
  }
  await assertNothingLeftAnywhere(vm);
  const configs = (await filesOf(target)).filter((file) => file.includes("twin.qcow2.config"));
  assertEquals(configs, ["twin.twin.qcow2.config", "twin2.twin.qcow2.config"]);
  const { stdout } = await succeed(["info", "--socket", vm.socket, "--show", "blockdev"]);
  for (const { folder } of kinds) assertStringIncludes(stdout, `${folder} `);
});

async function assertNothingLeftAnywhere(vm: Vm) {
  const nodes = await vm.execute("query-named-block-nodes", { flat: true }) as {
    "node-name": string;
  }[];
  assertEquals(nodes.filter((node) => node["node-name"].startsWith("qmpbackup")), []);
}

Deno.test("backup leaves out raw disks unless asked for, by flag or by name", async () => {
  await using dir = await tempDir();
  const path = dir.join("r.raw");
  const raw = { id: "vd0", node: "r", path, format: "raw" as const, sizeBytes: MIB };
  const disk = {
    ...raw,
    id: "vd1",
    node: "q",
    path: dir.join("q.qcow2"),
    format: "qcow2" as const,
  };
  await using vm = await startVm({ dir: dir.path, disks: [raw, disk] });
  const args = ["backup", "--socket", vm.socket, "--target", dir.join("t"), "--json", "--level"];
  const folders = async (...more: string[]) => {
    const { stdout } = await succeed([...args, ...more]);
    return (JSON.parse(stdout) as { disks: { folder: string }[] }).disks.map((d) => d.folder);
  };
  assertEquals(await folders("full"), ["q"]);
  assertEquals(await folders("full", "--include", "r"), ["r"]);
  assertEquals(await folders("auto", "--include-raw"), ["r", "q"]);
  const { code, stdout } = await tool([...args, "full", "--exclude", "q"]);
  assertEquals(code, 2);
  const { message } = JSON.parse(stdout) as { message: string };
  assertStringIncludes(message, '"r" format raw: --include-raw or --include takes it');
});

Deno.test("backup refuses full and inc of a version 2 image with the remedy, and copies it", async () => {
  await using dir = await tempDir();
  const path = dir.join("old.qcow2");
  await create(path, 4 * MIB, { options: ["compat=0.10"] });
  await using vm = await startVm({
    dir: dir.path,
    disks: [{ id: "vd0", node: "old", path, format: "qcow2" }],
  });
  await vm.write("vd0", 0x44, MIB, MIB);
  const args = ["backup", "--socket", vm.socket, "--target", dir.join("t"), "--level"];
  const { code, stderr } = await tool([...args, "full"]);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "qemu-img amend -o compat=1.1");
  await vm.snapshotContents("vd0", dir.join("raw"));
  await succeed([...args, "copy"]);
  const out = dir.join("out");
  await succeed(["restore", "merge", "--dir", dir.join("t"), "--targetfile", out]);
  await compare(dir.join("raw"), "raw", out, "qcow2");
});

Deno.test("backup goes on with increments when a disk has grown, and not when it has shrunk", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  await s.vm.execute("block_resize", { "node-name": "disk0", size: 96 * MIB });
  await s.vm.write("vd0", 0x66, 90 * MIB, MIB);
  await s.remember("grown");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("grown");
  await s.vm.execute("block_resize", { "node-name": "disk0", size: 32 * MIB });
  await s.remember("shrunk");
  const { code, stderr } = await tool(s.backupArgs("inc"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "the disk has shrunk");
  await succeed(s.backupArgs("auto"));
  await s.assertRestores("shrunk");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("backup starts anew where an external snapshot left the bitmap behind", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  const overlay = s.dir.join("overlay.qcow2");
  await s.vm.execute("blockdev-snapshot-sync", {
    "node-name": "disk0",
    "snapshot-file": overlay,
    "snapshot-node-name": "overlay0",
  });
  await s.vm.write("vd0", 0x67, 2 * MIB, MIB);
  const { stderr } = await tool(s.backupArgs("inc"));
  assertStringIncludes(stderr, "is gone");
  const { stdout } = await succeed(s.backupArgs("auto", "--json"));
  const [disk] = (JSON.parse(stdout) as { disks: { level: string; folder: string }[] }).disks;
  // The disk keeps its folder, whatever its node is called now.
  assertEquals(disk, { ...disk, level: "full", folder: "disk0" } as typeof disk);
  await s.vm.flush("vd0");
  const out = s.dir.join("out");
  await succeed(["restore", "merge", "--dir", `${s.target}/disk0`, "--targetfile", out]);
  await compare(overlay, "qcow2", out, "qcow2");
});

Deno.test("backup of a disk with large clusters holds what the guest overwrites of one meanwhile", async () => {
  await using dir = await tempDir();
  const path = dir.join("large.qcow2");
  await create(path, 64 * MIB, { options: ["cluster_size=2M"] });
  await using vm = await startVm({
    dir: dir.path,
    disks: [{ id: "vd0", node: "large", path, format: "qcow2" }],
  });
  await vm.write("vd0", 0x33, 0, 48 * MIB);
  await vm.snapshotContents("vd0", dir.join("raw"));
  const running = succeed([
    ...["backup", "--socket", vm.socket, "--target", dir.join("t"), "--level", "full"],
    ...["--speed-limit", String(16 * MIB)],
  ]);
  await untilSwitched(vm);
  await vm.write("vd0", 0x44, 40 * MIB, 65536);
  await vm.zero("vd0", 42 * MIB, 65536);
  await vm.discard("vd0", 44 * MIB, 2 * MIB);
  await vm.write("vd0", 0x45, 47 * MIB, 65536);
  await running;
  const out = dir.join("out");
  await succeed(["restore", "merge", "--dir", dir.join("t/large"), "--targetfile", out]);
  await compare(dir.join("raw"), "raw", out, "qcow2");
});

Deno.test("a disk that others may write to is never in an increment by its bitmap", async () => {
  await using s = await scene({ disks: 1 });
  const path = s.dir.join("shared.raw");
  await create(path, 8 * MIB, { format: "raw" });
  const node = { driver: "raw", "node-name": "shared", file: { driver: "file", filename: path } };
  await s.vm.execute("blockdev-add", node);
  const device = { driver: "virtio-blk-pci", id: "vds", drive: "shared", "share-rw": true };
  await s.vm.execute("device_add", device);
  await succeed(s.backupArgs("full", "--include-raw"));
  const { code, stderr } = await tool(s.backupArgs("inc", "--include-raw"));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "others may write to it, too (share-rw=on)");
  const { stdout } = await succeed(s.backupArgs("auto", "--include-raw"));
  assertMatch(stdout, /disk0 +inc +done/);
  assertMatch(stdout, /shared +full +done/);
});
