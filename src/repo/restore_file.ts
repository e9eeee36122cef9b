/**
 * `RESTORE.txt`: what the folder is and how to restore from it, for somebody who has nothing else.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join } from "@std/path";
import { format as formatBytes } from "@std/fmt/bytes";
import { brief } from "../errors.ts";
import { readUpTo } from "../fs/open.ts";
import { exists, removeFile } from "../fs/durable.ts";
import { shellText } from "../shell.ts";
import { localTime } from "../time.ts";
import { chainOf, images, type Point, restorePoints } from "./chains.ts";
import { type Lacking, runsWithPoints } from "./complete_run.ts";
import { RECORDS_FOLDER, RESTORE_FILE } from "./layout.ts";
import { type DiskRecord, isAdopted, type RunRecord } from "./record.ts";
import { writeBeside } from "./repository.ts";

/** What its first line says: by this we know a file of that name as ours. */
const TITLE = "Backups of a virtual machine, made by qmpbackup";

/** The folder that the commands restore into, to be replaced by the reader. */
const OUT = "/new/folder";

/**
 * Writes it, whole or not at all. It lies beside the disks' folders. Where images lie there too
 * (`--no-subdir`), or somebody else's file of that name does, it lies among the records: the Python
 * `qmprestore` takes every file beside an image for one.
 *
 * @param path The target's.
 * @param runs All of its runs, in order.
 */
export async function writeRestoreFile(
  deadline: Deadline,
  path: string,
  runs: RunRecord[],
  mode?: number,
): Promise<void> {
  const beside = join(path, RESTORE_FILE);
  const isThere = await exists(deadline, beside);
  const isOurs = !isThere ||
    (await readUpTo(deadline, beside, MAX_BYTES))?.startsWith(TITLE) === true;
  const isAmongImages = images(runs).some(({ disk }) => disk.folder === ".");
  const name = isAmongImages || !isOurs ? join(RECORDS_FOLDER, RESTORE_FILE) : RESTORE_FILE;
  await writeBeside(deadline, path, name, restoreFileText(runs, dirname(name) !== "."), mode);
  if (name !== RESTORE_FILE && isThere && isOurs) await removeFile(deadline, beside);
}

const MAX_BYTES = 1 << 20;

/**
 * Its text. Pure.
 *
 * @param isInside It lies among the records, not beside the disks' folders.
 * @throws {ChainError} If the records contradict each other.
 */
export function restoreFileText(runs: RunRecord[], isInside = false): string {
  const points = restorePoints(runs);
  const known = runsWithPoints(points);
  const complete = known.findLast(({ lacking }) => lacking.length === 0);
  const newer = known.slice(complete ? known.indexOf(complete) + 1 : 0);
  const shown = complete
    ? points.filter(({ run }) => run === complete.run)
    : [...new Map(points.map((point) => [point.disk.name, point])).values()];
  const key = shown.some(({ disk }) => disk.encrypted) ? KEY_FLAG : "";
  const here = isInside ? "the folder above this one" : "this folder";
  const last = runs.at(-1);
  return [
    `${TITLE}`,
    "",
    ...(last?.vm.name ? [`The virtual machine is called ${JSON.stringify(last.vm.name)}.`] : []),
    "Every backup writes this file again.",
    "",
    complete
      ? `The newest point in time with all disks: ${timeOf(complete.run)} (run ${complete.run.id})`
      : "There is no point in time with all disks. The newest image of each disk:",
    ...shown.map((point) => diskText(point, runs)),
    ...newer.slice(-1).flatMap(newerText),
    ...(key === "" ? [] : [
      "",
      "The images are encrypted. Without the file with their key, which is not kept here, nobody can read",
      `them. In the commands, replace ${KEY_FILE} by that file. All bytes of it are the key, a newline`,
      "at its end too. What is restored is not encrypted.",
    ]),
    "",
    "WITH QMPBACKUP",
    "",
    `Run this in ${here}. ${OUT} is the folder for the restored disks. "restore vm" also writes`,
    'the command that starts the virtual machine: see "qmpbackup help restore-vm".',
    "",
    "  qmpbackup list --dir .",
    ...(complete?.run.machine
      ? [`  qmpbackup restore vm --dir . --until ${complete.run.id} --target-dir ${OUT}${key}`]
      : []),
    ...(complete
      ? [`  qmpbackup restore merge --dir . --until ${complete.run.id} --target-dir ${OUT}${key}`]
      : shown.map(singleCommand)),
    "",
    "WITHOUT QMPBACKUP",
    "",
    "The images are qcow2 files that are linked to each other. qemu-img is all that is needed (Debian:",
    `apt install qemu-utils). In ${here}:`,
    "",
    ...linkCommands(shown, runs),
    `  mkdir -p ${OUT}`,
    ...shown.map((point) => convertCommand(point, runs)),
    ...(shown.every(({ disk }) => disk.encrypted) ? [] : [
      "",
      "To start at once, let a new image build on the newest one. The new image needs this folder then:",
      "",
      ...shown.filter(({ disk }) => !disk.encrypted).map(overlayCommand),
    ]),
    "",
    "Never start a virtual machine on an image in this folder itself: that destroys all newer ones.",
    "",
  ].join("\n");
}

function diskText({ disk }: Point, runs: RunRecord[]): string {
  const below = chainOf(images(runs), disk.file).length - 1;
  const chain = below === 0 ? "" : `, builds on ${below} more in its folder`;
  return `  ${disk.name}: ${disk.file} (${formatBytes(disk.virtualSizeBytes, { binary: true })}` +
    `${chain}; was ${brief(JSON.stringify(disk.source), 300)})`;
}

function newerText({ run, lacking }: { run: RunRecord; lacking: Lacking[] }): string[] {
  if (lacking.length === 0) return [];
  const names = lacking.map(({ disk, why }) => `"${disk}" (${why})`).join(", ");
  return [`There is a newer run, ${run.id} of ${timeOf(run)}, which lacks ${names}.`];
}

/** What the Python qmpbackup makes is not linked: read alone, an increment is full of holes. */
function linkCommands(shown: Point[], runs: RunRecord[]): string[] {
  const all = images(runs);
  const chain = shown.flatMap(({ disk }) => chainOf(all, disk.file));
  const unlinked = new Map(
    chain.filter(({ run, disk }) => isAdopted(run) && disk.parent !== null)
      .map(({ disk }) => [disk.file, disk]),
  );
  return [...unlinked.values()].map(({ file, parent }) =>
    command(
      "rebase",
      "-u",
      ...QCOW2,
      "-F",
      "qcow2",
      "-b",
      `./${basename(parent ?? "")}`,
      `./${file}`,
    )
  );
}

const QCOW2 = ["-f", "qcow2"];

/** The key of encrypted images, to be replaced by the reader. */
const KEY_FILE = "/path/of/the/key";
const KEY_FLAG = ` --key-file ${KEY_FILE}`;

function singleCommand({ disk }: Point): string {
  const at = ["--dir", disk.folder, "--until", basename(disk.file)];
  return "  " + shellText(["qmpbackup", "restore", "merge", ...at, "--targetfile", outOf(disk)]) +
    (disk.encrypted ? KEY_FLAG : "");
}

function convertCommand({ disk }: Point, runs: RunRecord[]): string {
  const [format, out] = [formatOf(disk), outOf(disk)];
  if (!disk.encrypted) {
    return command("convert", "-p", ...QCOW2, "-O", format, `./${disk.file}`, out);
  }
  const object = `secret,id=key,file=${KEY_FILE}`;
  const image = encryptedImage(`./${disk.file}`, chainOf(images(runs), disk.file).length);
  return command("convert", "-p", "--object", object, "-O", format, "--image-opts", image, out);
}

/** An encrypted image, and where the key of each that it builds on is. In a list of options a comma is written twice. */
function encryptedImage(path: string, count: number): string {
  const keys = Array.from(
    { length: count },
    (_, i) => `${"backing.".repeat(i)}encrypt.key-secret=key`,
  );
  const file = path.replaceAll(",", ",,");
  return ["driver=qcow2", "file.driver=file", `file.filename=${file}`, ...keys].join(",");
}

/** `-b` is relative to the new image, which lies elsewhere. */
function overlayCommand({ disk }: Point): string {
  const overlay = `${OUT}/${disk.name}.overlay.qcow2`;
  const image = `"$PWD"/${shellText([disk.file])}`;
  return `${command("create", ...QCOW2, "-F", "qcow2", "-b")} ${image} ${shellText([overlay])}`;
}

const formatOf = ({ format }: DiskRecord) => format === "raw" ? "raw" : "qcow2";
const outOf = (disk: DiskRecord) => `${OUT}/${disk.name}.${formatOf(disk)}`;
const command = (...argv: string[]) => `  ${shellText(["qemu-img", ...argv])}`;

function timeOf({ pointInTime, started }: RunRecord): string {
  return localTime(new Date(pointInTime ?? started));
}
