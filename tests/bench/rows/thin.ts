/** Large disks with next to nothing in them. */

import { join } from "@std/path";
import { create, qemuImg, qemuIo } from "../../support/qemu_img.ts";
import { backupSide, copySide, vmOf } from "../disk.ts";
import { flush } from "../programs.ts";
import { compareSides, type Line, linesOf, type Row } from "../row.ts";

const SIZES = { "256 GiB": 2 ** 38, "2 TiB": 2 ** 41, "20 TiB": 20 * 2 ** 40 };

export const thin: Row = {
  name: "thin",
  async measure(bench) {
    const lines: Line[] = [];
    for (const [name, sizeBytes] of Object.entries(SIZES).slice(0, bench.quick ? 1 : undefined)) {
      await using stack = new AsyncDisposableStack();
      const image = join(bench.dir, "disk0.qcow2");
      await create(image, sizeBytes);
      stack.defer(() => Deno.remove(image));
      await qemuIo(image, "qcow2", "write -P 7 100M 1M");
      await qemuIo(image, "qcow2", `write -P 9 ${sizeBytes / 2} 1M`);
      await flush(image);
      const vm = await vmOf({ ...bench, stack }, [image]);
      const asked = { name: "qmpbackup", level: "copy", isNew: true } as const;
      const sides = [
        backupSide(bench, vm, [image], asked),
        copySide(
          bench,
          image,
          "qemu-img convert",
          (to) => qemuImg(["convert", "-U", "-O", "qcow2", image, to]),
        ),
      ];
      const times = await compareSides(bench, sides);
      lines.push(...linesOf(`full, ${name} with 2 MiB in it`, sides, times));
    }
    return { lines };
  },
};
