import { assertEquals, assertRejects } from "@std/assert";
import { dirname } from "@std/path";
import { findInTarget } from "../../src/recovery/in_target.ts";
import { repair } from "../../src/recovery/leftover.ts";
import { restorePoints } from "../../src/repo/chains.ts";
import type { DiskRecord, RunRecord } from "../../src/repo/record.ts";
import { createTarget, readTarget, writeRun } from "../../src/repo/repository.ts";
import { Failure } from "../../src/errors.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun, NOW_SECONDS } from "../unit/_fixtures.ts";
import { names } from "./_images.ts";
import { deadline } from "../support/deadline.ts";

type Result = "done" | "failed" | "pending";

async function repairAll(target: string) {
  for (const leftover of await findInTarget(deadline, await readTarget(deadline, target))) {
    await repair(leftover);
  }
}

/** A target whose runs, one after the other, made the same image, and what lies in its folder. */
async function targetOf(
  results: Result[],
  files: Record<string, string>,
  image = "d",
): Promise<TempDir> {
  const dir = await tempDir();
  await createTarget(deadline, dir.path);
  for (const [i, result] of results.entries()) {
    const disk = aDiskRecord("disk0", { file: `disk0/${image}`, result, fleece: "" });
    const state = result === "pending" ? "running" : result;
    await writeRun(deadline, dir.path, aRun([disk], { id: `run-${i}`, sequence: i + 1, state }));
  }
  await Deno.mkdir(dir.join("disk0"));
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(dir.join("disk0", name), text);
  }
  await repairAll(dir.path);
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
  const points = restorePoints((await readTarget(deadline, dir.path)).runs);
  assertEquals(points.map(({ run }) => run.id), ["run-2"]);
});

Deno.test("Recovery finds a file once, though two dead runs name it", async () => {
  const image = "FULL-1999999999-d";
  await using dir = await targetOf(["pending", "pending"], { [image]: "new" }, image);
  assertEquals(await names(dir.join("disk0")), []);
});

const TAG = "f00dcafe";
const STARTED = new Date(NOW_SECONDS * 1000).toISOString();

/** A run that was killed, whose record says this of its one disk. */
function killed(disk: Partial<DiskRecord>, run: Partial<RunRecord> = {}): RunRecord {
  return aRun([aDiskRecord("disk0", { result: "pending", fleece: "", ...disk })], {
    id: `20261122T230000Z-${TAG}`,
    sequence: 2,
    state: "running",
    started: STARTED,
    finished: null,
    ...run,
  });
}

/** A target with these records, and files by their path in it. */
async function targetWith(runs: RunRecord[], files: string[]): Promise<TempDir> {
  const dir = await tempDir();
  await createTarget(deadline, dir.join("t"));
  for (const run of runs) await writeRun(deadline, dir.join("t"), run);
  for (const file of files) {
    await Deno.mkdir(dirname(dir.join("t", file)), { recursive: true });
    await Deno.writeTextFile(dir.join("t", file), file);
  }
  return dir;
}

const recover = async (dir: TempDir) => await repairAll(dir.join("t"));

const NEW = `disk0/INC-${NOW_SECONDS}-d`;
const OLD = `disk0/FULL-${NOW_SECONDS - 86400}-d`;

Deno.test("Recovery removes what the run had made", async () => {
  await using dir = await targetWith([killed({ file: NEW })], [NEW, `${NEW}.${TAG}.partial`, OLD]);
  await recover(dir);
  assertEquals(await names(dir.join("t/disk0")), [OLD.slice("disk0/".length)]);
});

for (const state of ["running", "failed"] as const) {
  const result = state === "running" ? "pending" : "failed";
  Deno.test(`Recovery keeps the image of another run that a record says ${state} of`, async () => {
    for (const file of [OLD, NEW]) {
      const runs = [aRun([aDiskRecord("disk0", { file })]), killed({ file, result }, { state })];
      await using dir = await targetWith(runs, [file]);
      await recover(dir);
      assertEquals(await Deno.readTextFile(dir.join("t", file)), file);
    }
  });
}

Deno.test("Recovery keeps what is older than the run, or of which that can't be told", async () => {
  const files = [OLD, "disk0/d", "disk0/FULL-d"];
  for (const file of files) {
    await using dir = await targetWith([killed({ file })], files);
    await recover(dir);
    for (const kept of files) assertEquals(await Deno.readTextFile(dir.join("t", kept)), kept);
  }
});

Deno.test("Recovery removes no fleece but the run's own", async () => {
  await using dir = await targetWith([], []);
  const fleece = (name: string) => dir.join(name);
  const kept = [
    ...[
      `qmpbackup-${TAG}-0.fleece.bak`,
      `qmpbackup-${TAG}-x.fleece`,
      "qmpbackup-00000000-0.fleece",
    ],
    ...[`x-qmpbackup-${TAG}-0.fleece`, "precious", `qmpbackup-${TAG}-.fleece`],
  ];
  for (const name of [...kept, `qmpbackup-${TAG}-7.fleece`]) {
    await Deno.writeTextFile(fleece(name), name);
    await writeRun(deadline, dir.join("t"), killed({ file: NEW, fleece: fleece(name) }));
    await recover(dir);
  }
  assertEquals(await names(dir.path), [...kept, "t"].sort());
  // A tag of another shape proves nothing.
  await Deno.writeTextFile(fleece("qmpbackup-run-0.fleece"), "");
  const other = killed({ fleece: fleece("qmpbackup-run-0.fleece") }, { id: "x-run", sequence: 3 });
  await writeRun(deadline, dir.join("t"), other);
  await recover(dir);
  assertEquals((await names(dir.path)).includes("qmpbackup-run-0.fleece"), true);
});

Deno.test("Recovery removes no folder and no link of a file's name", async () => {
  await using dir = await targetWith([killed({ file: NEW })], ["disk0/x"]);
  await Deno.mkdir(dir.join("t", `${NEW}.${TAG}.partial`));
  await Deno.symlink(dir.join("t/disk0/x"), dir.join("t", NEW));
  await recover(dir);
  assertEquals((await names(dir.join("t/disk0"))).length, 3);
});

Deno.test("Recovery touches nothing where a disk's folder is a link", async () => {
  const outside = `elsewhere/INC-${NOW_SECONDS}-d`;
  await using dir = await targetWith([killed({ file: NEW })], [`../${outside}`]);
  await Deno.symlink(dir.join("elsewhere"), dir.join("t/disk0"));
  await assertRejects(() => recover(dir), Failure, `"${dir.join("t/disk0")}" is a symbolic link`);
  assertEquals(await names(dir.join("elsewhere")), [`INC-${NOW_SECONDS}-d`]);
});

Deno.test("Recovery removes what dead runs left of files that were not whole yet", async () => {
  const records = "_qmpbackup";
  const left = [`${records}/uuid.tmp`, `${records}/a.config.tmp`, `${records}/runs/x.json.tmp`];
  // Outside of our folder such a name may be a disk's.
  const kept = ["uuid.tmp", "a.config.tmp", "disk0/x.tmp", `${records}/qmpbackup-1-0.fleece`];
  await using dir = await targetWith([], [...left, ...kept]);
  await recover(dir);
  assertEquals(await names(dir.join("t", records)), ["qmpbackup-1-0.fleece", "runs"]);
  assertEquals(await names(dir.join("t", records, "runs")), []);
  for (const path of kept) assertEquals(await Deno.readTextFile(dir.join("t", path)), path);
});
