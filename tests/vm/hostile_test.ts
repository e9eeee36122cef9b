/**
 * Names that a shell, a terminal, QEMU or a path would obey: of disks, of targets, of the reference's
 * images. Everything is backed up and restored, and nothing appears anywhere else.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { basename, dirname, join, relative } from "@std/path";
import { compare, convertToRaw, create, info, qemuImg } from "../support/qemu_img.ts";
import {
  assertNothingLeft,
  assertPlainConvert,
  filesOf,
  scene,
  until,
  untilJobs,
} from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { type DiskSpec, startVm, type Vm } from "../support/vm.ts";

const MIB = 1 << 20;
const DISK_BYTES = 4 * MIB;

/** Every path below a folder, sorted. */
async function treeOf(folder: string, path = ""): Promise<string[]> {
  const paths: string[] = [];
  for await (const { name, isDirectory } of Deno.readDir(join(folder, path))) {
    paths.push(join(path, name));
    if (isDirectory) paths.push(...await treeOf(folder, join(path, name)));
  }
  return paths.sort();
}

/** What lies round a target, and where a shell of ours would leave what it was told to touch. */
async function surroundings(dir: string, ...inside: string[]): Promise<string[]> {
  const isInside = (path: string) =>
    inside.some((folder) => path === folder || path.startsWith(`${folder}/`));
  const around = (await treeOf(dir)).filter((path) => !isInside(join(dir, path)));
  const here = await Array.fromAsync(Deno.readDir("."), ({ name }) => `./${name}`);
  return [...around, ...here.sort()];
}

/** The names of the files of a VM's disks; each with its node's, as wild as QEMU lets it be. */
const FILES: [file: string, node: string][] = [
  ["with spaces .qcow2", "n"],
  ["single'quote.qcow2", "uuid"],
  ['double"quote.qcow2', "image"],
  ["$(touch INJECTED).qcow2", "a-._Z"],
  ["`touch INJECTED`;touch INJECTED&.qcow2", "x".repeat(31)],
  ["new\nline.qcow2", "FULL-1-x"],
  ["-leading-dash", "INC-99999999999-x"],
  ["--help", "d.partial"],
  ["a:b.qcow2", "d.config"],
  ["nbd:localhost:10809", "uuid.tmp"],
  ["json:{}", "single_quote.qcow2.config"],
  ["%s%n,file.filename=x,,y.qcow2", "CON"],
  ["\x1b[2J\u202egnp.qcow2", "COPY-1-1"],
  ["uuid", "q"],
  ["image", "r"],
  ["x.config", "s"],
  ["x.partial", "t"],
  ["FULL-1700000000-x", "u"],
  ["*.qcow2", "v"],
  ["Ä€𝄞.qcow2", "w"],
  [`${"L".repeat(249)}.qcow2`, "y"],
  [`${"€".repeat(85)}`, "z"],
];

interface HostileVm extends AsyncDisposable {
  dir: string;
  vm: Vm;
  disks: DiskSpec[];
  remember(moment: string): Promise<void>;
  assertRestores(target: string, moment: string): Promise<void>;
}

/** A VM of these disks, with something in each. */
async function hostileVm(disksOf: (dir: string) => DiskSpec[], cwd?: string): Promise<HostileVm> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const disks = disksOf(dir.path);
  for (const { path } of disks) await Deno.mkdir(dirname(path), { recursive: true });
  const vm = stack.use(
    await startVm({ dir: dir.path, disks, ...(cwd === undefined ? {} : { cwd: dir.join(cwd) }) }),
  );
  for (const [i, { id }] of disks.entries()) await vm.write(id, 1 + i, i * 65536, 3 * 65536);
  const cleanup = stack.move();
  let restores = 0;
  return {
    dir: dir.path,
    vm,
    disks,
    async remember(moment) {
      for (const { id } of disks) await vm.snapshotContents(id, dir.join(`${moment}.${id}.raw`));
    },
    async assertRestores(target, moment) {
      const out = dir.join(`out${restores++}`);
      await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
      const points = await newest(target);
      for (const { id, node } of disks) {
        const point = points.get(node);
        const raw = dir.join(`${moment}.${id}.raw`);
        const name = point?.folder === "." ? point.name : point?.folder;
        await compare(raw, "raw", join(out, `${name}.qcow2`), "qcow2");
        await assertPlainConvert(join(target, point?.file ?? ""), raw);
      }
      await Deno.remove(out, { recursive: true });
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

interface Row {
  name: string;
  folder: string;
  file: string;
  level: string;
}

/** The rows of the newest run, by the disks' names. */
async function newest(target: string): Promise<Map<string, Row>> {
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", target, "--json"]);
  const runs = stdout.trim().split("\n").map((line) => JSON.parse(line)).filter(({ disks }) =>
    disks
  );
  return new Map((runs.at(-1).disks as Row[]).map((row) => [row.name, row]));
}

function backupArgs({ vm }: HostileVm, target: string, level: string, ...more: string[]) {
  return ["backup", "--socket", vm.socket, "--level", level, "--target", target, ...more];
}

const ofNames = (dir: string) =>
  FILES.map(([file, node], i): DiskSpec => ({
    id: `d${i}`,
    node,
    // Through `..`, as an admin's script might put it together.
    path: `${dir}/disks/../disks/${file}`,
    format: "qcow2",
    sizeBytes: DISK_BYTES,
  }));

for (const layout of [[], ["--no-subdir"], ["--no-subdir", "--no-timestamp"]]) {
  Deno.test(`disks of hostile names are backed up and restored ${layout.join(" ")}`, async () => {
    await using h = await hostileVm(ofNames);
    const target = join(h.dir, "target");
    await h.remember("full");
    const before = await surroundings(h.dir, target);
    await succeed(backupArgs(h, target, "full", ...layout));
    assertEquals(await surroundings(h.dir, target), before);
    await h.assertRestores(target, "full");
    for (const [i, { id }] of h.disks.entries()) await h.vm.write(id, 100 + i, MIB, 65536);
    await h.remember("inc");
    const then = await surroundings(h.dir, target);
    await succeed(backupArgs(h, target, "inc", ...layout));
    assertEquals(await surroundings(h.dir, target), then);
    await h.assertRestores(target, "inc");
    await assertNothingLeft(h.vm, 1);
    const rows = [...(await newest(target)).values()];
    assertEquals(rows.map(({ level }) => level), FILES.map(() => "inc"));
    // Every image has a file of its own, and a terminal is shown none of them as it stands.
    assertEquals(new Set(rows.map(({ file }) => file)).size, FILES.length);
    const { stdout } = await succeed(["info", "--all", "--dir", target]);
    assertEquals(/[^\n\P{Cc}]|\u202e/u.exec(stdout), null);
  });
}

Deno.test("a disk whose path QEMU was told from its own folder may look like a protocol", async () => {
  const files = ["a:b", "nbd:localhost:10809", "json:x", "-x", "..x", "fd:3", "ssh://h/p"];
  const relatives = (dir: string) =>
    files.map((file, i): DiskSpec => ({
      id: `d${i}`,
      node: `n${i}`,
      path: `${dir}/cwd/${file}`,
      filename: file,
      format: "qcow2",
      sizeBytes: DISK_BYTES,
    }));
  await using h = await hostileVm(relatives, "cwd");
  const target = join(h.dir, "target");
  await h.remember("full");
  const before = await surroundings(h.dir, target);
  await succeed(backupArgs(h, target, "full"));
  assertEquals(await surroundings(h.dir, target), before);
  for (const { id } of h.disks) await h.vm.write(id, 0x77, MIB, 65536);
  await h.remember("inc");
  await succeed(backupArgs(h, target, "inc"));
  await h.assertRestores(target, "inc");
});

for (
  const name of ["t 'q\" $(touch INJECTED)", "-t", "a:b", "nbd:h:1", "t\nnew", "..t", "json:{"]
) {
  Deno.test(`a target may be called ${JSON.stringify(name)}`, async () => {
    await using h = await hostileVm((dir) => ofNames(dir).slice(0, 2));
    const target = join(h.dir, "up", "..", name);
    const before = await surroundings(h.dir, join(h.dir, name));
    await succeed(["backup", "--socket", h.vm.socket, "--level", "full", `--target=${target}`]);
    await h.vm.write("d0", 0x55, MIB, 65536);
    await succeed(backupArgs(h, target, "inc"));
    assertEquals(await surroundings(h.dir, join(h.dir, name)), before);
    await h.remember("inc");
    await h.assertRestores(target, "inc");
  });
}

Deno.test("a name of 300 letters and one that QEMU made up are backed up too", async () => {
  const long = "i".repeat(300);
  await using dir = await tempDir();
  for (const name of ["a", "b"]) await create(dir.join(name), DISK_BYTES);
  const drive = (id: string, file: string) => [
    ...["-drive", `if=none,format=qcow2,id=${id},file=${dir.join(file)}`],
    ...["-device", `virtio-blk-pci,drive=${id},id=${file}`],
  ];
  await using vm = await startVm({
    dir: dir.path,
    disks: [],
    qemuArgs: [...drive(long, "a"), ...drive("tmp-1", "b")],
  });
  await vm.write("a", 0x41, 0, MIB);
  const target = dir.join("target");
  const args = ["backup", "--socket", vm.socket, "--target", target];
  const before = await surroundings(dir.path, target);
  await succeed([...args, "--level", "full"]);
  await vm.write("a", 0x42, MIB, MIB);
  await succeed([...args, "--level", "inc", "--include", long]);
  assertEquals(await surroundings(dir.path, target), before);
  const [row] = [...(await newest(target)).values()];
  await vm.flush("a");
  await convertToRaw(dir.join("a"), "qcow2", dir.join("a.raw"));
  await assertPlainConvert(join(target, row?.file ?? ""), dir.join("a.raw"));
});

Deno.test("--include and --exclude take names as they are, and run none", async () => {
  await using h = await hostileVm(ofNames);
  const target = join(h.dir, "target");
  for (const [, node] of FILES.slice(0, 6)) {
    await succeed(backupArgs(h, target, "copy", "--include", node));
    assertEquals([...(await newest(target)).keys()], [node]);
  }
  for (const name of ["$(touch INJECTED)", "a;b", "../n", "n\n", "-n", "*"]) {
    const before = await surroundings(h.dir);
    const { code, stderr } = await tool(backupArgs(h, target, "copy", `--include=${name}`));
    // Round a name white space is none of it.
    assertEquals([name, code], [name, name.trim() === "n" ? 0 : 2], stderr);
    if (code === 0) continue;
    assertEquals(await surroundings(h.dir), before);
  }
});

/** As `printf` writes it: no Unicode. */
const NO_UTF8 = "\\377\\376 caf\\351.qcow2";

Deno.test("a disk whose name is no UTF-8 is backed up, with the fleece on the target", async () => {
  await using dir = await tempDir();
  const sh = async (script: string) => {
    const command = new Deno.Command("sh", { args: ["-ec", script], cwd: dir.path });
    const { success, stderr } = await command.output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  };
  await sh(`
    qemu-img create -q -f qcow2 "$(printf '${NO_UTF8}')" ${DISK_BYTES}
    printf '[drive "bad"]\\n if = "none"\\n format = "qcow2"\\n node-name = "disk0"\\n' > vm.cfg
    printf ' file = "%s"\\n' "$PWD/$(printf '${NO_UTF8}')" >> vm.cfg
  `);
  await using vm = await startVm({
    dir: dir.path,
    disks: [],
    qemuArgs: ["-readconfig", dir.join("vm.cfg"), "-device", "virtio-blk-pci,drive=bad,id=vd0"],
  });
  await vm.write("vd0", 0x31, 0, MIB);
  const target = dir.join("target");
  const args = ["backup", "--socket", vm.socket, "--target", target];
  const before = await surroundings(dir.path, target);
  const { stderr } = await succeed([...args, "--level", "full"]);
  assertMatch(stderr, /What the guest overwrites on disk0 is kept on the target/);
  await vm.write("vd0", 0x32, MIB, MIB);
  await succeed([...args, "--level", "inc"]);
  assertEquals(await surroundings(dir.path, target), before);
  await vm.flush("vd0");
  await sh(`qemu-img convert -U -f qcow2 -O raw "$(printf '${NO_UTF8}')" now.raw`);
  const inc = (await filesOf(target)).find((file) => file.includes("INC-")) ?? "";
  assertMatch(inc, /^disk0\/INC-\d+-__ caf_\.qcow2$/);
  await assertPlainConvert(join(target, inc), dir.join("now.raw"));
  const out = dir.join("out");
  await succeed(["restore", "merge", "--dir", join(target, "disk0"), "--targetfile", out]);
  await compare(dir.join("now.raw"), "raw", out, "qcow2");
});

Deno.test("a target whose name is no UTF-8 is refused, and nothing is made", async () => {
  await using s = await scene({ disks: 1 });
  const before = await treeOf(s.dir.path);
  const main = join(import.meta.dirname ?? "", "../../main.ts");
  const command = [Deno.execPath(), "run", "-A", main, ...s.backupArgs("full")].slice(0, -1);
  const { code, stderr } = await new Deno.Command("sh", {
    args: ["-c", `"$@" "$(printf '%s/t\\377' "$0")"`, s.dir.path, ...command],
  }).output();
  const words = new TextDecoder().decode(stderr);
  // Deno 2.4's own command line takes no such word at all; a compiled binary of it does.
  assertMatch(words, /not UTF-8|invalid UTF-8/);
  assertEquals(code === 0, false);
  assertEquals(await treeOf(s.dir.path), before);
});

Deno.test("a chain of the reference's whose images have colons in their names goes on", async () => {
  await using s = await scene({ disks: 1 });
  const uuid = "0b5e6d3a-1111-4222-8333-444455556666";
  const full = "FULL-1700000000-a:b.qcow2";
  await Deno.mkdir(join(s.target, "disk0"), { recursive: true });
  await Deno.writeTextFile(join(s.target, "uuid"), uuid);
  const path = join(s.target, "disk0", full);
  await create(path, 64 * MIB);
  await s.vm.execute("blockdev-add", {
    driver: "qcow2",
    "node-name": "ref",
    file: { driver: "file", filename: path },
  });
  await s.vm.execute("transaction", {
    actions: [
      {
        type: "block-dirty-bitmap-add",
        data: { node: "disk0", name: `qmpbackup-disk0-${uuid}`, persistent: true },
      },
      {
        type: "blockdev-backup",
        data: { "job-id": "ref", device: "disk0", target: "ref", sync: "full" },
      },
    ],
  });
  await untilJobs(s.vm, 0);
  await s.vm.execute("blockdev-del", { "node-name": "ref" });
  await s.vm.write("vd0", 0x31, MIB, MIB);
  await s.remember("inc1");
  await succeed(s.backupArgs("inc"));
  await s.vm.write("vd0", 0x32, 2 * MIB, MIB);
  await s.remember("inc2");
  await succeed(s.backupArgs("inc"));

  const incs = (await filesOf(s.target)).filter((file) => file.includes("INC-")).sort();
  const first = join(s.target, incs[0] ?? "");
  assertEquals((await info(first)).backing, `./${full}`);
  const newestImage = join(s.target, incs[1] ?? "");
  await assertPlainConvert(newestImage, s.dir.join("inc2.vd0.raw"));
  const dir = join(s.target, "disk0");
  const restores = async (until: string, moment: string, from = dir) => {
    const out = s.dir.join(crypto.randomUUID());
    await succeed(["restore", "merge", "--dir", from, "--targetfile", out, "--until", until]);
    await compare(s.dir.join(`${moment}.vd0.raw`), "raw", out, "qcow2");
  };
  await restores(basename(newestImage), "inc2");
  // A link as the reference's own `rebase` leaves it, without the dot, is read as the same one. In a folder
  // without records: where there are some, an image that another program opened for writing is a changed one.
  const copy = s.dir.join("copy");
  await Deno.mkdir(copy);
  for await (const { name } of Deno.readDir(dir)) {
    await Deno.copyFile(join(dir, name), join(copy, name));
  }
  const copied = join(copy, basename(first));
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", full, copied]);
  await restores(basename(first), "inc1", copy);
  await succeed(["restore", "rebase", "--dir", copy]);
  assertEquals((await info(copied)).backing, `./${full}`);
  await succeed(["restore", "rebase", "--dir", dir]);
  assertEquals((await info(first)).backing, `./${full}`);
  await assertPlainConvert(join(dir, "image"), s.dir.join("inc2.vd0.raw"));
  await succeed(["restore", "commit", "--dir", dir, "--until", basename(first)]);
  assertEquals((await info(newestImage)).backing, `./${full}`);
  await assertPlainConvert(newestImage, s.dir.join("inc2.vd0.raw"));
  await restores(basename(newestImage), "inc2");
  assertEquals(relative(s.target, path), `disk0/${full}`);
});

Deno.test("a run that was killed is cleaned up behind whatever its disks are called", async () => {
  await using h = await hostileVm(ofNames);
  const target = join(h.dir, "target");
  await h.remember("full");
  const before = await surroundings(h.dir, target);
  for (const { id } of h.disks) await h.vm.write(id, 0x42, 0, DISK_BYTES);
  const child = startTool(backupArgs(h, target, "full", "--speed-limit", "1"));
  await until(async () => (await h.vm.execute("query-jobs") as unknown[]).length > 0);
  child.kill("SIGKILL");
  await ended(child);
  await succeed(backupArgs(h, target, "auto"));
  assertEquals(await surroundings(h.dir, target), before);
  assertEquals((await filesOf(target)).filter((file) => file.endsWith(".partial")), []);
  await h.remember("now");
  await h.assertRestores(target, "now");
  await assertNothingLeft(h.vm, 1);
});
