import {
  assert,
  assertEquals,
  assertGreater,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { join } from "@std/path";
import { LOCK_FILE, RUNS_FOLDER } from "../../src/repo/layout.ts";
import { formatRecord, RECORD_HEAD, type RunRecord } from "../../src/repo/record.ts";
import { createTarget, readTarget, writeRun } from "../../src/repo/repository.ts";
import { Failure, StoppedError, UsageError } from "../../src/errors.ts";
import { merge, type MergeOptions, type Restored } from "../../src/restore/merge.ts";
import { LIMITS } from "../../src/restore/passes.ts";
import { pickPoint, pointsOfDisk, pointsOfTarget } from "../../src/restore/points.ts";
import { qemuImg, qemuIo } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import {
  contentsOf,
  firstDifference,
  inParallel,
  KIB,
  makeLayer,
  names,
  readImage,
} from "./_images.ts";
import type { Write } from "./_images.ts";
import { deadline } from "../support/deadline.ts";

const SIZE = 1024 * KIB;

/** Three points of one disk: each covers some of what the one before wrote. */
const FULL: Write[] = [[0, SIZE / 2, 0x11]];
const INC_1: Write[] = [[64 * KIB, 128 * KIB, 0x22], [SIZE - 64 * KIB, 64 * KIB, 0x33]];
const INC_2: Write[] = [[128 * KIB, 64 * KIB, 0], [192 * KIB, 64 * KIB, 0x44]];

/** A disk's folder as the reference leaves it: no links, no records. */
async function referenceFolder(dir: string): Promise<string> {
  const folder = `${dir}/target/disk0`;
  await Deno.mkdir(folder, { recursive: true });
  await Deno.writeTextFile(`${dir}/target/uuid`, "d2a5cb9e-7a5b-4b6c-8f4c-0c0a4b6a5a4c");
  await Deno.writeTextFile(`${dir}/target/disk.qcow2.config`, "{}");
  await makeLayer(`${folder}/FULL-1700000000-disk.qcow2`, SIZE, FULL);
  await makeLayer(`${folder}/INC-1700000100-disk.qcow2`, SIZE, INC_1);
  await makeLayer(`${folder}/INC-1700000200-disk.qcow2`, SIZE, INC_2);
  // Reading order by file times would be wrong.
  await Deno.utime(`${folder}/FULL-1700000000-disk.qcow2`, new Date(), new Date());
  return folder;
}

interface RestoreOptions extends Partial<MergeOptions> {
  until?: string;
}

async function restore(dir: string, targetFile: string, options: RestoreOptions = {}) {
  const { until = null, ...rest } = options;
  const point = pickPoint(await pointsOfDisk(deadline, dir), until);
  const [restored] = await merge([{ point, targetFile }], mergeOptions(rest));
  return restored as Restored;
}

function mergeOptions(options: Partial<MergeOptions> = {}): MergeOptions {
  return {
    format: "qcow2",
    skipCheck: false,
    keyFile: null,
    rateLimitBytesPerSecond: 0,
    deadline,
    signal: new AbortController().signal,
    onProgress: () => {},
    ...options,
  };
}

async function assertHolds(
  path: string,
  format: "qcow2" | "raw",
  sizeBytes: number,
  writes: Write[],
) {
  const expected = contentsOf(sizeBytes, writes);
  assertEquals(firstDifference(await readImage(path, format), expected), null);
}

for (const format of ["qcow2", "raw"] as const) {
  Deno.test(`\`merge()\` restores the reference's folder as ${format}`, async () => {
    await using dir = await tempDir();
    const folder = await referenceFolder(dir.path);
    const before = await names(folder);
    const restored = await restore(folder, dir.join("out"), { format });
    assertEquals(restored, {
      disk: "disk0",
      point: "INC-1700000200-disk.qcow2",
      pointInTime: "2023-11-14T22:16:40.000Z",
      images: 3,
      targetFile: dir.join("out"),
      format,
      virtualSizeBytes: SIZE,
    });
    await assertHolds(dir.join("out"), format, SIZE, [...FULL, ...INC_1, ...INC_2]);
    assertEquals(await names(dir.path), ["out", "target"]);
    assertEquals(await names(folder), before);
  });
}

Deno.test("`merge()` writes a qcow2 image that stands alone", async () => {
  await using dir = await tempDir();
  await restore(await referenceFolder(dir.path), dir.join("out"));
  const info = JSON.parse(await qemuImg(["info", "--output=json", dir.join("out")]));
  assertEquals([info.format, info["backing-filename"]], ["qcow2", undefined]);
});

Deno.test("`merge()` restores a copied folder, whose file times say nothing", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  await Deno.mkdir(dir.join("copy"));
  for (const name of (await names(folder)).toReversed()) {
    await Deno.copyFile(`${folder}/${name}`, dir.join("copy", name));
  }
  await restore(dir.join("copy"), dir.join("out"), { format: "raw" });
  await assertHolds(dir.join("out"), "raw", SIZE, [...FULL, ...INC_1, ...INC_2]);
});

Deno.test("`merge()` only reads the backups", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  const digests = () =>
    Promise.all(["FULL-1700000000", "INC-1700000100", "INC-1700000200"].map(async (name) => {
      const bytes = await Deno.readFile(`${folder}/${name}-disk.qcow2`);
      return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).join();
    }));
  const before = await digests();
  await restore(folder, dir.join("out"));
  assertEquals(await digests(), before);
});

const UNTIL: Record<string, { until: string; writes: Write[] }> = {
  "a file": { until: "INC-1700000100-disk.qcow2", writes: [...FULL, ...INC_1] },
  "a file's path": { until: "/backup/disk0/FULL-1700000000-disk.qcow2", writes: FULL },
  "the time of a point": { until: "2023-11-14T22:15:00Z", writes: [...FULL, ...INC_1] },
  "a time between two": { until: "2023-11-14 23:14:59+01:00", writes: FULL },
  "a day": { until: "2023-11-16", writes: [...FULL, ...INC_1, ...INC_2] },
};
for (const [what, { until, writes }] of Object.entries(UNTIL)) {
  Deno.test(`\`merge()\` restores until ${what}`, async () => {
    await using dir = await tempDir();
    await restore(await referenceFolder(dir.path), dir.join("out"), { format: "raw", until });
    await assertHolds(dir.join("out"), "raw", SIZE, writes);
  });
}

for (const until of ["INC-1-disk.qcow2", "2023-11-14T22:13:19Z", "yesterday", ""]) {
  Deno.test(`\`pickPoint()\` refuses "${until}"`, async () => {
    await using dir = await tempDir();
    const points = await pointsOfDisk(deadline, await referenceFolder(dir.path));
    const error = await assertRejects(async () => await pickPoint(points, until), UsageError);
    assertStringIncludes(error.message, `"${until}"`);
  });
}

Deno.test("`merge()` restores a chain that links itself, grew and has other clusters", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  await makeLayer(`${folder}/FULL-1-d`, SIZE, FULL);
  await makeLayer(`${folder}/COPY-2-d`, SIZE, [[0, SIZE, 0x55]]);
  const grown: Write[] = [[SIZE, 64 * KIB, 0x66], [4 * KIB, 4 * KIB, 0x77]];
  await makeLayer(`${folder}/INC-3-d`, 2 * SIZE, grown, {
    link: "FULL-1-d",
    clusterBytes: 4 * KIB,
  });
  await restore(folder, dir.join("out"), { format: "raw" });
  await assertHolds(dir.join("out"), "raw", 2 * SIZE, [...FULL, ...grown]);
  await restore(folder, dir.join("copy"), { format: "raw", until: "COPY-2-d" });
  await assertHolds(dir.join("copy"), "raw", SIZE, [[0, SIZE, 0x55]]);
});

Deno.test("`merge()` starts from the latest full backup before the point", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  await makeLayer(`${folder}/FULL-1-d`, SIZE, FULL);
  await makeLayer(`${folder}/INC-2-d`, SIZE, INC_1);
  await makeLayer(`${folder}/FULL-3-d`, SIZE, [[0, KIB, 0x55]]);
  await makeLayer(`${folder}/INC-4-d`, SIZE, INC_2);
  assertEquals((await restore(folder, dir.join("out"), { format: "raw" })).images, 2);
  await assertHolds(dir.join("out"), "raw", SIZE, [[0, KIB, 0x55], ...INC_2]);
});

Deno.test("`merge()` reads names that QEMU or a shell could misread", async () => {
  await using dir = await tempDir();
  const folder = dir.join(`it's $(id), "json:{}": nbd:a:1%s\nü😀`);
  await Deno.mkdir(folder);
  const name = `d,size=1\\"'[*]😀\n.qcow2`;
  await makeLayer(`${folder}/FULL-1-${name}`, SIZE, FULL);
  await makeLayer(`${folder}/INC-2-${name}`, SIZE, INC_1, { link: `FULL-1-${name}` });
  await restore(folder, `${folder}/-o out,put`, { format: "raw" });
  await assertHolds(`${folder}/-o out,put`, "raw", SIZE, [...FULL, ...INC_1]);
});

interface Refusal {
  change(folder: string): Promise<unknown>;
  error: typeof Failure | typeof UsageError;
  says: string;
}
const REFUSED: Record<string, Refusal> = {
  "a link to another image than the name before": {
    change: (folder) => link(`${folder}/INC-1700000200-disk.qcow2`, "FULL-1700000000-disk.qcow2"),
    error: Failure,
    says: 'but builds on "',
  },
  "a link that leads out of the folder": {
    change: (folder) => link(`${folder}/INC-1700000100-disk.qcow2`, "/nowhere/else"),
    error: Failure,
    says: 'is linked to "/nowhere/else"',
  },
  "a full backup with a link": {
    change: (folder) => link(`${folder}/FULL-1700000000-disk.qcow2`, "INC-1700000100-disk.qcow2"),
    error: Failure,
    says: "but is a full backup",
  },
  "two images of one time": {
    change: (folder) => makeLayer(`${folder}/INC-1700000100-other.qcow2`, SIZE, []),
    error: Failure,
    says: "have the same time",
  },
  "an increment without a full backup": {
    change: (folder) => Deno.remove(`${folder}/FULL-1700000000-disk.qcow2`),
    error: Failure,
    says: "no full backup before it",
  },
  "a backup that is not finished": {
    change: (folder) => Deno.writeTextFile(`${folder}/INC-1700000300-disk.qcow2.partial`, ""),
    error: Failure,
    says: "is a backup that is not finished",
  },
  "an image that keeps its data elsewhere": {
    change: (folder) => dataFile(`${folder}/INC-1700000300-disk.qcow2`),
    error: Failure,
    says: "keeps its data in",
  },
  "an image that is no qcow2": {
    change: (folder) => Deno.writeFile(`${folder}/INC-1700000300-disk.qcow2`, new Uint8Array(SIZE)),
    error: Failure,
    says: "INC-1700000300",
  },
  "a damaged image": {
    change: (folder) => Deno.truncate(`${folder}/FULL-1700000000-disk.qcow2`, 5 * 64 * KIB),
    error: Failure,
    says: "qemu-img check failed",
  },
  "a folder without backups": {
    change: async (folder) => {
      await Deno.remove(folder, { recursive: true });
      await Deno.mkdir(folder);
    },
    error: UsageError,
    says: "There are no backups in",
  },
  "a folder that is not there": {
    change: (folder) => Deno.remove(folder, { recursive: true }),
    error: UsageError,
    says: "does not exist",
  },
};
for (const [what, { change, error, says }] of Object.entries(REFUSED)) {
  Deno.test(`\`merge()\` refuses ${what}, and writes nothing`, async () => {
    await using dir = await tempDir();
    const folder = await referenceFolder(dir.path);
    await change(folder);
    await assertRejects(() => restore(folder, dir.join("out")), error, says);
    assertEquals(await names(dir.path), ["target"]);
  });
}

async function link(path: string, to: string) {
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", to, path]);
}

/** An image with its data in a file beside it. */
async function dataFile(path: string) {
  await Deno.mkdir(`${path}.d`);
  const option = `data_file=${path}.d/data`;
  await qemuImg(["create", "-q", "-f", "qcow2", "-o", option, path, "1M"]);
}

Deno.test("`merge()` restores a damaged image if told not to check", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  // A cluster that is used, but counted as free: reading does no harm.
  const path = `${folder}/FULL-1700000000-disk.qcow2`;
  await countAsFree(path);
  await assertRejects(() => restore(folder, dir.join("out")), Failure, "check failed");
  await restore(folder, dir.join("out"), { skipCheck: true, format: "raw" });
  await assertHolds(dir.join("out"), "raw", SIZE, [...FULL, ...INC_1, ...INC_2]);
});

/** Sets the reference counts of the first data clusters to 0: qcow2's specification. */
async function countAsFree(path: string) {
  const view = new DataView((await Deno.readFile(path)).buffer);
  const blockAt = Number(view.getBigUint64(Number(view.getBigUint64(48))));
  using file = await Deno.open(path, { write: true });
  await file.seek(blockAt + 5 * 2, Deno.SeekMode.Start);
  await file.write(new Uint8Array(4));
}

for (const name of ["out", "out.partial"]) {
  Deno.test(`\`merge()\` does not overwrite "${name}"`, async () => {
    await using dir = await tempDir();
    const folder = await referenceFolder(dir.path);
    await Deno.writeTextFile(dir.join(name), "mine");
    const error = await assertRejects(() => restore(folder, dir.join("out")), UsageError);
    assertStringIncludes(error.message, `"${dir.join(name)}"`);
    assertEquals(await Deno.readTextFile(dir.join(name)), "mine");
    assertEquals(await names(dir.path), [name, "target"]);
  });
}

Deno.test("`merge()` does not overwrite a dangling link", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  await Deno.symlink("elsewhere", dir.join("out"));
  await assertRejects(() => restore(folder, dir.join("out")), UsageError, "exists already");
  assertEquals(await names(dir.path), ["out", "target"]);
});

Deno.test("`merge()` does not overwrite a file that is made meanwhile", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  const onProgress = () => Deno.writeTextFileSync(dir.join("out"), "mine");
  await assertRejects(
    () => restore(folder, dir.join("out"), { onProgress }),
    UsageError,
    "meanwhile",
  );
  assertEquals(await Deno.readTextFile(dir.join("out")), "mine");
  assertEquals(await names(dir.path), ["out", "target"]);
});

Deno.test("`merge()` says that what stands for the new file's folder is not one", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  await Deno.writeTextFile(dir.join("file"), "mine");
  for (const name of ["file", "file/none"]) {
    const attempt = () => restore(folder, dir.join(name, "out"));
    await assertRejects(attempt, UsageError, `"${dir.join("file")}" is not a folder`);
  }
  assertEquals(await Deno.readTextFile(dir.join("file")), "mine");
});

Deno.test("`merge()` leaves nothing if it is aborted while it writes", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  const stop = new AbortController();
  const options = {
    signal: stop.signal,
    onProgress: () => stop.abort(new StoppedError("SIGINT")),
  };
  await assertRejects(() => restore(folder, dir.join("out"), options), StoppedError);
  assertEquals(await names(dir.path), ["target"]);
});

Deno.test("`merge()` leaves nothing if qemu-img fails while it writes", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  // What the tables of the full backup point to is gone: found when it is read, without a check.
  await damageTables(`${folder}/FULL-1700000000-disk.qcow2`);
  const options = { skipCheck: true };
  await assertRejects(() => restore(folder, dir.join("out"), options), Failure, "convert failed");
  assertEquals(await names(dir.path), ["target"]);
});

/** Says that the second-level table lies at no cluster's start, which no reader accepts. */
async function damageTables(path: string) {
  const view = new DataView((await Deno.readFile(path)).buffer);
  using file = await Deno.open(path, { write: true });
  await file.seek(Number(view.getBigUint64(40)), Deno.SeekMode.Start);
  await file.write(new Uint8Array([0x80, 0, 0, 0, 0, 4, 0x12, 0]));
}

Deno.test("`merge()` looks at all disks before it writes the first one", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  await Deno.mkdir(dir.join("disk1"));
  await Deno.writeFile(dir.join("disk1", "FULL-1-d"), new Uint8Array(SIZE));
  const jobs = [
    { point: pickPoint(await pointsOfDisk(deadline, folder), null), targetFile: dir.join("out0") },
    {
      point: pickPoint(await pointsOfDisk(deadline, dir.join("disk1")), null),
      targetFile: dir.join("out1"),
    },
  ];
  await assertRejects(() => merge(jobs, mergeOptions()), Failure);
  assertEquals(await names(dir.path), ["disk1", "target"]);
});

Deno.test("`merge()` restores a chain too long for one pass", async (t) => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  const count = LIMITS.layers + 5;
  const sizeBytes = count * 4 * KIB;
  const layers = Array.from({ length: count }, (_, i): Write[] => [
    // One place that all write to, and one of its own.
    [0, 4 * KIB, 1 + i % 255],
    [i * 4 * KIB, 4 * KIB, 1 + i % 255],
  ]);
  const nameOf = (i: number) => `${i === 0 ? "FULL" : "INC"}-${1000 + i}-d`;
  await inParallel([...layers.entries()], async ([i, writes]) => {
    const path = `${folder}/${nameOf(i)}`;
    await qemuImg(["create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", path, `${sizeBytes}`]);
    const [all, own] = writes as [Write, Write];
    const commands = [all, own].map(([at, length, value]) =>
      `write -q -P ${value} ${at} ${length}`
    );
    for (const command of new Set(commands)) await qemuIo(path, "qcow2", command);
  });

  await t.step("into what the layers hold", async () => {
    const percents: number[] = [];
    const options = {
      format: "raw" as const,
      skipCheck: true,
      onProgress: (_: string, done: number, total: number) => void percents.push(done / total),
    };
    const restored = await restore(folder, dir.join("out"), options);
    assertEquals(restored.images, count);
    await assertHolds(dir.join("out"), "raw", sizeBytes, layers.flat());
    assertEquals(percents, percents.toSorted((a, b) => a - b));
    assertEquals(percents.at(-1), 1);
    await Deno.remove(dir.join("out"));
    assertEquals(await names(dir.path), ["disk0"]);
  });

  await t.step("leaving nothing if it is aborted in the last pass", async () => {
    const stop = new AbortController();
    const options = {
      skipCheck: true,
      signal: stop.signal,
      onProgress: (_: string, done: number, total: number) => {
        if (done / total >= 0.5) stop.abort(new StoppedError("SIGTERM"));
      },
    };
    await assertRejects(() => restore(folder, dir.join("out"), options), StoppedError);
    assertEquals(await names(dir.path), ["disk0"]);
  });

  await t.step("without touching a file that has the name of one between", async () => {
    const between = "out.group1.partial";
    await Deno.writeTextFile(dir.join(between), "mine");
    const attempt = () => restore(folder, dir.join("out"), { skipCheck: true });
    await assertRejects(attempt, UsageError, dir.join(between));
    assertEquals(await Deno.readTextFile(dir.join(between)), "mine");
    assertEquals(await names(dir.path), ["disk0", between]);
  });
});

/** A target of our own with two disks and two runs; `files` of the second run build on the first's. */
async function ownTarget(path: string): Promise<void> {
  await createTarget(deadline, path);
  await Deno.writeTextFile(`${path}/uuid`, "chain-1");
  // The clock was set back: the names sort the wrong way round.
  const runs: [string, number, "full" | "inc", number][] = [
    ["run-a", 1, "full", 2000],
    ["run-b", 2, "inc", 1000],
  ];
  for (const folder of ["disk0", "disk1"]) await Deno.mkdir(`${path}/${folder}`);
  for (const [id, sequence, level, seconds] of runs) {
    const rows = ["disk0", "disk1"].map((folder) => ({
      folder,
      file: `${folder}/${level.toUpperCase()}-${seconds}-d`,
      parent: level === "inc" ? `${folder}/FULL-2000-d` : null,
    }));
    for (const { file, parent } of rows) {
      const writes = level === "inc" ? INC_1 : FULL;
      await makeLayer(`${path}/${file}`, SIZE, writes, parent ? { link: "FULL-2000-d" } : {});
    }
    const record = runRecord(id, sequence, level, seconds, rows);
    await Deno.writeTextFile(`${path}/${RUNS_FOLDER}/${id}.json`, formatRecord(record));
  }
}

Deno.test("`merge()` goes by the records, whatever the names say", async () => {
  await using dir = await tempDir();
  await ownTarget(dir.join("target"));
  const restored = await restore(dir.join("target", "disk1"), dir.join("out"), { format: "raw" });
  assertEquals([restored.point, restored.images], ["INC-1000-d", 2]);
  await assertHolds(dir.join("out"), "raw", SIZE, [...FULL, ...INC_1]);
});

Deno.test("`merge()` restores all disks of one run", async () => {
  await using dir = await tempDir();
  await ownTarget(dir.join("target"));
  const points = await pointsOfTarget(deadline, await readTarget(deadline, dir.join("target")));
  const jobs = points.filter(({ runId }) => runId === "run-a")
    .map((point) => ({ point, targetFile: dir.join(point.folder) }));
  assertEquals((await merge(jobs, mergeOptions())).map(({ disk }) => disk), ["disk0", "disk1"]);
  for (const name of ["disk0", "disk1"]) await assertHolds(dir.join(name), "qcow2", SIZE, FULL);
});

Deno.test("`restore merge` takes the newest run that has all disks", async (t) => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await ownTarget(target);
  const [, newer] = (await readTarget(deadline, target)).runs;
  const failed = newer?.disks.find(({ folder }) => folder === "disk1");
  assert(newer && failed);
  failed.result = "failed";
  await writeRun(deadline, target, newer);
  const out = dir.join("out");
  const restoreAll = (...args: string[]) =>
    tool(["restore", "merge", "--dir", target, "--target-dir", out, ...args]);
  await t.step("and refuses a newer one, with the choices", async () => {
    const { code, stderr } = await restoreAll("--until", "run-b");
    assertEquals(code, 2);
    assertStringIncludes(stderr, 'lacks the disk "disk1" (failed): restore the run run-a');
    assertEquals(await names(dir.path), ["target"]);
  });
  await t.step("and names what is newer", async () => {
    const { code, stderr } = await restoreAll("--strict");
    assertEquals(code, 3);
    assertStringIncludes(stderr, 'lacks the disk "disk1" (failed)');
    for (const name of ["disk0", "disk1"]) {
      await assertHolds(join(out, `${name}.qcow2`), "qcow2", SIZE, FULL);
    }
    await Deno.remove(out, { recursive: true });
  });
  await t.step("or the disks that a newer one has", async () => {
    const { code, stdout } = await restoreAll("--allow-missing", "--json");
    assertEquals(code, 0);
    const { disks, warnings } = JSON.parse(stdout);
    assertEquals([disks.length, warnings.length], [1, 1]);
    await assertHolds(join(out, "disk0.qcow2"), "qcow2", SIZE, [...FULL, ...INC_1]);
  });
});

Deno.test("`merge()` names the image that a record promises and that is missing", async () => {
  await using dir = await tempDir();
  await ownTarget(dir.join("target"));
  await Deno.remove(dir.join("target", "disk0", "FULL-2000-d"));
  const attempt = () => restore(dir.join("target", "disk0"), dir.join("out"));
  await assertRejects(attempt, Failure, 'FULL-2000-d" is missing');
  assertEquals(await names(dir.path), ["target"]);
});

Deno.test("`merge()` refuses an image that was put in the place of another", async () => {
  await using dir = await tempDir();
  await ownTarget(dir.join("target"));
  await link(dir.join("target", "disk0", "INC-1000-d"), "../disk1/FULL-2000-d");
  const attempt = () => restore(dir.join("target", "disk0"), dir.join("out"));
  await assertRejects(attempt, Failure, "is linked to");
});

Deno.test("`pointsOfDisk()` wants one disk of a target with several", async () => {
  await using dir = await tempDir();
  await ownTarget(dir.join("target"));
  const attempt = () => pointsOfDisk(deadline, dir.join("target"));
  await assertRejects(attempt, UsageError, 'the disks "disk0", "disk1"');
});

Deno.test("`pointsOfDisk()` reads a disk's folder beside something that is no target", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("uuid"), "not a chain's id, but somebody's notes\n");
  await Deno.mkdir(dir.join("disk0"));
  await makeLayer(dir.join("disk0", "FULL-1-d"), SIZE, FULL);
  assertEquals((await pointsOfDisk(deadline, dir.join("disk0"))).map(({ name }) => name), [
    "FULL-1-d",
  ]);
});

Deno.test("`pointsOfDisk()` is not kept from reading by a backup that runs", async () => {
  await using dir = await tempDir();
  const target = dir.join("target");
  await ownTarget(target);
  const rows = [{ folder: "disk0", file: "disk0/INC-3000-d", parent: "disk0/INC-1000-d" }];
  const running = { ...runRecord("run-c", 3, "inc", 3000, rows), state: "running" as const };
  running.disks[0]!.result = "pending";
  await Deno.writeTextFile(`${target}/${RUNS_FOLDER}/run-c.json`, formatRecord(running));
  await Deno.writeTextFile(`${target}/disk0/INC-3000-d.c.partial`, "");
  await Deno.writeTextFile(`${target}/${LOCK_FILE}`, "");
  const points = await pointsOfDisk(deadline, `${target}/disk0`);
  assertEquals(points.map(({ name }) => name), ["FULL-2000-d", "INC-1000-d"]);
  assert(points[0]!.timeMs > points[1]!.timeMs);
});

type Row = { folder: string; file: string; parent: string | null };

function runRecord(
  id: string,
  sequence: number,
  level: "full" | "inc",
  seconds: number,
  rows: Row[],
): RunRecord {
  const time = new Date(seconds * 1000).toISOString();
  return {
    ...RECORD_HEAD,
    id,
    sequence,
    level,
    state: "done",
    chain: "chain-1",
    started: time,
    pointInTime: time,
    finished: time,
    tool: "0.1.0",
    qemu: "7.2.22",
    vm: { name: "vm1", uuid: "" },
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks: rows.map(({ folder, file, parent }) => ({
      id: `/machine/peripheral/${folder}`,
      name: folder,
      folder,
      source: `/vm/${folder}.qcow2`,
      node: folder,
      level,
      reason: "asked for",
      bitmap: null,
      granularityBytes: null,
      sentinel: null,
      backing: null,
      fleece: "",
      file,
      parent,
      unrecorded: [],
      virtualSizeBytes: SIZE,
      bytesWritten: 0,
      result: "done",
      error: null,
    })),
    leftOut: [],
    warnings: [],
  };
}

Deno.test("`pointsOfDisk()` knows the reference's raw images by their .config, and what can't be", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  await Deno.writeTextFile(dir.join("d.raw.config"), '{"format": "raw"}');
  // What a guest wrote into its raw disk must not be taken for a header.
  const contents = new Uint8Array(SIZE).fill(7);
  contents.set([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]);
  await Deno.writeFile(`${folder}/FULL-1-d.raw`, contents);
  await Deno.writeFile(`${folder}/INC-2-d.raw`, new Uint8Array(SIZE));
  const error = await assertRejects(() => restore(folder, dir.join("out")), Failure);
  assertStringIncludes(error.message, "is a raw increment");
  await restore(folder, dir.join("out"), { until: "FULL-1-d.raw", format: "raw" });
  assertEquals(firstDifference(await Deno.readFile(dir.join("out")), contents), null);
});

Deno.test("`--rate-limit` slows `restore merge` down, and changes nothing else", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  // QEMU limits from the second piece on; one has 2 MiB.
  const sizeBytes = 16 * SIZE;
  await makeLayer(`${folder}/FULL-1-d`, sizeBytes, [[0, sizeBytes, 9]]);
  const start = performance.now();
  const point = pickPoint(await pointsOfDisk(deadline, folder), null);
  const options = mergeOptions({ rateLimitBytesPerSecond: sizeBytes / 2, format: "raw" });
  await merge([{ point, targetFile: dir.join("out") }], options);
  assertGreater(performance.now() - start, 1000);
  await assertHolds(dir.join("out"), "raw", sizeBytes, [[0, sizeBytes, 9]]);
});

Deno.test("`--skip-check` restores what can be read of an image that its check refuses", async () => {
  await using dir = await tempDir();
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  const path = `${folder}/FULL-1-d`;
  await makeLayer(path, SIZE, [[0, KIB, 9]]);
  await breakRefcounts(path);
  await assertRejects(() => restore(folder, dir.join("out")), Failure, "check failed");
  const skipCheck = { format: "raw", skipCheck: true } as const;
  await restore(folder, dir.join("out"), skipCheck);
  await assertHolds(dir.join("out"), "raw", SIZE, [[0, KIB, 9]]);
});

/** Sets the reference counts of all clusters to 0, as a crash may leave them: reading needs none. */
async function breakRefcounts(path: string) {
  using file = await Deno.open(path, { read: true, write: true });
  const header = new Uint8Array(64);
  await file.read(header);
  const table = Number(new DataView(header.buffer).getBigUint64(48));
  const entry = new Uint8Array(8);
  await file.seek(table, Deno.SeekMode.Start);
  await file.read(entry);
  await file.seek(Number(new DataView(entry.buffer).getBigUint64(0)), Deno.SeekMode.Start);
  await file.write(new Uint8Array(64));
}

Deno.test("`restore merge` makes the folders that are missing, as the Python tool does", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  const umask = Deno.umask(0o022);
  const out = dir.join("new/er/disk.qcow2");
  await succeed(["restore", "merge", "--dir", folder, "--targetfile", out]);
  Deno.umask(umask);
  const expected = contentsOf(SIZE, [...FULL, ...INC_1, ...INC_2]);
  assertEquals(firstDifference(await readImage(out, "qcow2"), expected), null);
  for (const path of ["new", "new/er"]) {
    assertEquals((await Deno.stat(dir.join(path))).mode! & 0o7777, 0o700);
  }
});

const realQemuImg = async () => (await mustRun("which", ["qemu-img"])).trim();

Deno.test("`restore merge` that fails removes the folders it made, and nothing else", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  await Deno.mkdir(dir.join("there"));
  // It fails late: when the folders are made, and the images are looked at.
  await Deno.writeTextFile(
    dir.join("qemu-img"),
    `#!/bin/sh\ncase "$1" in convert) exit 1;; esac\nexec ${await realQemuImg()} "$@"\n`,
    { mode: 0o755 },
  );
  const env = { PATH: `${dir.path}:${Deno.env.get("PATH")}` };
  const args = ["restore", "merge", "--dir", folder, "--targetfile"];
  const late = startTool([...args, dir.join("there/new/er/disk.qcow2")], { env });
  const { code, stderr } = await ended(late);
  assertEquals(code, 1, stderr);
  assertStringIncludes(stderr, "qemu-img convert failed");
  assertEquals(await names(dir.join("there")), []);
  // It is refused early.
  await Deno.writeTextFile(dir.join("file"), "");
  const refused = await tool([...args, dir.join("file/new/disk.qcow2")]);
  assertEquals(refused.code, 2);
  assertStringIncludes(refused.stderr, `"${dir.join("file")}" is not a folder`);
  assertEquals(await names(dir.path), ["file", "qemu-img", "target", "there"]);
});

Deno.test("a signal ends a restore whose qemu-img heeds none", async () => {
  await using dir = await tempDir();
  const folder = await referenceFolder(dir.path);
  const real = await realQemuImg();
  // As one that waits for a dead file system.
  await Deno.writeTextFile(
    dir.join("qemu-img"),
    `#!/bin/sh\ntrap '' TERM\ncase "$1" in convert) touch ${dir.path}/on; sleep 90;; esac\nexec ${real} "$@"\n`,
    { mode: 0o755 },
  );
  const env = { PATH: `${dir.path}:${Deno.env.get("PATH")}` };
  const out = dir.join("new/disk.qcow2");
  const run = startTool(["restore", "merge", "--dir", folder, "--targetfile", out], { env });
  while (!await Deno.stat(dir.join("on")).then(() => true, () => false)) {
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  run.kill("SIGTERM");
  const start = performance.now();
  const { code } = await run.status;
  assert(performance.now() - start < 60_000);
  assertEquals(code, 143);
  await Promise.all([run.stdout.cancel(), run.stderr.cancel()]);
  assertEquals((await names(dir.path)).includes("new"), false);
});
