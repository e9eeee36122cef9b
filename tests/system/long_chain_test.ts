/**
 * What a long chain costs, in questions to the file system and in processes: these must not grow faster than the
 * chain does.
 */

import { assert, assertEquals } from "@std/assert";
import { Deadline } from "../../src/fs/deadline.ts";
import { imageStates } from "../../src/overview/image_states.ts";
import { readTarget } from "../../src/repo/repository.ts";
import { addIncrements } from "../support/long_chain.ts";
import { tempDir } from "../support/temp_dir.ts";
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
