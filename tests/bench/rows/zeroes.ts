/** Half of what the disk has allocated is zeroes, as where files were deleted and nothing was discarded. */

import { join } from "@std/path";
import { runDefaultJob } from "../default_job.ts";
import { backupSide, copySide, imageOf, vmOf } from "../disk.ts";
import { formatSize } from "../figures.ts";
import { program, randomRaw } from "../programs.ts";
import { compareSides, linesOf, type Row } from "../row.ts";

const MIB = 1 << 20;

export const zeroes: Row = {
  name: "zeroes",
  async measure(bench) {
    const [sizeMiB, dataMiB] = bench.quick ? [128, 64] : [4096, 1024];
    const raw = join(bench.dir, "disk0.raw");
    await randomRaw(raw, { sizeMiB, dataMiB: dataMiB / 2 });
    // `-S 0` keeps zeroes as they are.
    await program(
      ...["dd", "if=/dev/zero", `of=${raw}`, "bs=1M", "conv=notrunc"] as const,
      ...[`count=${dataMiB / 2}`, `seek=${dataMiB / 2}`],
    );
    const whole = await imageOf(raw, ["-S", "0"]);
    const vm = await vmOf(bench, [whole]);
    const ours = backupSide(bench, vm, [whole], { name: "qmpbackup", level: "copy", isNew: true });
    const job = (to: string) =>
      runDefaultJob(vm, { node: "disk0", image: to, sizeBytes: sizeMiB * MIB });
    const sides = [ours, copySide(bench, whole, "default job", job, 0.6)];
    const lines = linesOf(
      `${sizeMiB} MiB allocated, ${dataMiB / 2} MiB random, the rest zeroes`,
      sides,
      await compareSides(bench, sides),
    );
    const [target, copy] = await Promise.all(
      ["target", "copy.qcow2"].map((name) => program("du", "-sk", join(bench.dir, name))),
    );
    const size = (du = "") => formatSize(Number.parseInt(du) * 1024);
    const sizes = {
      work: "the same, stored",
      ...{ ours: size(target), against: "default job", theirs: size(copy) },
      ratio: (Number.parseInt(target ?? "") / Number.parseInt(copy ?? "")).toFixed(2),
      aim: "no zeroes",
    };
    return { lines: [...lines, sizes] };
  },
};
