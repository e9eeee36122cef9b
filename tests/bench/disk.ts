/**
 * A VM with disks to copy, and our side of a row.
 *
 * @module
 */

import { join } from "@std/path";
import { compare, qemuImg } from "../support/qemu_img.ts";
import { succeed } from "../support/tool.ts";
import { type DiskSpec, startVm, type Vm } from "../support/vm.ts";
import { flush, removeAll } from "./programs.ts";
import type { Bench, Side } from "./row.ts";

/** Makes a raw file a qcow2 image, to be a VM's disk, and removes it. */
export async function imageOf(raw: string, options: string[] = []): Promise<string> {
  const image = raw.replace(/\.raw$/, ".qcow2");
  await qemuImg(["convert", "-O", "qcow2", ...options, raw, image]);
  await Deno.remove(raw);
  await flush(image);
  return image;
}

/** Starts a VM on images. Its guest never runs. */
export async function vmOf(bench: Bench, images: string[]): Promise<Vm> {
  const disks = images.map((path, index): DiskSpec => (
    { id: `vd${index}`, node: `disk${index}`, path, format: "qcow2", create: false }
  ));
  return bench.stack.use(await startVm({ dir: bench.dir, disks }));
}

/** How a backup is asked for. */
export interface Asked {
  name: string;
  level: "full" | "inc" | "copy";
  /** The target is a new one in each round. */
  isNew: boolean;
  flags?: string[];
}

/** A whole backup by the tool, without the start of its process. */
export function backupSide(
  { dir }: Bench,
  vm: Vm,
  images: string[],
  { name, level, isNew, flags = [] }: Asked,
): Side {
  const target = join(dir, "target");
  const backup = () =>
    succeed([
      ...["backup", "--socket", vm.socket, "--target", target, "--level", level, "--json"],
      ...flags,
    ]);
  let stdout = "";
  return {
    name,
    prepare: async () => {
      if (isNew) await removeAll(target);
    },
    run: async () => void ({ stdout } = await backup()),
    check: async () => {
      const { disks } = lastLine(stdout);
      for (const [index, image] of images.entries()) {
        const made = disks.find(({ name }) => name === `disk${index}`)?.file;
        if (made === undefined) throw new Error(`There is no backup of disk${index}: ${stdout}`);
        await compare(image, "qcow2", join(target, made), "qcow2");
      }
    },
  };
}

function lastLine(stdout: string): { disks: { name: string; file: string }[] } {
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
}

/** A plain copy of a disk's image into a file, by a program. */
export function copySide(
  { dir }: Bench,
  image: string,
  name: string,
  copy: (to: string) => Promise<unknown>,
  aim?: number,
): Side {
  const to = join(dir, "copy.qcow2");
  return {
    name,
    ...(aim === undefined ? {} : { aim }),
    prepare: () => removeAll(to),
    run: async () => {
      await copy(to);
      await flush(to);
    },
    check: () => compare(image, "qcow2", to, "qcow2"),
  };
}
