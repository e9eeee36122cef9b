/** A guest whose disks grow on the file system that the fleeces lie on, with room for one of both. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { mountTmpfs } from "../support/tmpfs.ts";
import { until, untilCopying } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, type ToolResult } from "../support/tool.ts";
import { type DiskSpec, startVm, type Vm } from "../support/vm.ts";
import { installWriterGuest, untilWritten, writerDiskBytes } from "../support/writer_guest.ts";

const MIB = 1 << 20;
const SLOTS = 640;
const BULK_BYTES = 60 * MIB;

interface Ground extends AsyncDisposable {
  vm: Vm;
  backup: string[];
  elsewhere: string;
}

/** Two thin disks of 40 MiB that the guest is about to fill, and one of 60 MiB that is full. */
async function startGround(): Promise<Ground> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const folder = dir.join("disks");
  const wholeBytes = 2 * writerDiskBytes(SLOTS) + BULK_BYTES;
  stack.use(await mountTmpfs(folder, wholeBytes + 16 * MIB));
  const sizeBytes = Math.ceil(writerDiskBytes(SLOTS) / 65536) * 65536;
  const disk = (id: string, sizeBytes: number, bootIndex: number): DiskSpec => (
    { id, node: `node-${id}`, path: `${folder}/${id}`, format: "qcow2", sizeBytes, bootIndex }
  );
  const disks = [disk("a", sizeBytes, 0), disk("b", sizeBytes, 1), disk("bulk", BULK_BYTES, 2)];
  await using empty = await startVm({ dir: dir.path, disks });
  await empty.quit();
  await installWriterGuest(`${folder}/a`, "qcow2", SLOTS);
  const vm = stack.use(await startVm({ dir: dir.path, disks, name: "writer" }));
  await vm.write("bulk", 0x11, 0, BULK_BYTES);
  const backup = ["backup", "--socket", vm.socket, "--target", dir.join("target")];
  const elsewhere = dir.join("elsewhere");
  await Deno.mkdir(elsewhere);
  const left = stack.move();
  return { vm, backup, elsewhere, [Symbol.asyncDispose]: () => left.disposeAsync() };
}

async function stateOf(vm: Vm): Promise<string> {
  return (await vm.execute("query-status") as { status: string }).status;
}

/** A run that copies slowly, while all of the full disk is overwritten, so that its fleece is as large. */
async function startRun({ vm, backup }: Ground): Promise<Deno.ChildProcess> {
  const child = startTool([...backup, "--level", "full", "--speed-limit", String(MIB)]);
  await untilCopying(vm);
  await vm.write("bulk", 0x22, 0, BULK_BYTES);
  return child;
}

/** It goes round all slots of both disks: nothing of it has failed. */
async function assertGuestWrites({ vm }: Ground) {
  await untilWritten(vm, "b", 2 * SLOTS);
  assertEquals(await stateOf(vm), "running");
}

Deno.test("a guest that runs out of room beside the fleece goes on, and the backup is given up", async () => {
  await using ground = await startGround();
  const { vm, backup, elsewhere } = ground;
  const run = ended(await startRun(ground));
  await vm.execute("cont");
  const { code, stderr }: ToolResult = await run;
  assertEquals(code, 1, stderr);
  assertMatch(
    stderr,
    /Disk node-bulk: The guest ran out of room for its own disks and was stopped/,
  );
  assert(vm.events.some(({ event }) => event === "STOP"), "it did run out of room");
  await assertGuestWrites(ground);
  await succeed([...backup, "--level", "full", "--fleece-dir", elsewhere]);
});

Deno.test("a guest that ran out of room beside the fleece of a killed run goes on with the next", async () => {
  await using ground = await startGround();
  const { vm, backup, elsewhere } = ground;
  const child = await startRun(ground);
  child.kill("SIGKILL");
  await ended(child);
  await vm.execute("cont");
  await until(async () => await stateOf(vm) === "io-error");
  const { stderr } = await succeed([...backup, "--level", "full", "--fleece-dir", elsewhere]);
  assertMatch(stderr, /Letting the VM go on: it has had the state io-error/);
  await assertGuestWrites(ground);
});
