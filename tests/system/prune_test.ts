import { assertEquals } from "@std/assert";
import { tempDir } from "../support/temp_dir.ts";
import { succeed } from "../support/tool.ts";
import { mustRun } from "../support/run.ts";
import { filesOf, recordsOf } from "../support/scene.ts";
import {
  assertNewestByName,
  assertReadsPlain,
  assertRestores,
  idsOf,
  LARGE,
  type MakeOptions,
  makeTarget,
  runIdOf,
} from "./_pruned_target.ts";

interface Case {
  options: MakeOptions;
  flags: string[];
  kept: number[];
  files: string[];
  /** The run of the full backup that stays below. */
  base?: number;
}

const T = Date.parse("2026-01-01T12:00:00Z") / 1000;
const DAY = 86_400;
/** A full backup that is small against its increments is rolled forward at once. */
const SMALL_FULL = { full: [[0, 256 * 1024, 0x11]] as const as MakeOptions["full"] } as MakeOptions;

const at = (kind: string, index: number, disk = "disk0") =>
  `${disk}/${kind}-${T + index * DAY}-${disk}.qcow2`;

const CASES: Record<string, Case> = {
  "a full backup rolls forward over increments": {
    options: { ...SMALL_FULL, levels: ["full", "inc", "inc", "inc", "inc"] },
    flags: ["--keep-last", "2"],
    kept: [3, 4],
    files: [at("FULL", 3), at("INC", 4)],
  },
  "increments become one between two that are kept, and at the end": {
    options: {
      diskBytes: LARGE,
      full: [[0, LARGE, 0x11]],
      levels: ["full", "inc", "inc", "inc", "inc", "inc"],
      stepSeconds: DAY / 4,
    },
    flags: ["--keep-daily", "2"],
    kept: [1, 5],
    files: [at("FULL", 0), at("INC", 0.25), at("INC", 1.25)],
    base: 0,
  },
  "a large full backup stays below, and is not a point any more": {
    options: {
      diskBytes: LARGE,
      full: [[0, LARGE, 0x11]],
      levels: ["full", "inc", "inc"],
    },
    flags: ["--keep-last", "1"],
    kept: [2],
    files: [at("FULL", 0), at("INC", 2)],
    base: 0,
  },
  "two chains of two disks, and a run that lacks one": {
    options: {
      ...SMALL_FULL,
      disks: ["disk0", "disk1"],
      levels: ["full", "inc", "inc", "full", "inc", "-"],
    },
    flags: ["--keep-last", "2"],
    kept: [4, 5],
    files: [
      ...[at("FULL", 4), at("INC", 5)],
      at("FULL", 4, "disk1"),
    ],
  },
  "copies go by themselves": {
    options: { ...SMALL_FULL, levels: ["full", "copy", "inc", "copy", "inc"] },
    flags: ["--keep-last", "2"],
    kept: [3, 4],
    files: [at("COPY", 3), at("FULL", 4)],
  },
  "a chain without links, as the Python tools leave it": {
    options: { ...SMALL_FULL, isUnlinked: true, levels: ["full", "inc", "inc", "inc"] },
    flags: ["--keep-last", "2"],
    kept: [2, 3],
    files: [at("FULL", 2), at("INC", 3)],
  },
};

for (const [what, { options, flags, kept, files, base = null }] of Object.entries(CASES)) {
  Deno.test(`\`cleanup --prune\` killed anywhere loses no kept point: ${what}`, async () => {
    await using dir = await tempDir();
    const target = dir.join("target");
    const points = await makeTarget(target, options);
    const rest = points.filter((_, index) => kept.includes(index));
    const args = ["cleanup", "--prune", "--target", target, ...flags];
    const before = await filesOf(target);
    await succeed([...args, "--dry-run"]);
    assertEquals(await filesOf(target), before);
    const moments = await momentsOf(target, dir.join("moments"), () => succeed(args));
    const check = async (path: string) => {
      await assertRestores(path, rest);
      if (!options.isUnlinked) await assertReadsPlain(path, rest);
    };
    for (const moment of moments) {
      await check(moment);
      await assertNewestByName(moment, rest);
      await succeed(["cleanup", "--prune", "--target", moment, ...flags]);
      assertEquals(await imagesOf(moment), files);
      await (options.isUnlinked ? assertRestores : assertReadsPlain)(moment, rest);
    }
    assertEquals(await idsOf(target), kept.map(runIdOf));
    await check(target);
    assertEquals(await imagesOf(target), files);
    const runs = kept.map((index) => `${runIdOf(index)}.json`);
    assertEquals(
      await recordsOf(target),
      base === null ? runs : [`${runIdOf(base)}.json`, ...runs],
    );
  });
}

Deno.test("a target whose prune was killed anywhere is not taken for a damaged one", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await makeTarget(target, { ...SMALL_FULL, levels: ["full", "inc", "inc", "inc", "inc"] });
  // The digests are recorded.
  await succeed(["restore", "verify", "--dir", target]);
  const args = ["cleanup", "--prune", "--target", target, "--keep-last", "2"];
  const moments = await momentsOf(target, dir.join("moments"), () => succeed(args));
  for (const moment of [...moments, target]) await succeed(["restore", "verify", "--dir", moment]);
});

const imagesOf = async (target: string) =>
  (await filesOf(target)).filter((name) => name !== "uuid");

/**
 * Copies a target at every moment at which a run may be killed: before each change of a name in it. What
 * `qemu-img` writes to has no name that counts by then.
 *
 * @returns The copies.
 */
async function momentsOf(
  target: string,
  folder: string,
  run: () => Promise<unknown>,
): Promise<string[]> {
  await Deno.mkdir(folder);
  const moments: string[] = [];
  const { rename, remove, utime } = Deno;
  const copy = async () => {
    const path = `${folder}/${moments.length}`;
    await mustRun("cp", ["-a", target, path]);
    moments.push(path);
  };
  Deno.rename = async (from, to) => {
    await copy();
    await rename(from, to);
  };
  Deno.remove = async (path, options) => {
    if (!/\.tmp$|\/_prune/.test(String(path))) await copy();
    await remove(path, options);
  };
  Deno.utime = async (path, atime, mtime) => {
    await copy();
    await utime(path, atime, mtime);
  };
  try {
    await run();
  } finally {
    Object.assign(Deno, { rename, remove, utime });
  }
  return moments;
}
