import { assert, assertEquals } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { queryNodes } from "../../src/qmp/queries.ts";
import { addAllocated } from "../../src/vm/allocation.ts";
import { countingProxy } from "../support/counting_proxy.ts";
import { create, qemuIo } from "../support/qemu_img.ts";
import { assertNothingLeft, assertPlainConvert, scene } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const KIB = 1024, MIB = KIB ** 2, GIB = KIB ** 3, TIB = KIB ** 4;

Deno.test("`addAllocated()` marks what is allocated and what is written later, and leaves nothing else", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.qcow2");
  await create(path, 2 * TIB);
  await qemuIo(path, "qcow2", `write -P 1 ${GIB} 1M`);
  await qemuIo(path, "qcow2", `write -z ${50 * GIB} 1M`);
  await qemuIo(path, "qcow2", `write -P 2 ${2 * TIB - 64 * KIB} 64K`);
  const disk = { id: "vd0", node: "disk0", path, format: "qcow2" } as const;
  await using vm = await startVm({ dir: dir.path, disks: [disk] });
  await using qmp = await QmpClient.connect({ transport: "unix", path: vm.socket }, {
    timeoutMs: 30_000,
  });
  const look = {
    ...{ disk: "disk0", virtualSizeBytes: 2 * TIB, granularityBytes: 64 * KIB },
    ...{ bitmap: "all", node: "nowhere", job: "look" },
  };
  await addAllocated(qmp, look);
  const count = async () => {
    const nodes = (await queryNodes(qmp)).filter((node) => node["node-name"] === "disk0");
    return nodes.flatMap((node) => node["dirty-bitmaps"]).map(({ name, countBytes }) => [
      name,
      countBytes,
    ]);
  };
  assertEquals(await count(), [["all", 2 * MIB + 64 * KIB]]);
  await vm.write("vd0", 3, 70 * GIB, 64 * KIB);
  assertEquals(await count(), [["all", 2 * MIB + 128 * KIB]]);
  assertEquals(await vm.execute("query-jobs"), []);
  const names = (await queryNodes(qmp)).map((node) => node["node-name"]);
  assertEquals(names.includes("nowhere"), false);
});

Deno.test("a disk of 1 TiB with little in it takes kilobytes, and is whole", async () => {
  await using s = await scene({ disks: 1, diskBytes: TIB });
  const images: { level: string; file: string }[] = [];
  for (const level of ["full", "inc", "copy", "full"]) {
    // In the middle of nothing, and where something was.
    await s.vm.write("vd0", 0x40 + images.length, (100 + images.length) * GIB + 512, 70 * KIB);
    await s.vm.discard("vd0", 20 * MIB, 64 * KIB);
    const moment = `${level}${images.length}`;
    await s.remember(moment);
    const { stdout } = await succeed(s.backupArgs(level, "--json"));
    const row = JSON.parse(stdout.trim().split("\n").at(-1) ?? "").disks[0];
    images.push(row);
    assertEquals([row.level, row.result], [level, "done"]);
    const { size, blocks } = await Deno.stat(`${s.target}/${row.file}`);
    assert(size < 12 * MIB && (blocks ?? 0) * 512 < 12 * MIB, `${moment}: ${size}`);
    await assertPlainConvert(`${s.target}/${row.file}`, s.dir.join(`${moment}.vd0.raw`));
  }
  await assertNothingLeft(s.vm, 1);
});

Deno.test("what the guest writes while a thin disk is looked at and copied is not lost to the next run", async () => {
  await using s = await scene({ disks: 1, diskBytes: TIB });
  // A write of 4 KiB after each message, each where nothing was.
  let writes = 0;
  const write = async () => {
    await s.vm.write("vd0", 1 + writes % 200, (200 + writes) * GIB, 4 * KIB);
    writes++;
  };
  await using line = countingProxy(s.dir.join("line"), s.vm.socket, write);
  const args = ["backup", "--socket", line.path, "--target", s.target];
  await succeed([...args, "--level", "full"]);
  assert(writes > 30, `${writes}`);
  await s.remember("inc");
  await succeed(s.backupArgs("inc"));
  await s.assertRestores("inc");
});

Deno.test("a run that is killed while it looks is cleaned up by the next one", async () => {
  await using s = await scene({ disks: 1, diskBytes: TIB });
  let child: Deno.ChildProcess | null = null;
  const looks: string[] = [];
  let left: string[] = [];
  // With the answer to it the job runs: it waits after its first chunk, until it is cancelled.
  await using line = countingProxy(s.dir.join("line"), s.vm.socket, async (message) => {
    if (looks.length === 0 && !message.includes(".look")) return;
    looks.push(message);
    if (looks.length !== 2) return;
    child?.kill("SIGKILL");
    line.cut();
    left = (await s.vm.execute("query-jobs") as { id: string }[]).map(({ id }) => id);
    await s.vm.write("vd0", 0x55, 300 * GIB, 64 * KIB);
  });
  child = startTool(["backup", "--socket", line.path, "--target", s.target, "--level", "full"]);
  assertEquals((await ended(child)).code, 137);
  assertEquals(left.map((id) => id.replace(/^.*\./, "")), ["look"]);
  await s.remember("next");
  const { stdout } = await succeed(s.backupArgs("auto", "--json"));
  assertEquals(JSON.parse(stdout.trim().split("\n").at(-1) ?? "").disks[0].level, "full");
  await s.assertRestores("next");
  await assertNothingLeft(s.vm, 1);
});
