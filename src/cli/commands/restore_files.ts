import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { UsageError, WARNED } from "../../errors.ts";
import { type Copied, copyOut } from "../../files/copy_out.ts";
import { type OpenPoint, openPoint } from "../../files/open.ts";
import type { Reader } from "../../files/reader.ts";
import { createFolders } from "../../fs/durable.ts";
import { refuseSharedFolder } from "../../repo/repository.ts";
import { pickPoint, pointsOfDisk, runsOf } from "../../restore/points.ts";
import { fileMode } from "../args/file_mode.ts";
import { entriesText, partitionJson, partitionsText } from "../output/files.ts";
import { jsonLine } from "../output/report.ts";
import { size } from "../output/text.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "files"]);

/** `qmpbackup restore files`. */
export async function restoreFiles(context: CommandContext): Promise<number> {
  const { values, deadline, signal } = context;
  const { list, copy, "target-dir": targetDir, until = null } = values;
  if ((list === undefined) === (copy === undefined)) {
    throw new UsageError('"restore files" needs either --list or --copy');
  }
  if ((copy === undefined) !== (targetDir === undefined)) {
    throw new UsageError("--copy and --target-dir go together: name what to copy, and where to");
  }
  const path = parsePath(copy ?? list ?? "/");
  if (copy !== undefined && path === null) {
    throw new UsageError(`--copy "${copy}": say what to copy, such as /1/etc/hostname`);
  }
  const points = await pointsOfDisk(deadline, resolve(values.dir ?? "."), values.filter);
  const point = pickPoint(points, until, await runsOf(deadline, points));
  await using open = await openPoint(point, {
    ...{ deadline, host: Deno.hostname(), keyFile: await keyFileOf(deadline, values), signal },
  });
  if (path === null) return showPartitions(context, open);
  const reader = await readerOf(open, path.number);
  return await (targetDir === undefined
    ? showFolder(context, reader, path.inside)
    : copyTo(context, reader, path.inside, resolve(targetDir)));
}

interface DiskPath {
  /** The partition. */
  number: number;
  /** In its file system: "/etc". */
  inside: string;
}

/** Reads "/1/etc/hostname"; null is the disk itself, "/". */
export function parsePath(text: string): DiskPath | null {
  const path = resolve("/", text);
  if (path === "/") return null;
  const [, number, inside = ""] = /^\/(\d{1,3})(\/.*)?$/s.exec(path) ?? [];
  if (number === undefined) {
    throw new UsageError(
      `"${text}" does not begin with a partition, as in /1/etc/hostname: --list shows the partitions`,
    );
  }
  return { number: Number(number), inside: inside === "" ? "/" : inside };
}

async function readerOf(open: OpenPoint, number: number): Promise<Reader> {
  const partition = open.partitions.find((one) => one.number === number);
  if (partition) return await open.open(partition);
  const known = open.partitions.map(({ number }) => `/${number}`).join(", ");
  throw new UsageError(`The disk has no partition /${number}, but ${known}`);
}

function showPartitions({ values, io }: CommandContext, { partitions }: OpenPoint): number {
  if (!values.json) {
    io.stdout(partitionsText(partitions));
    return 0;
  }
  for (const partition of partitions) io.stdout(jsonLine("partition", partitionJson(partition)));
  io.stdout(jsonLine("summary", { partitions: partitions.length }));
  return 0;
}

async function showFolder(
  { values, io }: CommandContext,
  reader: Reader,
  path: string,
): Promise<number> {
  const entries = await reader.list(path);
  if (!values.json) {
    io.stdout(entriesText(entries));
    return 0;
  }
  for (const { name, kind, sizeBytes } of entries) {
    io.stdout(jsonLine("entry", { name, kind, sizeBytes }));
  }
  io.stdout(jsonLine("summary", { entries: entries.length }));
  return 0;
}

async function copyTo(
  { values, io, deadline, signal }: CommandContext,
  reader: Reader,
  path: string,
  folder: string,
): Promise<number> {
  const mode = fileMode(values.mode);
  await createFolders(deadline, folder, mode);
  await refuseSharedFolder(deadline, folder, mode);
  const skipped: string[] = [];
  const copied = await copyOut(reader, path, folder, {
    deadline,
    mode,
    signal,
    onFile: (path) => log.debug("Copying {path}", { path }),
    onSkipped: (path, why) => {
      skipped.push(path);
      log.warn("{path} is left out: {why}", { path, why });
    },
  });
  io.stdout(
    values.json
      ? jsonLine("summary", { state: "done", ...copied, skipped })
      : copiedText(copied, skipped.length, folder),
  );
  return values.strict && skipped.length > 0 ? WARNED : 0;
}

function copiedText({ files, bytes }: Copied, skipped: number, folder: string): string {
  const left = skipped > 0 ? `, ${skipped} left out` : "";
  return `Copied ${files} ${files === 1 ? "file" : "files"} (${
    size(bytes)
  }) into ${folder}${left}\n`;
}
