/** A full backup, against the job that the Python tool starts and the fastest plain copies of the idle image. */

import { join } from "@std/path";
import { runDefaultJob } from "../default_job.ts";
import { backupSide, copySide, imageOf, vmOf } from "../disk.ts";
import { program, randomRaw } from "../programs.ts";
import { type Bench, compareSides, linesOf, type Row, type Side } from "../row.ts";

const MIB = 1 << 20;

/** The ways to copy an idle image of which the fastest is the floor. */
export function plainCopies(bench: Bench, image: string, aim?: number): Side[] {
  const convert = ["-U", "-W", "-m", "16", "-O", "qcow2"];
  return [
    copySide(bench, image, "cp", (to) => program("cp", image, to), aim),
    copySide(
      bench,
      image,
      "convert -W -m 16",
      (to) => program("qemu-img", "convert", ...convert, image, to),
      aim,
    ),
    copySide(
      bench,
      image,
      "dd oflag=direct bs=1M",
      (to) => program("dd", `if=${image}`, `of=${to}`, "bs=1M", "oflag=direct"),
      aim,
    ),
  ];
}

export const full: Row = {
  name: "full",
  async measure(bench) {
    const [sizeMiB, dataMiB] = bench.quick ? [256, 64] : [8192, 2048];
    const raw = join(bench.dir, "disk0.raw");
    await randomRaw(raw, { sizeMiB, dataMiB, atMiB: sizeMiB / 4 });
    const image = await imageOf(raw);
    const vm = await vmOf(bench, [image]);
    const asked = { level: "copy", isNew: true } as const;
    const ours = backupSide(bench, vm, [image], { ...asked, name: "qmpbackup" });
    const bare = backupSide(bench, vm, [image], {
      ...{ ...asked, name: "qmpbackup --no-digest" },
      flags: ["--no-digest"],
    });
    const job = (to: string) =>
      runDefaultJob(vm, { node: "disk0", image: to, sizeBytes: sizeMiB * MIB });
    const others = [
      copySide(bench, image, "default job", job, 0.5),
      ...plainCopies(bench, image, 1.15),
    ];
    const times = await compareSides(bench, [ours, bare, ...others]);
    const [withDigest = [], without = [], ...rest] = times;
    const work = `full, ${dataMiB} MiB random of ${sizeMiB} MiB`;
    return {
      lines: [
        ...linesOf(work, [ours, ...others], [withDigest, ...rest]),
        ...linesOf("the same, --no-digest", [bare, ...others], [without, ...rest]),
      ],
    };
  },
};
