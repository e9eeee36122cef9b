/**
 * What a job reads at once, what the fleece keeps at once, and the clusters of the disk have different sizes: a
 * guest that writes across all their borders meanwhile must not be seen in the backup. QMPBACKUP_TEST_CHUNKS says
 * how many MiB each disk has; more takes longer.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { compare, create } from "../support/qemu_img.ts";
import { until, untilSwitched } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed } from "../support/tool.ts";
import { type DiskSpec, startVm } from "../support/vm.ts";

const MIB = 1 << 20;
const SIZE = Number(Deno.env.get("QMPBACKUP_TEST_CHUNKS") ?? 12) * MIB;
const CLUSTERS = [4096, 65536, 524288, 2097152];

/** Numbers that seem to have no order, the same in each run. */
function* places(): Generator<number> {
  for (let seed = 1;;) {
    seed = (seed * 48271) % 2147483647;
    yield seed;
  }
}

Deno.test("a writer beside a full backup is not seen in it, whatever the clusters", async () => {
  await using dir = await tempDir();
  const disks = CLUSTERS.map((bytes, index): DiskSpec => (
    { id: `vd${index}`, node: `disk${index}`, path: dir.join(`${bytes}`), format: "qcow2" }
  ));
  for (const [index, { path }] of disks.entries()) {
    await create(path, SIZE, { options: [`cluster_size=${CLUSTERS[index]}`] });
  }
  await using vm = await startVm({ dir: dir.path, disks });
  for (const { id, path } of disks) {
    // Neighbours differ, so that a part from elsewhere is seen.
    for (let at = 0; at < SIZE; at += MIB) await vm.write(id, at / MIB % 250 + 1, at, MIB);
    await vm.snapshotContents(id, `${path}.raw`);
  }
  let isDone = false;
  const running = succeed([
    ...["backup", "--socket", vm.socket, "--target", dir.join("t"), "--level", "full", "--json"],
    ...["--speed-limit", String(SIZE / 4)],
  ]).finally(() => isDone = true);
  await untilSwitched(vm);
  let writes = 0;
  for (const place of places()) {
    if (isDone) break;
    const { id } = disks[writes % disks.length] as DiskSpec;
    // Most of them cross a border of 64 KiB.
    const length = 512 * (1 + place % 200);
    const at = Math.floor(place % (SIZE - length) / 512) * 512;
    if (writes++ % 5 === 4) await vm.discard(id, at, length);
    else await vm.write(id, 0xfe, at, length);
  }
  const { stdout } = await running;
  const made = (JSON.parse(stdout) as { disks: { name: string; file: string }[] }).disks;
  for (const { node, path } of disks) {
    const file = made.find(({ name }) => name === node)?.file;
    await compare(`${path}.raw`, "raw", dir.join("t", file ?? ""), "qcow2");
  }
  assert(writes > 0);
});

Deno.test("much data goes past the page cache, into blocks that are set aside and given back", async () => {
  await using dir = await tempDir();
  const path = dir.join("disk.qcow2");
  await create(path, 300 * MIB, { options: ["preallocation=falloc"] });
  await using vm = await startVm({
    dir: dir.path,
    disks: [{ id: "vd0", node: "disk0", path, format: "qcow2" }],
  });
  await vm.write("vd0", 0x21, 100 * MIB, 3 * MIB);
  await vm.flush("vd0");
  const backup = succeed([
    ...["backup", "--socket", vm.socket, "--target", dir.join("t"), "--level", "copy", "--json"],
    ...["--blockdev-disable-cache", "--remove-delay", "1"],
  ]);
  await until(async () => {
    const nodes = await vm.execute("query-named-block-nodes") as { drv: string }[];
    return nodes.some(({ drv }) => drv === "preallocate");
  });
  const { stdout } = await backup;
  const [disk] = (JSON.parse(stdout) as { disks: { file: string }[] }).disks;
  const image = dir.join("t", disk?.file ?? "");
  await compare(path, "qcow2", image, "qcow2");
  const { size } = await Deno.stat(image);
  assert(size < 8 * MIB, `${size} bytes`);
  assertEquals(await vm.execute("query-jobs"), []);
});
