import { assert, assertEquals, assertGreater } from "@std/assert";
import { tempDir } from "../support/temp_dir.ts";
import { succeed } from "../support/tool.ts";
import { type DiskSpec, startVm } from "../support/vm.ts";
import { compare } from "../support/qemu_img.ts";
import {
  decodeWriterState,
  installWriterGuest,
  untilWritten,
  WRITER_QEMU_ARGS,
  writerDiskBytes,
} from "../support/writer_guest.ts";

/** Enough slots that the guest does not come round between two backups: a lost write stays lost. */
const SLOTS = 8000;

/**
 * The guest writes 1, 2, 3 … to disk A and then to disk B, without end. What a restore holds must be
 * the state after some number of these writes, over both disks: then no write is missing, whichever
 * window it fell into, and both disks are of one moment.
 */
async function proveNothingLost(
  { level, backups, slots, idleDisks, iothreads = false }: {
    level: "inc" | "auto";
    backups: number;
    slots: number;
    /** Disks between the two: the more, the wider the window if they were not switched at once. */
    idleDisks: number;
    /** Each of the two disks is served by a thread of its own. */
    iothreads?: boolean;
  },
) {
  await using dir = await tempDir();
  const paths = ["a", "b"].map((name) => dir.join(`${name}.qcow2`)) as [string, string];
  const sizeBytes = Math.ceil(writerDiskBytes(slots) / 65536) * 65536;
  const [diskA, diskB] = paths.map((path, i): DiskSpec => (
    {
      ...{ id: `vd${i}`, node: `disk${i}`, path, format: "qcow2", sizeBytes, bootIndex: i },
      ...(iothreads ? { iothread: `io${i}` } : {}),
    }
  )) as [DiskSpec, DiskSpec];
  const idle = Array.from({ length: idleDisks }, (_, i): DiskSpec => (
    { id: `idle${i}`, node: `idle${i}`, path: dir.join(`i${i}`), format: "qcow2", sizeBytes: 65536 }
  ));
  const disks = [diskA, ...idle, diskB];
  const threads = ["-object", "iothread,id=io0", "-object", "iothread,id=io1"];
  const qemuArgs = iothreads ? threads : [];
  await using vm = await startVm({ dir: dir.path, disks, qemuArgs });
  await vm.quit();
  await installWriterGuest(paths[0], "qcow2", slots);
  await using guest = await startVm({
    dir: dir.path,
    disks,
    name: "writer",
    running: true,
    qemuArgs: [...WRITER_QEMU_ARGS, ...qemuArgs],
  });
  await untilWritten(guest, "vd1", 10);
  const target = dir.join("target");
  const backup = (level: string) =>
    succeed(["backup", "--socket", guest.socket, "--level", level, "--target", target, "--json"]);
  const runs: string[] = [];
  for (let i = 0; i < backups; i++) {
    const { stdout } = await backup(i === 0 ? "full" : level);
    runs.push((JSON.parse(stdout) as { id: string }).id);
  }
  let last = 0;
  for (const [i, run] of runs.entries()) {
    const out = dir.join(`out${i}`);
    await succeed([
      ...["restore", "merge", "--dir", target, "--target-dir", out, "--until", run],
      ...["--format", "raw"],
    ]);
    const state = decodeWriterState(`${out}/disk0.raw`, `${out}/disk1.raw`, slots);
    assert(state.consistent, `Backup ${i + 1} of ${backups}: ${state.problem}`);
    assertGreater(state.counterA, last, "the guest wrote between two backups");
    last = state.counterA;
    await Deno.remove(out, { recursive: true });
  }
  const events = guest.events.map(({ event }) => event);
  assertEquals(events.includes("GUEST_PANICKED"), false);
  if (!iothreads) assertEquals(events.includes("STOP"), false, "it never stood still");

  // Stand still, back up once more: now the restored disks must be the disks themselves.
  await guest.execute("stop");
  await backup(level);
  const out = dir.join("out");
  await succeed(["restore", "merge", "--dir", target, "--target-dir", out]);
  for (const i of [0, 1] as const) {
    await guest.flush(`vd${i}`);
    await compare(paths[i], "qcow2", `${out}/disk${i}.qcow2`, "qcow2");
  }
}

Deno.test("backup loses no write of a guest that never rests, between its increments", async () => {
  await proveNothingLost({ level: "inc", backups: 6, slots: SLOTS, idleDisks: 0 });
});

Deno.test("backup takes many disks at one moment, of a guest that never rests", async () => {
  await proveNothingLost({ level: "auto", backups: 5, slots: 64, idleDisks: 8 });
});

Deno.test("backup loses no write where each disk has an iothread", async () => {
  // Before QEMU 9 the guest has to stand still for a filter to go in: else QEMU ends.
  await proveNothingLost({ level: "inc", backups: 6, slots: SLOTS, idleDisks: 0, iothreads: true });
});
