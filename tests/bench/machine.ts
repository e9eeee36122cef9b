/**
 * What the figures were measured on, in two lines.
 *
 * @module
 */

import { counted } from "../../src/cli/output/text.ts";
import { program } from "./programs.ts";

/** @param dir The folder that was written to. */
export async function describeMachine(
  dir: string,
  { rounds, quick }: { rounds: number; quick: boolean },
): Promise<string> {
  const date = new Date().toISOString().slice(0, 10);
  const version = /version (\d+\.\d+\.\d+)/.exec(await program("qemu-system-x86_64", "--version"));
  const type = (await program("stat", "-f", "-c", "%T", dir)).trim();
  const memory = /MemTotal:\s+(\d+)/.exec(await Deno.readTextFile("/proc/meminfo"))?.[1];
  const gib = Math.round(Number(memory) / 2 ** 20);
  const load = Deno.loadavg()[0]?.toFixed(1);
  return [
    `${date}, QEMU ${version?.[1]}, Linux ${Deno.osRelease()}, ${
      type.replace("ext2/ext3", "ext4")
    },`,
    `${navigator.hardwareConcurrency} cores, ${gib} GiB of memory, load ${load}, ` +
    `${counted(rounds, "round")}${quick ? " of the quick kind" : ""}`,
  ].join("\n");
}
