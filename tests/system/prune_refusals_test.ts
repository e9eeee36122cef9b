import { deadline } from "../support/deadline.ts";
import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { holderNow, takeLock } from "../../src/fs/flock.ts";
import { LOCK_FILE } from "../../src/repo/layout.ts";
import { exists } from "../../src/fs/durable.ts";
import { recordDigest } from "../../src/digest/store.ts";
import { giveUp } from "../../src/prune/carry_out.ts";
import { readTarget } from "../../src/repo/repository.ts";
import { info, qemuImg } from "../support/qemu_img.ts";
import { filesOf, recordsOf } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { mountTmpfs } from "../support/tmpfs.ts";
import { firstDifference, readImage } from "./_images.ts";
import {
  assertReadsPlain,
  assertRestores,
  idsOf,
  type MadePoint,
  makeTarget,
  runIdOf,
} from "./_pruned_target.ts";

const T = Date.parse("2026-01-01T12:00:00Z") / 1000;
const DAY = 86_400;
const image = (kind: string, index: number) => `disk0/${kind}-${T + index * DAY}-disk0.qcow2`;
const SMALL = { full: [[0, 256 * 1024, 0x11]] } as const;
const LEVELS = ["full", "inc", "inc", "inc"] as const;

async function made(path: string): Promise<MadePoint[]> {
  return await makeTarget(path, { full: [...SMALL.full], levels: LEVELS });
}

const prune = (target: string, ...more: string[]) =>
  tool(["cleanup", "--prune", "--target", target, "--keep-last", "1", ...more]);

Deno.test("`cleanup --prune` never removes a protected run, and says what its note is", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await made(target);
  const mark = (...args: string[]) => succeed(["cleanup", "--target", target, ...args]);
  await mark("--protect", runIdOf(1), "--note", runIdOf(1), "before the upgrade");
  const listed = await succeed(["list", "--dir", target]);
  assertStringIncludes(listed.stdout, 'protected; "before the upgrade"');
  const { stdout } = await prune(target, "--json");
  const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.map(({ keptBy }) => keptBy), [[], ["protected"], [], ["last"], undefined]);
  assertEquals(lines[1].note, "before the upgrade");
  assertEquals(await idsOf(target), [1, 3].map(runIdOf));
  await assertRestores(target, [points[1], points[3]] as MadePoint[]);
  await mark("--unprotect", runIdOf(1));
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  assertEquals(await idsOf(target), [runIdOf(3)]);
  // What was said of a run goes with it.
  assert(!await exists(deadline, join(target, "_qmpbackup/marks")));
});

Deno.test("`cleanup --protect` refuses a run that is not there, and names the newest", async () => {
  await using dir = await tempDir();
  await made(dir.join("target"));
  const { code, stderr } = await tool([
    "cleanup",
    "--target",
    dir.join("target"),
    "--protect",
    "x",
  ]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, `There is no run "x" here; the newest is "${runIdOf(3)}"`);
});

Deno.test("`cleanup --prune` leaves a chain alone of which an image was changed", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await makeTarget(target, { full: [...SMALL.full], levels: [...LEVELS, "full", "inc", "inc"] });
  await Deno.chmod(join(target, image("INC", 2)), 0o600);
  await qemuImg(["snapshot", "-c", "x", join(target, image("INC", 2))]);
  const { code, stderr } = await prune(target);
  assertEquals(code, 0);
  assertStringIncludes(stderr, "The points of a chain stay as they are");
  assertStringIncludes(stderr, image("INC", 2));
  assertEquals(await idsOf(target), [0, 1, 2, 3, 6].map(runIdOf));
});

Deno.test("`cleanup --prune` leaves a chain alone on which a VM's disk builds", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await made(target);
  const overlay = join(target, "disk0/vm.qcow2");
  const backing = image("INC", 1).split("/")[1] ?? "";
  await qemuImg(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing, overlay]);
  const { stderr } = await prune(target);
  assertStringIncludes(stderr, "is in no record, and builds on");
  await assertReadsPlain(target, points);
  assertEquals((await idsOf(target)).length, 4);
});

Deno.test("`cleanup --prune` leaves a chain alone of which a point is attached, until that is dead", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await made(target);
  const attach = ["restore", "attach", "--dir", target, "--until", runIdOf(1)];
  await succeed([...attach, "--target-dir", dir.join("try")]);
  const { stderr } = await prune(target);
  assertStringIncludes(stderr, "restore attach --detach");
  await assertRestores(target, points);
  assertEquals((await idsOf(target)).length, 4);
  await Deno.remove(dir.join("try"), { recursive: true });
  await prune(target);
  assertEquals(await idsOf(target), [runIdOf(3)]);
});

Deno.test("`cleanup --prune` leaves alone what was attached after a prune that was stopped half way", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await made(target);
  const { runs } = await readTarget(deadline, target);
  for (const run of runs.slice(0, 3)) {
    await giveUp(deadline, { path: target, runs }, run, new Set(run.disks.map(({ file }) => file)));
  }
  const overlay = dir.join("try/disk0.qcow2");
  await succeed(["restore", "attach", "--dir", target, "--target-dir", dir.join("try")]);
  const before = await filesOf(target);
  const { code, stderr } = await prune(target);
  assertEquals(code, 0, stderr);
  assertStringIncludes(stderr, "restore attach --detach");
  assertEquals(await filesOf(target), before);
  assertEquals(
    firstDifference(
      await readImage(overlay, "qcow2"),
      points[3]?.contents.get("disk0") as Uint8Array,
    ),
    null,
  );
  await succeed(["restore", "attach", "--dir", target, "--detach", "all"]);
  await prune(target);
  assertEquals((await filesOf(join(target, "disk0"))).length, 1);
  await assertRestores(target, [points[3] as MadePoint]);
});

Deno.test("`cleanup --prune` merges nothing whose digest shows damage", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await made(target);
  for (const file of [image("FULL", 0), image("INC", 3)]) {
    await recordDigest(deadline, target, file);
  }
  // A byte of the guest's data, which neither the fingerprint nor `qemu-img check` looks at.
  const path = join(target, image("FULL", 0));
  await Deno.chmod(path, 0o600);
  using file = await Deno.open(path, { write: true });
  await file.seek(-70_000, Deno.SeekMode.End);
  await file.write(new Uint8Array([0x99]));
  const { code, stderr } = await prune(target);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "its contents do not match its digests");
  assertEquals(await idsOf(target), [runIdOf(3)]);
  assert((await filesOf(target)).includes(image("FULL", 0)));
  await file.seek(-70_000, Deno.SeekMode.End);
  await file.write(new Uint8Array([0x11]));
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  await assertRestores(target, [points[3] as MadePoint]);
  const digests = join(target, "_qmpbackup/digests/disk0");
  const names = await Array.fromAsync(Deno.readDir(digests), ({ name }) => name);
  assertEquals(names, [`${image("FULL", 3).split("/")[1]}.json`]);
});

Deno.test("`cleanup --prune` keeps images compressed, whatever clusters they have", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await makeTarget(target, {
    full: [[0, 1 << 20, 0x11]],
    levels: LEVELS,
    isCompressed: true,
    clusterBytes: [64, 4, 32, 64].map((kib) => kib * 1024),
  });
  const compressed = async (file: string) => {
    const text = await qemuImg(["check", "--output=json", join(target, file)]);
    const { raw } = await info(join(target, file));
    assertStringIncludes(JSON.stringify(raw), '"compression-type":"zstd"');
    return JSON.parse(text)["compressed-clusters"] ?? 0;
  };
  await succeed(["cleanup", "--target", target, "--protect", runIdOf(0)]);
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  assertEquals(await idsOf(target), [0, 3].map(runIdOf));
  await assertReadsPlain(target, points);
  await assertRestores(target, [points[0], points[3]] as MadePoint[]);
  assert(await compressed(image("INC", 3)) > 0);
  await succeed(["cleanup", "--target", target, "--unprotect", runIdOf(0)]);
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  assertEquals(await idsOf(target), [runIdOf(3)]);
  await assertReadsPlain(target, points);
  const file = (await filesOf(target)).filter((name) => name.includes("/")).at(-1) ?? "";
  assert(await compressed(file) > 0, file);
});

Deno.test("`cleanup --prune` says which images it can't merge, and loses nothing", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  const points = await makeTarget(target, {
    full: [[0, 2 << 20, 0x11]],
    levels: LEVELS,
    clusterBytes: [65536, 512],
  });
  await succeed(["cleanup", "--target", target, "--protect", runIdOf(0)]);
  const { code, stderr } = await prune(target);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "Images with clusters of 512 bytes can't be merged");
  assertEquals(await idsOf(target), [0, 3].map(runIdOf));
  await assertRestores(target, [points[0], points[3]] as MadePoint[]);
  await assertReadsPlain(target, points);
});

Deno.test("`cleanup --prune` waits for no run that is at work", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await made(target);
  using _lock = await takeLock(deadline, join(target, LOCK_FILE), holderNow("another"));
  const { code, stderr } = await prune(target);
  assertEquals(code, 11);
  assertStringIncludes(stderr, "Another run is at work on this target");
  assertEquals((await idsOf(target)).length, 4);
});

Deno.test("`cleanup --prune` needs room for what it makes", async () => {
  await using dir = await tempDir();
  await using small = await mountTmpfs(dir.join("small"), 6 << 20);
  const target = dir.join("small/target");
  const points = await made(target);
  // Records can still be written.
  const rest = dir.join("small/rest");
  await Deno.writeFile(rest, new Uint8Array(256 * 1024));
  await small.fill();
  await Deno.remove(rest);
  const { code, stderr } = await prune(target);
  assertEquals(code, 1, stderr);
  assertStringIncludes(stderr, "is too full to merge images into");
  await assertRestores(target, [points[3] as MadePoint]);
  await small.empty();
  assertEquals((await prune(target)).code, 0);
  await assertRestores(target, [points[3] as MadePoint]);
});

Deno.test("`cleanup --prune` removes the records of failed runs, and months in which nothing is left", async () => {
  await using dir = await tempDir();
  const folder = dir.join("vm1");
  const months = ["2025-12", "2026-01"].map((month) => join(folder, month));
  const options = { full: [...SMALL.full], levels: ["full", "-", "inc"] as const };
  await makeTarget(months[0] ?? "", { ...options, start: "2025-12-01T12:00:00Z" });
  const points = await makeTarget(months[1] ?? "", options);
  const { stdout } = await prune(folder, "--dry-run");
  assertStringIncludes(stdout, "3 of 4 points would be removed");
  assertEquals((await prune(folder)).code, 0);
  assertEquals(await Array.fromAsync(Deno.readDir(folder), ({ name }) => name), ["2026-01"]);
  assertEquals(await recordsOf(months[1] ?? ""), [`${runIdOf(2)}.json`]);
  await assertRestores(months[1] ?? "", [points[2] as MadePoint]);
});
