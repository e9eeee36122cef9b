/** An increment, a list and a restore at the end of ever longer chains. */

import { join } from "@std/path";
import { compare } from "../../support/qemu_img.ts";
import { succeed } from "../../support/tool.ts";
import { backupSide, imageOf, vmOf } from "../disk.ts";
import { formatSeconds, median } from "../figures.ts";
import { flush, randomRaw, removeAll } from "../programs.ts";
import { compareSides, type Line, type Row, type Side } from "../row.ts";

export const chain: Row = {
  name: "chain",
  async measure(bench) {
    const raw = join(bench.dir, "disk0.raw");
    await randomRaw(raw, { sizeMiB: 256, dataMiB: 64 });
    const image = await imageOf(raw);
    const vm = await vmOf(bench, [image]);
    const [target, restored] = ["target", "restored"].map((name) => join(bench.dir, name)) as [
      string,
      string,
    ];
    const inc = backupSide(bench, vm, [image], { name: "inc", level: "inc", isNew: false });
    const info: Side = {
      name: "info",
      run: async () => void await succeed(["info", "--dir", target]),
      check: () => Promise.resolve(),
    };
    const merge: Side = {
      name: "merge",
      prepare: () => removeAll(restored),
      run: async () => {
        await succeed(["restore", "merge", "--dir", target, "--target-dir", restored]);
        await flush(join(restored, "disk0.qcow2"));
      },
      check: () => compare(image, "qcow2", join(restored, "disk0.qcow2"), "qcow2"),
    };
    let length = 0;
    const backUp = async (level: string) => {
      await vm.write("vd0", length % 255 + 1, length % 256 * 65536, 65536);
      await succeed(["backup", "--socket", vm.socket, "--target", target, "--level", level]);
      length++;
    };
    await backUp("full");
    const series = ["inc", "info", "merge"].map((name) => (
      { name, points: [] as [number, number][] }
    ));
    const lines: Line[] = [];
    let first: number[] = [];
    for (const wanted of bench.quick ? [1, 4] : [1, 30, 100, 300]) {
      while (length < wanted) await backUp("inc");
      const times = await compareSides(bench, [info, merge, inc]);
      // Each round of `inc` made the chain longer.
      const [ofInfo = 0, ofMerge = 0, ofInc = 0] = times.map(median);
      length += bench.rounds;
      const now = [ofInc, ofInfo, ofMerge];
      if (first.length === 0) first = now;
      for (const [index, { name, points }] of series.entries()) {
        const [ours = 0, atFirst = 0] = [now[index], first[index]];
        points.push([wanted, ours / 1000]);
        if (wanted === 1) continue;
        lines.push({
          work: `${name}, a chain of ${wanted}`,
          ours: formatSeconds(ours),
          against: "a chain of 1",
          theirs: formatSeconds(atFirst),
          ratio: (ours / atFirst).toFixed(2),
          aim: name === "merge" ? "≤ 2" : "+ 0.2 s at 1000",
        });
      }
    }
    const xLabel = "images in the chain";
    return { lines, plot: { name: "chain", title: "By length of the chain", xLabel, series } };
  },
};
