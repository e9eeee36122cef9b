/**
 * In `.build`, since a tmpfs has nothing but its cache.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { dropFromCache } from "../../src/backup/drop_cache.ts";
import { syncPath } from "../../src/fs/durable.ts";
import { deadline } from "../support/deadline.ts";
import { ensurePrograms } from "../support/install_qemu.ts";

const BUILD = fromFileUrl(new URL("../../.build", import.meta.url));

async function cachedBytes(path: string): Promise<number> {
  const args = ["--bytes", "--noheadings", "--output", "RES", path];
  const { stdout } = await new Deno.Command("fincore", { args }).output();
  return Number(new TextDecoder().decode(stdout));
}

async function typeOf(path: string): Promise<string> {
  const { stdout } = await new Deno.Command("stat", { args: ["-f", "-c", "%T", path] }).output();
  return new TextDecoder().decode(stdout).trim();
}

Deno.test("dropFromCache() drops a file that is on the storage", async (t) => {
  await ensurePrograms({ fincore: "util-linux-extra" });
  await Deno.mkdir(BUILD, { recursive: true });
  const folder = await Deno.makeTempDir({ dir: BUILD });
  try {
    // Named as a user may name it.
    const path = join(folder, "an image=of ours");
    await Deno.writeFile(path, new Uint8Array(16 << 20).fill(7));
    await syncPath(deadline, path);
    await t.step({
      name: "on a file system with a page cache",
      ignore: await typeOf(folder) === "tmpfs",
      fn: async () => {
        await dropFromCache(deadline, path);
        const bytes = await cachedBytes(path);
        assert(bytes < 1 << 20, `${bytes} bytes`);
      },
    });
    assertEquals((await Deno.readFile(path)).every((byte) => byte === 7), true);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("dropFromCache() does nothing about a file that is not there", async () => {
  await dropFromCache(deadline, join(BUILD, crypto.randomUUID()));
});
