/**
 * Files that a user keeps beside a run (`--save`): a start script, a domain's XML, the folder of a TPM's state.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, join } from "@std/path";
import { UsageError } from "../errors.ts";
import { createFile, lookAt } from "../fs/create.ts";
import { createInside, removeFile, removeFolders, syncPath } from "../fs/durable.ts";
import { listFolder } from "../fs/files.ts";
import { readBytesUpTo } from "../fs/open.ts";
import { stat } from "../fs/files.ts";
import { fitsTar, makeTar } from "./tar.ts";
import { diskFileName, RECORDS_FOLDER } from "./layout.ts";

const SAVED_FOLDER = `${RECORDS_FOLDER}/saved`;

/** They are held in memory: what is larger belongs on a disk. */
const MAX_TOTAL_BYTES = 64 << 20;

export interface SavedFile {
  name: string;
  contents: Uint8Array;
}

/** Where a run's files are. */
export function savedFolder(target: string, runId: string): string {
  return join(target, SAVED_FOLDER, runId);
}

/**
 * Reads the files that a user named.
 *
 * @throws {UsageError} If one can't be read, is not a regular file, or they are too large.
 */
export async function readFilesToSave(deadline: Deadline, paths: string[]): Promise<SavedFile[]> {
  const files: SavedFile[] = [];
  let leftBytes = MAX_TOTAL_BYTES;
  for (const path of paths) {
    const isFolder = await stat(deadline, path).then((info) => info.isDirectory, () => false);
    const read = isFolder ? archiveOf : readBytesUpTo;
    const contents = await read(deadline, path, leftBytes).catch((error) => {
      throw new UsageError(`"${path}" (--save) can't be read: ${error.message}`, { cause: error });
    });
    if (contents === null) {
      throw new UsageError(
        `"${path}" (--save) is not a regular file, or the files to save are larger than ` +
          `${MAX_TOTAL_BYTES >> 20} MiB together: name a smaller file, or back it up by itself`,
      );
    }
    leftBytes -= contents.length;
    const taken = files.map(({ name }) => name);
    const name = diskFileName(path) + (isFolder ? ".tar" : "");
    files.push({ name: freeName(name, taken), contents });
  }
  return files;
}

/**
 * A folder's files as an archive. Sockets and pipes hold nothing.
 *
 * @returns Null where they are too large.
 */
async function archiveOf(
  deadline: Deadline,
  folder: string,
  maxBytes: number,
): Promise<Uint8Array | null> {
  const entries = (await listFolder(deadline, folder)).sort((a, b) => a.name < b.name ? -1 : 1);
  const files: SavedFile[] = [];
  let leftBytes = maxBytes;
  for (const { name, isDirectory, isFile, isSymlink } of entries) {
    if (isDirectory || isSymlink || !fitsTar(name)) {
      throw new UsageError(
        `it contains "${name}", which is a folder, a link, or has a long name. Make an archive of it (tar) and save that`,
      );
    }
    if (!isFile) continue;
    const contents = await readBytesUpTo(deadline, join(folder, name), leftBytes);
    if (contents === null) return null;
    leftBytes -= contents.length;
    files.push({ name, contents });
  }
  return makeTar(files);
}

/**
 * Reads what was saved with a run.
 *
 * @throws {UsageError} If a file can't be read.
 */
export async function readSavedFiles(
  deadline: Deadline,
  target: string,
  { id, saved = [] }: { id: string; saved?: { name: string }[] | undefined },
): Promise<SavedFile[]> {
  const folder = savedFolder(target, id);
  return await Promise.all(saved.map(async ({ name }) => {
    const contents = await readBytesUpTo(deadline, join(folder, name), MAX_TOTAL_BYTES).catch(() =>
      null
    );
    if (contents !== null) return { name, contents };
    throw new UsageError(
      `"${
        join(folder, name)
      }", which was saved with the run ${id}, can't be read: put it back from a copy`,
    );
  }));
}

/** Two files may have one name. Pure. */
export function freeName(name: string, taken: string[]): string {
  let free = name;
  for (let n = 2; taken.includes(free); n++) free = `${n}-${name}`;
  return free;
}

/** Writes a run's files. The run's record makes them count. */
export async function saveFiles(
  deadline: Deadline,
  target: string,
  runId: string,
  files: SavedFile[],
  mode: number,
): Promise<void> {
  if (files.length === 0) return;
  const folder = savedFolder(target, runId);
  await createInside(deadline, join(target, SAVED_FOLDER), mode);
  await createInside(deadline, folder, mode);
  for (const { name, contents } of files) {
    await createFile(deadline, join(folder, name), mode, contents);
    await syncPath(deadline, join(folder, name), contents.length);
  }
  await syncPath(deadline, folder);
}

/** Removes what a run saved; where there is nothing, nothing. */
export async function removeSaved(
  deadline: Deadline,
  target: string,
  runId: string,
): Promise<void> {
  const folder = savedFolder(target, basename(runId));
  if (!(await lookAt(deadline, folder))?.isDirectory) return;
  for (const { name } of await listFolder(deadline, folder)) {
    await removeFile(deadline, join(folder, name));
  }
  await removeFolders(deadline, [folder]);
}
