/**
 * That nothing is left behind.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { leftInQemu, queryBlock } from "../support/scene.ts";
import { deviceOf, type Target } from "./target.ts";
import type { World } from "./world.ts";

/**
 * After a run that is done: nothing of ours is in QEMU, each disk has one bitmap of this target's,
 * which is that of its last backup, and no unfinished file lies about.
 *
 * @param inChain Whether the run had a bitmap for each disk: no copy.
 */
export async function assertInOrder(world: World, target: Target, inChain: boolean): Promise<void> {
  assertEquals(await leftInQemu(world.vm), []);
  if (inChain) await assertBitmaps(world, target);
  const unfinished = (await allFiles(target.path)).filter((path) =>
    /\.(partial|replaced|tmp|new)$/.test(path)
  );
  assertEquals(unfinished, []);
  // Those of a run on the other target are known to that alone.
  const tags = target.runs.map(({ id }) => id.split("-").at(-1));
  const fleeces = (await allFiles(world.dir.join("vm"))).filter((path) =>
    tags.some((tag) => path.includes(`qmpbackup-${tag}-`))
  );
  assertEquals(fleeces, []);
}

async function assertBitmaps({ vm }: World, { runs }: Target) {
  const rows = runs.flatMap(({ disks }) => disks);
  const recorded = new Set(rows.map(({ bitmap }) => bitmap));
  for (const { qdev, inserted } of await queryBlock(vm)) {
    const names = (inserted?.["dirty-bitmaps"] ?? []).map(({ name }) => name);
    const last = rows.findLast(({ id, level, result }) =>
      id === deviceOf(qdev ?? "") && level !== "copy" && result === "done"
    );
    assertEquals(names.filter((name) => recorded.has(name)), [last?.bitmap], `Bitmaps of ${qdev}`);
  }
}

async function allFiles(folder: string): Promise<string[]> {
  const entries = await Array.fromAsync(Deno.readDir(folder));
  const files = await Promise.all(
    entries.map(({ name, isDirectory }) =>
      isDirectory ? allFiles(`${folder}/${name}`) : [`${folder}/${name}`]
    ),
  );
  return files.flat();
}
