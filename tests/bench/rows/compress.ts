/** Compressed full backups: zstd, against zlib. */

import { join } from "@std/path";
import { backupSide, imageOf, vmOf } from "../disk.ts";
import { program, randomRaw } from "../programs.ts";
import { compareSides, linesOf, type Row } from "../row.ts";

export const compress: Row = {
  name: "compress",
  async measure(bench) {
    const dataMiB = bench.quick ? 32 : 512;
    const raw = join(bench.dir, "disk0.raw");
    await randomRaw(raw, { sizeMiB: 2 * dataMiB, dataMiB: 8 });
    // Programs and texts, as they lie on most disks.
    await program(
      ...["sh", "-ec"] as const,
      'tar -cf - -C / usr/lib usr/share 2>/dev/null | dd of="$1" bs=1M count="$2" seek=8 conv=notrunc iflag=fullblock',
      ...["sh", raw, String(dataMiB - 8)],
    );
    const image = await imageOf(raw);
    const vm = await vmOf(bench, [image]);
    const side = (name: "zstd" | "zlib") =>
      backupSide(bench, vm, [image], {
        ...{ name: `--compress=${name}`, level: "copy", isNew: true },
        flags: [`--compress=${name}`],
      });
    const sides = [side("zstd"), { ...side("zlib"), aim: 0.3 }];
    const work = `full, ${dataMiB} MiB of programs and texts, --compress=zstd`;
    return { lines: linesOf(work, sides, await compareSides(bench, sides)) };
  },
};
