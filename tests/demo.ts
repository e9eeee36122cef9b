/**
 * The main job on a throw-away VM: `deno task demo`.
 *
 * Makes a VM of two disks, takes a full backup, changes data, takes two increments, restores every
 * point in time into new files, and compares each with what the disks held then. Leaves nothing.
 *
 * @module
 */

import { table } from "../src/cli/output/text.ts";
import { ensureQemu } from "./support/install_qemu.ts";
import { runMain } from "./support/main.ts";
import { compare } from "./support/qemu_img.ts";
import { tempDir } from "./support/temp_dir.ts";
import { succeed } from "./support/tool.ts";
import { type DiskSpec, startVm } from "./support/vm.ts";

const MIB = 1 << 20;

interface Summary {
  id: string;
  disks: { folder: string; level: string; file: string; bytesWritten: number }[];
}

interface Step {
  level: "full" | "inc";
  /** Writes to the disks before the backup: disk, pattern, offset and length in MiB. */
  writes: [string, number, number, number][];
}

const STEPS: Step[] = [
  { level: "full", writes: [["vd0", 0x11, 0, 48], ["vd1", 0x22, 100, 24]] },
  { level: "inc", writes: [["vd0", 0x33, 10, 2], ["vd1", 0x44, 0, 3]] },
  { level: "inc", writes: [["vd0", 0x55, 11, 2], ["vd1", 0x66, 200, 1]] },
];

/** @param stack Gets what must go again, so that it goes at Ctrl-C too. */
async function demo(stack: AsyncDisposableStack): Promise<boolean> {
  await ensureQemu();
  const dir = stack.use(await tempDir());
  const disks = ["disk0", "disk1"].map((node, i): DiskSpec => (
    { id: `vd${i}`, node, path: dir.join(`${node}.qcow2`), format: "qcow2", sizeBytes: 256 * MIB }
  ));
  const vm = stack.use(await startVm({ dir: dir.path, disks, name: "demo", running: true }));
  console.log("A VM of two disks of 256 MiB runs. Backing it up, with changes in between …\n");
  const target = dir.join("backup");
  const runs: Summary[] = [];
  for (const [i, { level, writes }] of STEPS.entries()) {
    for (const [id, pattern, offset, length] of writes) {
      await vm.write(id, pattern, offset * MIB, length * MIB);
    }
    for (const { id, node } of disks) await vm.snapshotContents(id, dir.join(`${node}.${i}.raw`));
    const { stdout } = await succeed([
      ...["backup", "--socket", vm.socket, "--level", level, "--target", target, "--json"],
    ]);
    runs.push(JSON.parse(stdout) as Summary);
  }
  const rows: string[][] = [];
  for (const [i, run] of runs.entries()) {
    const out = dir.join(`restored${i}`);
    await succeed([
      ...["restore", "merge", "--dir", target, "--target-dir", out, "--until", run.id],
    ]);
    for (const { folder, level, file, bytesWritten } of run.disks) {
      const restored = `${out}/${folder}.qcow2`;
      const verdict = await compare(dir.join(`${folder}.${i}.raw`), "raw", restored, "qcow2")
        .then(() => "identical", (error) => `DIFFERS: ${error.message}`);
      rows.push([level, file, `${(bytesWritten / MIB).toFixed(1)} MiB`, verdict]);
    }
  }
  console.log(table([["LEVEL", "BACKUP", "WRITTEN", "RESTORED AND COMPARED"], ...rows]));
  return rows.every((row) => row.at(-1) === "identical");
}

if (import.meta.main) {
  await runMain(async (made) => {
    if (!await demo(made)) throw new Error("A restored disk differs from what it held");
    console.log("Every point in time was restored as it was. Nothing is left behind.");
  });
}
