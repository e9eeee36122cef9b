import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { UsageError, WARNED } from "../../errors.ts";
import { merge, type MergeJob } from "../../restore/merge.ts";
import { pointsOfChosenRun } from "../../restore/choose_points.ts";
import { isDevicePath } from "../../restore/device.ts";
import { formatOfDisk } from "../../restore/vm_disks.ts";
import { pickPoint, pointsOfDisk, type RestorePoint, runsOf } from "../../restore/points.ts";
import { fileMode } from "../args/file_mode.ts";
import type { Values } from "../args/parse.ts";
import { jsonLine, restoreText } from "../output/report.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "restore"]);

/** What a restored disk means for the first night. */
export const FIRST_BACKUP =
  "A restored disk has no bitmap: its first backup will be a full one. With --on-lost-bitmap compare it is an " +
  "increment, for which the whole disk is read";

/** `qmpbackup restore merge`. */
export async function restoreMerge(
  { values, io, progress, deadline, signal }: CommandContext,
): Promise<number> {
  const mode = fileMode(values.mode);
  const { jobs, warnings } = await jobsOf(deadline, values);
  refuseUnfit(values, jobs);
  for (const warning of warnings) log.warn("{warning}", { warning });
  const restored = await merge(jobs, {
    format: "qcow2",
    compress: values.compress ?? null,
    preallocation: values.preallocation,
    mode,
    skipCheck: values["skip-check"] ?? false,
    rateLimitBytesPerSecond: values["rate-limit"] ?? 0,
    keyFile: await keyFileOf(deadline, values),
    deadline,
    signal,
    onProgress: (disk, doneBytes, totalBytes) => progress.update(disk, doneBytes, totalBytes),
  });
  progress.end();
  log.info("{note}", { note: FIRST_BACKUP });
  if (values.json) io.stdout(jsonLine("summary", { state: "done", disks: restored, warnings }));
  else if (!values.quiet) io.stdout(restoreText(restored, io.width()));
  return values.strict && warnings.length > 0 ? WARNED : 0;
}

/** What is to be restored, and what the user has to know of it. */
interface Jobs {
  jobs: MergeJob[];
  warnings: string[];
}

async function jobsOf(deadline: Deadline, values: Values): Promise<Jobs> {
  const { targetfile, "target-dir": targetDir, until = null } = values;
  const dir = resolve(values.dir ?? ".");
  if ((targetfile === undefined) === (targetDir === undefined)) {
    throw new UsageError('"restore merge" needs either --targetfile or --target-dir');
  }
  const isDevice = isDeviceWanted(values);
  if (targetfile !== undefined) {
    const points = await pointsOfDisk(deadline, dir, values.filter);
    const point = pickPoint(points, until, await runsOf(deadline, points));
    const { format, note } = formatOf(point, values);
    const job = { point, targetFile: resolve(targetfile), format: isDevice ? "raw" : format };
    return { jobs: [{ ...job, isDevice }], warnings: isDevice || note === null ? [] : [note] };
  }
  const allowMissing = values["allow-missing"] ?? false;
  const { points, warnings } = await pointsOfChosenRun(deadline, dir, { until, allowMissing });
  const folder = resolve(targetDir ?? ".");
  const formats = points.map((point) => formatOf(point, values));
  const jobs = points.map((point, i) => {
    const format = formats[i]?.format ?? "qcow2";
    return { point, targetFile: join(folder, `${point.disk}.${format}`), format };
  });
  return { jobs, warnings: [...warnings, ...formats.flatMap(({ note }) => note ?? [])] };
}

/** The format of the new file, and what the user has to know of it. */
function formatOf({ disk, format }: RestorePoint, values: Values) {
  const { format: wanted = "qcow2" } = values;
  return wanted === "same" ? formatOfDisk(disk, format) : { format: wanted, note: null };
}

/** Whether the target is a device: what is on it is lost, so that this has to be said. */
function isDeviceWanted(values: Values): boolean {
  const { targetfile, format, preallocation, compress, "overwrite-device": isSaid = false } =
    values;
  const isDevice = targetfile !== undefined && isDevicePath(resolve(targetfile));
  if (isDevice && !isSaid) {
    throw new UsageError(
      `"${targetfile}" is a device, and all it holds would be lost: if you want that, add ` +
        "--overwrite-device",
    );
  }
  if (!isDevice && isSaid) {
    throw new UsageError("--overwrite-device is for a --targetfile below /dev");
  }
  if (isDevice && (preallocation !== undefined || compress || format === "qcow2")) {
    throw new UsageError(
      "A device is always raw: leave out --format qcow2, --compress, and --preallocation",
    );
  }
  return isDevice;
}

/** @throws {UsageError} If what was asked for can't be had in the format of a new file. */
function refuseUnfit({ compress, preallocation }: Values, jobs: MergeJob[]) {
  const other = jobs.find(({ format }) => format !== "qcow2" && format !== "raw");
  if (compress && jobs.some(({ format }) => format !== "qcow2")) {
    throw new UsageError("--compress is for --format qcow2");
  }
  if (compress && preallocation !== undefined) {
    throw new UsageError("--compress and --preallocation don't go together: use one of them");
  }
  if (preallocation !== undefined && other) {
    throw new UsageError(`--preallocation is for qcow2 and raw, not for ${other.format}`);
  }
  if (preallocation === "metadata" && jobs.some(({ format }) => format === "raw")) {
    throw new UsageError("--preallocation metadata is for qcow2: use falloc or full for raw");
  }
}
