import { assertEquals } from "@std/assert";
import { findInTarget, putRight } from "../../src/backup/recover.ts";
import { restorePoints } from "../../src/catalog/chains.ts";
import { createTarget, readTarget, writeRun } from "../../src/catalog/target.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { names } from "./_images.ts";

type Result = "done" | "failed" | "pending";

/** A target whose runs, one after the other, made the same image, and what lies in its folder. */
async function targetOf(
  results: Result[],
  files: Record<string, string>,
  image = "d",
): Promise<TempDir> {
  const dir = await tempDir();
  await createTarget(dir.path);
  for (const [i, result] of results.entries()) {
    const disk = aDiskRecord("disk0", { file: `disk0/${image}`, result, fleece: "" });
    const state = result === "pending" ? "running" : result;
    await writeRun(dir.path, aRun([disk], { id: `run-${i}`, sequence: i + 1, state }));
  }
  await Deno.mkdir(dir.join("disk0"));
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(dir.join("disk0", name), text);
  }
  await putRight(await findInTarget(await readTarget(dir.path)));
  return dir;
}

const text = (dir: TempDir) => Deno.readTextFile(dir.join("disk0/d"));

Deno.test("Recovery puts an image back that a dead run had set aside", async () => {
  await using dir = await targetOf(["done", "pending"], {
    "d.replaced": "old",
    "d.1.partial": "new",
  });
  assertEquals([await names(dir.join("disk0")), await text(dir)], [["d"], "old"]);
});

Deno.test("Recovery puts it back over one that does not count yet", async () => {
  await using dir = await targetOf(["done", "pending"], { "d.replaced": "old", d: "new" });
  assertEquals([await names(dir.join("disk0")), await text(dir)], [["d"], "old"]);
});

Deno.test("Recovery removes it where the new one counts, whatever failed before", async () => {
  await using dir = await targetOf(["done", "failed", "done"], { "d.replaced": "old", d: "new" });
  assertEquals([await names(dir.join("disk0")), await text(dir)], [["d"], "new"]);
  const points = restorePoints((await readTarget(dir.path)).runs);
  assertEquals(points.map(({ run }) => run.id), ["run-2"]);
});

Deno.test("Recovery finds a file once, though two dead runs name it", async () => {
  const image = "FULL-1999999999-d";
  await using dir = await targetOf(["pending", "pending"], { [image]: "new" }, image);
  assertEquals(await names(dir.join("disk0")), []);
});
