/** Full backups of ever larger disks: twice the data takes twice the time. */

import { join } from "@std/path";
import { backupSide, imageOf, vmOf } from "../disk.ts";
import { median } from "../figures.ts";
import { randomRaw } from "../programs.ts";
import { compareSides, type Line, linesOf, type Row } from "../row.ts";
import { plainCopies } from "./full.ts";

export const size: Row = {
  name: "size",
  async measure(bench) {
    const lines: Line[] = [];
    const series: { name: string; points: [number, number][] }[] = [];
    for (const dataMiB of bench.quick ? [16, 32] : [128, 512, 1024, 2048]) {
      await using stack = new AsyncDisposableStack();
      const raw = join(bench.dir, "disk0.raw");
      await randomRaw(raw, { sizeMiB: 4 * dataMiB, dataMiB });
      const image = await imageOf(raw);
      stack.defer(() => Deno.remove(image));
      const vm = await vmOf({ ...bench, stack }, [image]);
      const asked = { name: "qmpbackup", level: "copy", isNew: true } as const;
      const [, convert] = plainCopies(bench, image);
      const sides = [backupSide(bench, vm, [image], asked), ...convert ? [convert] : []];
      const times = await compareSides(bench, sides);
      lines.push(...linesOf(`full, ${dataMiB} MiB random`, sides, times));
      for (const [index, { name }] of sides.entries()) {
        series[index] ??= { name, points: [] };
        series[index].points.push([dataMiB, median(times[index] ?? []) / 1000]);
      }
    }
    const plot = { name: "size", title: "Full backup by size", xLabel: "MiB of data", series };
    return { lines, plot };
  },
};
