import { assertEquals } from "@std/assert";
import { QmpClient } from "../../src/qmp/client.ts";
import { queryNodes } from "../../src/qmp/queries.ts";
import { addAllocated } from "../../src/vm/allocation.ts";
import { create, qemuIo } from "../support/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
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
  await addAllocated(qmp, look, new AbortController().signal);
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
