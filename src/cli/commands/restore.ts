import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import { restorePoints } from "../../repo/chains.ts";
import { readTargets } from "../../repo/months.ts";
import { knowsDisks } from "../../repo/repository.ts";
import { UsageError, WARNED } from "../../errors.ts";
import { type ImageFormat, merge, type MergeJob } from "../../restore/merge.ts";
import { chooseRun, type RunChoice } from "../../restore/choose_run.ts";
import {
  pickPoint,
  pointsOfDisk,
  pointsOfTargets,
  refuseFailedRuns,
  type RestorePoint,
  runsOf,
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
  const { jobs, warnings } = await jobsOf(values, format);
  for (const warning of warnings) log.warn("{warning}", { warning });
  const restored = await merge(jobs, {
    format,
    mode,
    skipCheck: values["skip-check"] ?? false,
    rateLimitBytesPerSecond: values["rate-limit"] ?? 0,
    signal,
    onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  progress.hide();
  io.stdout(
    values.json
      ? jsonLine("summary", { state: "done", disks: restored, warnings })
      : restoreText(restored),
  );
  return values.strict && warnings.length > 0 ? WARNED : 0;
}

/** What is to be restored, and what the user has to know of it. */
interface Jobs {
  jobs: MergeJob[];
  warnings: string[];
}

async function jobsOf(values: Values, format: ImageFormat): Promise<Jobs> {
  const { targetfile, "target-dir": targetDir, until = null } = values;
  const dir = resolve(values.dir ?? ".");
  if ((targetfile === undefined) === (targetDir === undefined)) {
    throw new UsageError('"restore merge" needs either --targetfile or --target-dir');
  }
  if (targetfile !== undefined) {
    const points = await pointsOfDisk(dir, values.filter);
    const point = pickPoint(points, until, await runsOf(points));
    return { jobs: [{ point, targetFile: resolve(targetfile) }], warnings: [] };
  }
  const allowMissing = values["allow-missing"] ?? false;
  const { points, warnings } = await pointsOfChosenRun(dir, { until, allowMissing });
  const folder = resolve(targetDir ?? ".");
  const jobs = points.map((point) => ({
    point,
    targetFile: join(folder, `${point.disk}.${format}`),
  }));
  return { jobs, warnings };
}

async function pointsOfChosenRun(
  dir: string,
  choice: RunChoice,
): Promise<{ points: RestorePoint[]; warnings: string[] }> {
  const targets = await readTargets(dir);
  const runs = targets.flatMap(({ runs }) => runs);
  if (runs.length > 0 && !targets.some(knowsDisks)) refuseFailedRuns(dir, targets);
  if (runs.length === 0) {
    throw new UsageError(
      `"${dir}" holds no records of runs, so it is not known which images belong together: restore ` +
        "each disk's folder by itself, with --targetfile",
    );
  }
  const points = await pointsOfTargets(targets);
  if (points.length === 0) refuseFailedRuns(dir, targets);
  const known = targets.flatMap(({ runs }) => restorePoints(runs));
  const { runId, warnings } = chooseRun(known, points, choice, runs);
  return { points: points.filter((point) => point.runId === runId), warnings };
}
