import { assertEquals, assertLess, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import {
  assertNothingLeft,
  assertPlainConvert,
  filesOf,
  type Scene,
  scene,
  untilSwitched,
} from "../support/scene.ts";
import { compare, convertToRaw, create } from "../support/qemu_img.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const MIB = 1 << 20;
const COMPARE = ["--on-lost-bitmap", "compare"];

interface Row {
  level: string;
  reason: string;
  file: string;
  bytesWritten: number;
}

async function backUp(s: Scene, level: string, ...more: string[]): Promise<Row[]> {
  const { stdout } = await succeed(s.backupArgs(level, "--json", ...more));
  return (JSON.parse(stdout) as { disks: Row[] }).disks;
}

async function fullThenKilled(s: Scene) {
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 3 * MIB, MIB);
  await s.vm.zero("vd1", 20 * MIB, MIB / 2);
  await s.vm.flush("vd0");
  await s.vm.flush("vd1");
  await s.restart();
}

Deno.test("a lost bitmap costs no full backup: what differs is found by comparing, and the chain goes on", async () => {
  await using s = await scene();
  await fullThenKilled(s);
  const inc = await tool(s.backupArgs("inc"));
  assertEquals(inc.code, 1);
  assertMatch(inc.stderr, /is gone.*or add --on-lost-bitmap compare/);
  await s.remember("compared");
  const rows = await backUp(s, "auto", ...COMPARE);
  assertEquals(rows.map(({ level }) => level), ["inc", "inc"]);
  for (const { reason } of rows) assertMatch(reason, /^compared with the last backup: .* is gone/);
  // 9 MiB are in use on each; 1 MiB and half of one have changed.
  for (const { bytesWritten } of rows) assertLess(bytesWritten, 3 * MIB);
  await s.assertRestores("compared");
  for (const [i, { file }] of rows.entries()) {
    await assertPlainConvert(join(s.target, file), s.dir.join(`compared.vd${i}.raw`));
  }
  await assertNothingLeft(s.vm, 1);

  // The next one has a bitmap again.
  await s.vm.write("vd1", 0x53, 33 * MIB, MIB);
  await s.remember("inc");
  const next = await backUp(s, "inc");
  assertEquals(next.map(({ level, reason }) => [level, reason]), [
    ["inc", "asked for"],
    ["inc", "asked for"],
  ]);
  await s.assertRestores("inc");
  assertEquals((await filesOf(s.target)).filter((file) => /partial|nbd|fleece/.test(file)), []);
});

Deno.test("only the disk whose bitmap was lost is compared, and a disk that grew or shrank can be", async () => {
  await using s = await scene();
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 3 * MIB, MIB);
  await s.vm.write("vd1", 0x52, 4 * MIB, MIB);
  const bitmaps = await s.vm.execute("query-block") as {
    inserted: { "node-name": string; "dirty-bitmaps": { name: string }[] };
  }[];
  const name = bitmaps[1]?.inserted["dirty-bitmaps"][0]?.name;
  await s.vm.execute("block-dirty-bitmap-remove", { node: "disk1", name });
  await s.remember("one");
  const rows = await backUp(s, "inc", ...COMPARE);
  assertEquals(rows.map(({ reason }) => reason.split(":")[0]), [
    "asked for",
    "compared with the last backup",
  ]);
  await s.assertRestores("one");
  for (const [i, sizeMib] of [80, 40].entries()) {
    await s.vm.execute("block_resize", { "node-name": "disk1", size: sizeMib * MIB });
    if (i === 0) await s.vm.write("vd1", 0x54, 70 * MIB, MIB);
    const { inserted } = (await s.vm.execute("query-block") as typeof bitmaps)[1] ?? {};
    for (const { name } of inserted?.["dirty-bitmaps"] ?? []) {
      await s.vm.execute("block-dirty-bitmap-remove", { node: "disk1", name });
    }
    await s.remember(`size${i}`);
    await backUp(s, "inc", ...COMPARE);
    await s.assertRestores(`size${i}`);
  }
});

Deno.test("what the guest writes while it is compared is in the next increment", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenKilled(s);
  await s.remember("compared");
  const running = tool(s.backupArgs("auto", ...COMPARE, "--remove-delay", "1"));
  while ((await s.vm.execute("query-block-exports") as unknown[]).length < 2);
  await s.vm.write("vd0", 0x55, 0, 4 * MIB);
  await s.vm.write("vd1", 0x56, 0, 4 * MIB);
  assertEquals((await running).code, 0);
  await s.assertRestores("compared");
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("inc");
});

Deno.test("a run that is killed while it compares is cleaned up behind", async () => {
  await using s = await scene({ vm: { running: true } });
  await fullThenKilled(s);
  for (const signal of ["SIGKILL", "SIGTERM"] as const) {
    const child = startTool(s.backupArgs("auto", ...COMPARE));
    while ((await s.vm.execute("query-block-exports") as unknown[]).length < 2);
    child.kill(signal);
    await ended(child);
    const next = ended(startTool(s.backupArgs("auto", ...COMPARE)));
    const { code, stderr } = await next;
    assertEquals(code, 0, stderr);
    await s.vm.execute("stop");
    await s.remember(signal);
    await s.vm.execute("cont");
    await s.assertRestores(signal);
    await assertNothingLeft(s.vm, 1);
    const beside = await Array.fromAsync(Deno.readDir(s.dir.path), ({ name }) => name);
    assertEquals(beside.filter((name) => /\.(nbd|fleece)$/.test(name)), []);
    await s.restart();
  }
});

Deno.test("another program's NBD server is left alone, and the message says so", async () => {
  await using s = await scene();
  await fullThenKilled(s);
  const path = s.dir.join("theirs");
  await s.vm.execute("nbd-server-start", { addr: { type: "unix", data: { path } } });
  const { code, stderr } = await tool(s.backupArgs("auto", ...COMPARE));
  assertEquals(code, 1);
  assertStringIncludes(stderr, "one NBD server, which another program may be using");
  await assertNothingLeft(s.vm, 0);
  await s.vm.execute("nbd-server-stop");
  await s.remember("now");
  await succeed(s.backupArgs("auto", ...COMPARE));
  await s.assertRestores("now");
});

Deno.test("the chain of a raw disk goes on after its QEMU was restarted, on another host too", async () => {
  await using s = await scene();
  const disk = { id: "vd0", node: "raw0", path: s.dir.join("raw0.img"), format: "raw" as const };
  const args = (socket: string, level: string) => [
    ...["backup", "--socket", socket, "--level", level, "--target", s.dir.join("raw.target")],
    ...["--include-raw", ...COMPARE],
  ];
  for (const [i, host] of ["here", "there"].entries()) {
    const dir = s.dir.join(host);
    await Deno.mkdir(dir);
    const path = join(dir, "raw0.img");
    if (i > 0) await Deno.copyFile(s.dir.join("here/raw0.img"), path);
    for (let life = 0; life < 2; life++) {
      await using vm = await startVm({ dir, disks: [{ ...disk, path, sizeBytes: 32 * MIB }] });
      await vm.write("vd0", 0x11 + 2 * i + life, (4 * i + 2 * life) * MIB, MIB);
      await vm.snapshotContents("vd0", s.dir.join("raw"));
      await succeed(args(vm.socket, "auto"));
      const out = s.dir.join(`out${i}${life}`);
      const folder = s.dir.join("raw.target/raw0");
      await succeed(["restore", "merge", "--dir", folder, "--targetfile", out]);
      await compare(s.dir.join("raw"), "raw", out, "qcow2");
      await vm.quit();
    }
  }
  const files = await filesOf(s.dir.join("raw.target"));
  assertEquals(files.filter((file) => /FULL/.test(file)).length, 1);
  assertEquals(files.filter((file) => /INC/.test(file)).length, 3);
});

Deno.test("what the guest zeroes and discards while its disk is compared is in the increment as it was", async () => {
  await using s = await scene();
  await fullThenKilled(s);
  await s.remember("compared");
  const running = backUp(s, "auto", ...COMPARE);
  await untilSwitched(s.vm);
  await s.vm.zero("vd0", 2 * MIB + 512, 3 * MIB);
  await s.vm.discard("vd1", 4 * MIB, 2 * MIB);
  await s.vm.write("vd1", 0x54, 7 * MIB - 4096, 2 * MIB);
  assertEquals((await running).map(({ level }) => level), ["inc", "inc"]);
  await s.assertRestores("compared");
});

Deno.test("what lies in a disk's backing file is read, and what covers it there is kept apart from it", async () => {
  await using s = await scene({ overlays: true });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 3 * MIB, MIB);
  // Over the template's data; the last one begins and ends in the midst of a cluster.
  await s.vm.zero("vd0", 9 * MIB, MIB);
  await s.vm.discard("vd0", 12 * MIB, MIB);
  await s.vm.zero("vd0", 31 * MIB + 512, MIB);
  await s.vm.write("vd1", 0x52, 16 * MIB - 4096, MIB);
  await s.vm.flush("vd0");
  await s.vm.flush("vd1");
  await s.restart();
  await s.remember("compared");
  const running = backUp(s, "inc", ...COMPARE);
  await untilSwitched(s.vm);
  // In the template's data, too, the backup holds what was there before.
  await s.vm.write("vd0", 0x53, 7 * MIB + 512, 4 * MIB);
  await s.vm.discard("vd1", 10 * MIB, 2 * MIB);
  const rows = await running;
  for (const { reason } of rows) assertMatch(reason, /^compared with the last backup: .* is gone/);
  for (const { bytesWritten } of rows) assertLess(bytesWritten, 6 * MIB);
  await s.assertRestores("compared");
  await s.remember("inc");
  const next = await backUp(s, "inc");
  assertEquals(next.map(({ reason }) => reason), ["asked for", "asked for"]);
  await s.assertRestores("inc");
  await assertNothingLeft(s.vm, 1);
});

Deno.test("the chain of a disk goes on by comparing after an external snapshot of it", async () => {
  await using s = await scene({ disks: 1 });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 3 * MIB, MIB);
  const overlay = s.dir.join("overlay.qcow2");
  await create(overlay, 64 * MIB, { backing: s.dir.join("disk0.qcow2") });
  await s.vm.execute("blockdev-add", {
    driver: "qcow2",
    "node-name": "overlay0",
    file: { driver: "file", filename: overlay, discard: "unmap" },
    discard: "unmap",
    backing: null,
  });
  await s.vm.execute("blockdev-snapshot", { node: "disk0", overlay: "overlay0" });
  await s.vm.write("vd0", 0x52, 5 * MIB, MIB);
  await s.vm.zero("vd0", 7 * MIB, MIB);
  await s.vm.flush("vd0");
  await convertToRaw(overlay, "qcow2", s.dir.join("compared.vd0.raw"));
  const [row] = await backUp(s, "inc", ...COMPARE);
  assertMatch(row?.reason ?? "", /^compared with the last backup/);
  assertLess(row?.bytesWritten ?? Infinity, 6 * MIB);
  const out = s.dir.join("out");
  const folder = s.dir.join("target/disk0");
  await succeed(["restore", "merge", "--dir", folder, "--targetfile", out]);
  await compare(s.dir.join("compared.vd0.raw"), "raw", out, "qcow2");
});
