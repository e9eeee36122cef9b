/**
 * A small file system of its own, to be filled up. Needs root.
 *
 * @module
 */

import { statfsSync } from "node:fs";
import { join } from "@std/path";

export interface Tmpfs extends AsyncDisposable {
  /** Leaves no byte free. */
  fill(): Promise<void>;
  /** Gives back what `fill()` took. */
  empty(): Promise<void>;
  freeBytes(): number;
}

/** Mounts a tmpfs of this size on a new folder. */
export async function mountTmpfs(path: string, sizeBytes: number): Promise<Tmpfs> {
  await Deno.mkdir(path, { recursive: true });
  await command("mount", "-t", "tmpfs", "-o", `size=${sizeBytes},mode=0700`, "tmpfs", path);
  const filler = join(path, ".filler");
  return {
    async fill() {
      using file = await Deno.open(filler, { create: true, append: true });
      const block = new Uint8Array(1 << 20).fill(1);
      try {
        while (true) await file.write(block);
      } catch (error) {
        if (!String(error).includes("No space")) throw error;
      }
    },
    empty: () => Deno.remove(filler),
    freeBytes() {
      const { bavail, bsize } = statfsSync(path);
      return bavail * bsize;
    },
    // Lazily: a QEMU may still have files open in it.
    [Symbol.asyncDispose]: async () => void await command("umount", "--lazy", path),
  };
}

/** Runs a program that must succeed, and returns what it prints. */
export async function command(name: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(name, { args }).output();
  if (!success) throw new Error(`${name} failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout).trim();
}
