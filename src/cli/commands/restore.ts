import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { UsageError, WARNED } from "../../errors.ts";
import { type ImageFormat, merge, type MergeJob } from "../../restore/merge.ts";
import { pointsOfChosenRun } from "../../restore/choose_points.ts";
import { pickPoint, pointsOfDisk, runsOf } from "../../restore/points.ts";
import { fileMode } from "../args/file_mode.ts";
import type { Values } from "../args/parse.ts";
import { jsonLine, restoreText } from "../output/report.ts";
import type { CommandContext } from "./context.ts";

const log = getLogger(["qmpbackup", "restore"]);

/** `qmpbackup restore merge`. */
export async function restoreMerge(
  { values, io, progress, deadline, signal }: CommandContext,
): Promise<number> {
  const format = values.format ?? "qcow2";
  const mode = fileMode(values.mode);
  const { jobs, warnings } = await jobsOf(deadline, values, format);
  for (const warning of warnings) log.warn("{warning}", { warning });
  const restored = await merge(jobs, {
    format,
    mode,
    skipCheck: values["skip-check"] ?? false,
    rateLimitBytesPerSecond: values["rate-limit"] ?? 0,
    deadline,
    signal,
    onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  progress.end();
  if (values.json) io.stdout(jsonLine("summary", { state: "done", disks: restored, warnings }));
  else if (!values.quiet) io.stdout(restoreText(restored, io.width()));
  return values.strict && warnings.length > 0 ? WARNED : 0;
}

/** What is to be restored, and what the user has to know of it. */
interface Jobs {
  jobs: MergeJob[];
  warnings: string[];
}

async function jobsOf(deadline: Deadline, values: Values, format: ImageFormat): Promise<Jobs> {
  const { targetfile, "target-dir": targetDir, until = null } = values;
  const dir = resolve(values.dir ?? ".");
  if ((targetfile === undefined) === (targetDir === undefined)) {
    throw new UsageError('"restore merge" needs either --targetfile or --target-dir');
  }
  if (targetfile !== undefined) {
    const points = await pointsOfDisk(deadline, dir, values.filter);
    const point = pickPoint(points, until, await runsOf(deadline, points));
    return { jobs: [{ point, targetFile: resolve(targetfile) }], warnings: [] };
  }
  const allowMissing = values["allow-missing"] ?? false;
  const { points, warnings } = await pointsOfChosenRun(deadline, dir, { until, allowMissing });
  const folder = resolve(targetDir ?? ".");
  const jobs = points.map((point) => ({
    point,
    targetFile: join(folder, `${point.disk}.${format}`),
  }));
  return { jobs, warnings };
}
