/** An increment of many small changes all over the disk. */

import { join } from "@std/path";
import { qemuIo } from "../../support/qemu_img.ts";
import { succeed } from "../../support/tool.ts";
import { runDefaultJob } from "../default_job.ts";
import { backupSide, imageOf, vmOf } from "../disk.ts";
import { flush, randomRaw, removeAll } from "../programs.ts";
import { compareSides, linesOf, type Row, type Side } from "../row.ts";

const MIB = 1 << 20;

export const scattered: Row = {
  name: "scattered",
  async measure(bench) {
    const [sizeMiB, changes] = bench.quick ? [256, 100] : [4096, 3000];
    const raw = join(bench.dir, "disk0.raw");
    await randomRaw(raw, { sizeMiB, dataMiB: sizeMiB / 4 });
    const image = await imageOf(raw);
    const vm = await vmOf(bench, [image]);
    const target = join(bench.dir, "target");
    await succeed(["backup", "--socket", vm.socket, "--target", target, "--level", "full"]);
    await vm.execute("block-dirty-bitmap-add", { node: "disk0", name: "plain" });
    const step = Math.floor(sizeMiB * MIB / changes / 65536) * 65536;
    let pattern = 0;
    const change = async () => {
      pattern = pattern % 255 + 1;
      for (let at = 0; at < changes; at++) await vm.write("vd0", pattern, at * step, 65536);
      await vm.flush("vd0");
    };
    const ours = backupSide(bench, vm, [image], { name: "qmpbackup", level: "inc", isNew: false });
    const to = join(bench.dir, "copy.qcow2");
    const job: Side = {
      name: "default job",
      aim: 0.6,
      prepare: () => removeAll(to),
      run: () =>
        runDefaultJob(vm, {
          node: "disk0",
          image: to,
          sizeBytes: sizeMiB * MIB,
          bitmap: "plain",
        }),
      // Read alone, an increment holds the changes and nothing besides.
      check: () => qemuIo(to, "qcow2", `read -P ${pattern} ${step} 65536`),
    };
    const writing: Side = {
      ...ours,
      prepare: async () => {
        await change();
        await flush(image);
      },
    };
    const sides = [writing, job];
    const times = await compareSides(bench, sides);
    return { lines: linesOf(`increment, ${changes} scattered 64 KiB`, sides, times) };
  },
};
