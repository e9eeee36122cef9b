/**
 * What a long chain costs, in questions to the file system and in processes: these must not grow faster than the
 * chain does.
 */

import { assert, assertEquals } from "@std/assert";
import { Deadline } from "../../src/fs/deadline.ts";
import { imageStates } from "../../src/overview/image_states.ts";
import { readTarget } from "../../src/repo/repository.ts";
import { addIncrements, type Increment } from "../support/long_chain.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { ended, startTool } from "../support/tool.ts";
import { firstDifference } from "./_images.ts";
import { makeTarget } from "./_pruned_target.ts";

/** Counts how often it is asked whether a file system answers. */
class CountingDeadline extends Deadline {
  count = 0;

  override async run<T>(path: string, operate: () => Promise<T>): Promise<T> {
    this.count++;
    return await super.run(path, operate);
  }
}

Deno.test("Reading a target asks its file system once for several records, and once for several images", async () => {
  await using dir = await tempDir();
  const path = dir.join("target");
  await makeTarget(path, { levels: ["full"] });
  const count = async () => {
    const deadline = new CountingDeadline(30_000);
    const target = await readTarget(deadline, path);
    const records = deadline.count;
    const states = await imageStates(deadline, target);
    assertEquals([...states.values()].filter(({ state }) => state !== "present"), []);
    return { records, images: deadline.count - records, runs: target.runs.length };
  };
  const short = await count();
  await addIncrements(path, 80);
  const long = await count();
  assertEquals(long.runs - short.runs, 80);
  assert(long.records - short.records <= 10, `${long.records - short.records}`);
  assert(long.images - short.images <= 10, `${long.images - short.images}`);
});

/** Runs the tool, and tells which subcommands of `qemu-img` it used, and how often. */
async function countQemuImg(dir: TempDir, args: string[]): Promise<Map<string, number>> {
  const bin = dir.join("bin"), log = dir.join("qemu-img.log");
  await Deno.mkdir(bin, { recursive: true });
  await Deno.writeTextFile(log, "");
  const path = Deno.env.get("PATH") ?? "";
  const script = `#!/bin/sh\necho "$1" >>"${log}"\nPATH="${path}" exec qemu-img "$@"\n`;
  await Deno.writeTextFile(`${bin}/qemu-img`, script, { mode: 0o755 });
  const { code, stderr } = await ended(startTool(args, { env: { PATH: `${bin}:${path}` } }));
  assertEquals(code, 0, stderr);
  const commands = (await Deno.readTextFile(log)).split("\n").filter((line) => line !== "");
  return new Map(
    [...Map.groupBy(commands, (name) => name)].map(([name, all]) => [name, all.length]),
  );
}

const CLUSTER = 4096;

/** What the disk holds after these increments. */
function applied(bytes: Uint8Array, increments: Increment[]): Uint8Array {
  const now = bytes.slice();
  for (const { cluster, clusters, value } of increments) {
    now.fill(value, cluster * CLUSTER, (cluster + clusters) * CLUSTER);
  }
  return now;
}

Deno.test("A restore starts one program for each image, and few more", async () => {
  await using dir = await tempDir();
  const path = dir.join("target");
  const [full] = await makeTarget(path, { levels: ["full"] });
  const increments = await addIncrements(path, 20);
  const file = dir.join("restored");
  const count = await countQemuImg(dir, [
    ...["restore", "merge", "--dir", `${path}/disk0`, "--format", "raw", "--targetfile", file],
  ]);
  const expected = applied(full?.contents.get("disk0") ?? new Uint8Array(), increments);
  assertEquals(firstDifference(await Deno.readFile(file), expected), null);
  assertEquals(Object.fromEntries(count), { "--version": 1, check: 21, measure: 1, convert: 1 });
  const planned = ["restore", "commit", "--dir", `${path}/disk0`, "--dry-run"];
  assertEquals(Object.fromEntries(await countQemuImg(dir, planned)), { "--version": 1, check: 21 });
});
