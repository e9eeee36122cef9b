import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { compare, create, info } from "../support/qemu_img.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { type DiskSpec, startVm } from "../support/vm.ts";
import {
  decodeWriterState,
  installWriterGuest,
  SLOTS,
  untilWritten,
  WRITER_QEMU_ARGS,
  writerDiskBytes,
} from "../support/writer_guest.ts";

const MIB = 1 << 20;

for (const format of ["qcow2", "raw"] as const) {
  Deno.test(`Vm.write() reaches a ${format} disk, and snapshotContents() sees it`, async () => {
    await using dir = await tempDir();
    const disk = {
      id: "vd0",
      node: "disk0",
      path: dir.join("a,b.img"),
      format,
      sizeBytes: 8 * MIB,
    };
    await using vm = await startVm({ dir: dir.path, disks: [disk] });

    await vm.write("vd0", 0x11, 0, 4 * MIB);
    await vm.zero("vd0", MIB, MIB);
    await vm.discard("vd0", 2 * MIB, MIB);
    await vm.snapshotContents("vd0", dir.join("copy.raw"));

    await compare(disk.path, format, dir.join("copy.raw"), "raw");
    const copy = await Deno.readFile(dir.join("copy.raw"));
    const at = (mib: number) => copy[mib * MIB];
    assertEquals([at(0), at(1), at(2), at(3), at(4)], [0x11, 0, 0, 0x11, 0]);

    await vm.write("vd0", 0x12, 512, 512);
    await vm.flush("vd0");
    const difference = () => compare(disk.path, format, dir.join("copy.raw"), "raw");
    await assertRejects(difference, Error, "Content mismatch at offset 512");
  });
}

Deno.test("Vm.write() throws if the write failed", async () => {
  await using dir = await tempDir();
  const disk = { id: "vd0", node: "disk0", path: dir.join("d.qcow2"), format: "qcow2" as const };
  await create(disk.path, MIB);
  await using vm = await startVm({ dir: dir.path, disks: [disk] });

  await assertRejects(() => vm.write("vd0", 1, MIB, 512), Error, "Input/output error");
  await assertRejects(() => vm.zero("vd0", MIB, 512), Error, "Input/output error");
  await assertRejects(() => vm.discard("vd0", MIB, 512), Error, "Input/output error");
  await assertRejects(() => vm.write("vd0", 999, 0, 512), Error, "999");
  await assertRejects(() => vm.write("vd9", 1, 0, 512), Error, "vd9");

  // Calls that overlap keep their own results.
  const results = await Promise.allSettled([
    vm.write("vd0", 1, 0, 512),
    vm.write("vd0", 1, MIB, 512),
    vm.write("vd0", 1, 512, 512),
  ]);
  assertEquals(results.map(({ status }) => status), ["fulfilled", "rejected", "fulfilled"]);
});

Deno.test("Vm.execute() throws what QEMU says, and Vm.events keeps the events", async () => {
  await using dir = await tempDir();
  await using vm = await startVm({ dir: dir.path, disks: [], name: "other" });

  await assertRejects(() => vm.execute("no-such-command"), Error, "no-such-command");
  assertEquals(await vm.execute("query-name"), { name: "other" });
  await vm.execute("cont");
  await vm.execute("stop");
  assertEquals(vm.events.map(({ event }) => event), ["RESUME", "STOP"]);
});

Deno.test("Vm.quit() stores persistent bitmaps, Vm.kill() loses them", async () => {
  await using dir = await tempDir();
  const disk = { id: "vd1", node: "disk1", path: dir.join("d.qcow2"), format: "qcow2" as const };
  for (const [name, found] of [["kill", []], ["quit", ["b1"]]] as const) {
    await using vm = await startVm({ dir: dir.path, disks: [] });
    await vm.addDisk({ ...disk, sizeBytes: MIB, create: true });
    await vm.execute("block-dirty-bitmap-add", { node: "disk1", name: "b1", persistent: true });
    if (name === "quit") await vm.quit();
    else vm.kill();
    assertEquals((await vm.exited).signal, name === "quit" ? null : "SIGKILL");
    assertEquals((await info(disk.path)).bitmaps, [...found]);
    await assertRejects(() => vm.execute("query-name"), Error, "QEMU is gone");
  }
});

Deno.test("startVm() tells why QEMU did not start", async () => {
  await using dir = await tempDir();
  for (const qemuArgs of [["-no-such-thing"], ["-device", "no-such-thing"]]) {
    const start = () => startVm({ dir: dir.path, disks: [], qemuArgs });
    const error = await assertRejects(start, Error, "QEMU did not start");
    assertStringIncludes(error.message, "no-such-thing");
  }
});

/** A VM with the writer guest on two disks of 64 MiB. */
async function startWriter(dir: TempDir, diskB: Partial<DiskSpec> = {}, slots = SLOTS) {
  const disk = (letter: "a" | "b", bootIndex: number): DiskSpec => ({
    id: `vd${letter}`,
    node: `disk-${letter}`,
    path: dir.join(`${letter}.qcow2`),
    format: "qcow2",
    sizeBytes: 64 * MIB,
    bootIndex,
  });
  await create(dir.join("a.qcow2"), 64 * MIB);
  await installWriterGuest(dir.join("a.qcow2"), "qcow2", slots);
  // The other way round on the bus: what counts is the boot order.
  const disks = [{ ...disk("b", 1), ...diskB }, disk("a", 0)];
  return await startVm({ dir: dir.path, disks, running: true, qemuArgs: WRITER_QEMU_ARGS });
}

Deno.test("the writer guest stands still while stopped, and goes on after that", async () => {
  await using dir = await tempDir();
  await using vm = await startWriter(dir);
  const copy = async (name: string) => {
    await vm.snapshotContents("vda", dir.join(`${name}-a.raw`));
    await vm.snapshotContents("vdb", dir.join(`${name}-b.raw`));
    return decodeWriterState(dir.join(`${name}-a.raw`), dir.join(`${name}-b.raw`));
  };

  await untilWritten(vm, "vdb", 10);
  await vm.execute("stop");
  const early = await copy("early");
  await new Promise((resolve) => setTimeout(resolve, 200));
  assertEquals(await copy("again"), early);
  assertEquals(early.problem, undefined);
  assert(early.consistent && early.counterB >= 10);

  await vm.execute("cont");
  await untilWritten(vm, "vdb", 2 * SLOTS);
  await vm.execute("stop");
  const late = await copy("late");
  assert(late.consistent && late.counterB >= early.counterB + 2 * SLOTS);

  const mixed = decodeWriterState(dir.join("early-a.raw"), dir.join("late-b.raw"));
  const { counterA } = early, { counterB } = late;
  const problem = `A is at ${counterA}, B at ${counterB}`;
  assertEquals(mixed, { consistent: false, counterA, counterB, problem });
});

Deno.test("the writer guest goes round as many slots as wanted", async () => {
  await using dir = await tempDir();
  await using vm = await startWriter(dir, {}, 1000);
  await untilWritten(vm, "vdb", 100);
  await vm.execute("stop");
  for (const letter of ["a", "b"]) {
    await vm.snapshotContents(`vd${letter}`, dir.join(`${letter}.raw`));
  }
  const state = decodeWriterState(dir.join("a.raw"), dir.join("b.raw"), 1000);
  assertEquals(state.problem, undefined);
  assert(state.counterB >= 100);
});

Deno.test("the writer guest writes nothing more once a write has failed", async () => {
  await using dir = await tempDir();
  await using vm = await startWriter(dir, { sizeBytes: MIB });
  await assertRejects(() => untilWritten(vm, "vdb", SLOTS), Error, "A write of the guest failed");
  assertEquals(
    (await vm.execute("query-status") as { status: string }).status,
    "guest-panicked",
  );
});

Deno.test("decodeWriterState() accepts what the guest can leave, and nothing else", async () => {
  await using dir = await tempDir();
  /** A disk after `counter` writes, with some slots changed. */
  async function disk(name: string, counter: number, changes: Record<number, number> = {}) {
    const bytes = new Uint8Array(writerDiskBytes());
    const view = new DataView(bytes.buffer);
    const put = (slot: number, number: number) => {
      for (let at = 0; at < 512; at += 4) view.setUint32(32768 + slot * 65536 + at, number, true);
    };
    for (let number = 1; number <= counter; number++) put(number % SLOTS, number);
    for (const [slot, number] of Object.entries(changes)) put(Number(slot), number);
    await Deno.writeFile(dir.join(name), bytes);
    return dir.join(name);
  }
  const problem = (a: string, b: string) => decodeWriterState(a, b).problem;

  for (const counter of [0, 1, 63, 64, 65, 200]) {
    const same = await disk("same", counter);
    const next = await disk("next", counter + 1);
    assertEquals(problem(same, same), undefined);
    assertEquals(problem(next, same), undefined);
    assertEquals(problem(same, next), `A is at ${counter}, B at ${counter + 1}`);
    const afterNext = await disk("after", counter + 2);
    assertEquals(problem(afterNext, same), `A is at ${counter + 2}, B at ${counter}`);
  }
  const good = await disk("good", 100);
  const lost = await disk("lost", 100, { 20: 20 });
  assertEquals(problem(lost, good), "A: slot 20 holds 20, at 100 it's 84");
  assertEquals(problem(good, lost), "B: slot 20 holds 20, at 100 it's 84");

  using file = await Deno.open(good, { write: true });
  await file.seek(32768 + 5 * 65536 + 100, Deno.SeekMode.Start);
  await file.write(new Uint8Array([1]));
  assertEquals(problem(good, good), "A: slot 5 is torn");
});
