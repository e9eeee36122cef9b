/** An increment of two disks in which nothing has changed. */

import { join } from "@std/path";
import { succeed } from "../../support/tool.ts";
import { backupSide, imageOf, vmOf } from "../disk.ts";
import { formatSeconds, median, spread } from "../figures.ts";
import { randomRaw } from "../programs.ts";
import { compareSides, type Row } from "../row.ts";

export const idle: Row = {
  name: "idle",
  async measure(bench) {
    const images = [];
    for (const index of [0, 1]) {
      const raw = join(bench.dir, `disk${index}.raw`);
      await randomRaw(raw, { sizeMiB: 256, dataMiB: 16 });
      images.push(await imageOf(raw));
    }
    const vm = await vmOf(bench, images);
    const target = join(bench.dir, "target");
    await succeed(["backup", "--socket", vm.socket, "--target", target, "--level", "full"]);
    const side = backupSide(bench, vm, images, { name: "", level: "inc", isNew: false });
    const [times = []] = await compareSides(bench, [side]);
    const [least, most] = spread(times);
    const line = {
      work: "increment, 2 disks, nothing changed",
      ours: `${formatSeconds(median(times))} (${formatSeconds(least)}–${formatSeconds(most)})`,
      ...{ against: "", theirs: "", ratio: "", aim: "≤ 0.25 s" },
    };
    return { lines: [line] };
  },
};
