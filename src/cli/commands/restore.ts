import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import { knowsDisks, readTarget } from "../../repo/repository.ts";
import { UsageError } from "../../errors.ts";
import { type ImageFormat, merge, type MergeJob } from "../../restore/merge.ts";
import {
  pickPoint,
  pointsOfDisk,
  pointsOfRun,
  pointsOfTarget,
  type RestorePoint,
} from "../../restore/points.ts";
import { fileMode } from "../args/file_mode.ts";
import type { Values } from "../args/parse.ts";
import { jsonLine, restoreText } from "../output/report.ts";
import type { CommandContext } from "./context.ts";

const log = getLogger(["qmpbackup", "restore"]);

/** `qmpbackup restore merge`. */
export async function restoreMerge(
  { values, io, progress, signal }: CommandContext,
): Promise<number> {
  const format = values.format ?? "qcow2";
  const mode = fileMode(values.mode);
  const restored = await merge(await jobsOf(values, format), {
    format,
    mode,
    skipCheck: values["skip-check"] ?? false,
    rateLimitBytesPerSecond: values["rate-limit"] ?? 0,
    signal,
    onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  progress.hide();
  io.stdout(
    values.json ? jsonLine("summary", { state: "done", disks: restored }) : restoreText(restored),
  );
  return 0;
}

async function jobsOf(values: Values, format: ImageFormat): Promise<MergeJob[]> {
  const { targetfile, "target-dir": targetDir, until = null } = values;
  const dir = resolve(values.dir ?? ".");
  if ((targetfile === undefined) === (targetDir === undefined)) {
    throw new UsageError('"restore merge" needs either --targetfile or --target-dir');
  }
  if (targetfile !== undefined) {
    const point = pickPoint(await pointsOfDisk(dir, values.filter), until);
    return [{ point, targetFile: resolve(targetfile) }];
  }
  return await jobsOfRun(dir, { targetDir: resolve(targetDir ?? "."), until, format });
}

async function jobsOfRun(
  dir: string,
  { targetDir, until, format }: {
    targetDir: string;
    until: string | null;
    format: ImageFormat;
  },
): Promise<MergeJob[]> {
  const target = await readTarget(dir);
  if (!knowsDisks(target)) {
    throw new UsageError(
      `"${dir}" holds no records of runs, so it is not known which images belong together: restore ` +
        "each disk's folder by itself, with --targetfile",
    );
  }
  const points = await pointsOfTarget(target);
  const chosen = pickPoint(points, until);
  const run = target.runs.find(({ id }) => id === chosen.runId);
  const missing = run?.disks.filter(({ result }) => result !== "done") ?? [];
  if (missing.length > 0) {
    throw new UsageError(
      `The run ${chosen.runId} did not finish the disks ` +
        `${missing.map(({ name }) => `"${name}"`).join(", ")}: name another one with --until, ` +
        "or restore single disks with --targetfile",
    );
  }
  const ofRun = pointsOfRun(points, chosen);
  warnOfOthers(points, ofRun, chosen);
  return ofRun.map((point) => ({
    point,
    targetFile: join(targetDir, `${point.disk}.${format}`),
  }));
}

/** A run may hold some disks only. The others have no state of that moment. */
function warnOfOthers(points: RestorePoint[], ofRun: RestorePoint[], { runId }: RestorePoint) {
  const held = new Set(ofRun.map(({ disk }) => disk));
  const others = new Map(points.filter(({ disk }) => !held.has(disk)).map((p) => [p.disk, p]));
  for (const { disk, name } of others.values()) {
    log.warn(
      "The run {runId} does not hold the disk {disk}, whose newest image is {name}: restore it by " +
        "itself with --targetfile, or name a run that holds all with --until",
      { runId, disk, name },
    );
  }
}
