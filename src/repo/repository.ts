/**
 * The backup directory: reads what is there, and writes the few files of ours in it.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, join } from "@std/path";
import { brief, Failure, messageOf, UsageError } from "../errors.ts";
import { listFolder, stat } from "../fs/files.ts";
import { lookAt, OWNER_ONLY, refuseLink } from "../fs/create.ts";
import { readEachUpTo, readUpTo } from "../fs/open.ts";
import {
  createFolders,
  createInside,
  exists,
  removeFile,
  removeFolders,
  syncParent,
  syncPath,
  writeDurably,
} from "../fs/durable.ts";
import type { Fingerprint } from "./fingerprint.ts";
import { findSharedFolder } from "../fs/folder.ts";
import { type Holder, takeLock } from "../fs/flock.ts";
import {
  DIGESTS_FOLDER,
  isChainId,
  LOCK_FILE,
  PRUNE_FOLDER,
  RECORDS_FOLDER,
  RESTORE_FILE,
  RUNS_FOLDER,
  TEMPORARY_SUFFIX,
  UUID_FILE,
  VERIFIED_FOLDER,
} from "./layout.ts";
import {
  type DiskRecord,
  formatRecord,
  halfAdopted,
  inOrder,
  MAX_RECORD_BYTES,
  parseRecord,
  RecordError,
  type RunRecord,
} from "./record.ts";

/** All records of a target are held at once. A run of twenty disks has 20 KiB. */
const MAX_RECORDS_BYTES = 256 << 20;

export interface Target {
  /** Absolute. */
  path: string;
  /** The chain's id, or null for a target without one: a new one, or one that holds copies only. */
  chainId: string | null;
  /** Whether runs were recorded here; the reference's targets have an id and no records. */
  hasRecords: boolean;
  /** In the order of their sequence numbers. */
  runs: RunRecord[];
  /** Records that are ignored: see `halfAdopted()`. */
  halfAdopted: RunRecord[];
}

/**
 * Reads a backup directory; one that does not exist is empty.
 *
 * @param path Absolute.
 * @throws {UsageError} If it can't be read or is not a directory.
 * @throws {RecordError} If what stands in it can't be believed.
 */
export async function readTarget(deadline: Deadline, path: string): Promise<Target> {
  try {
    const all = await readRuns(deadline, path);
    const half = halfAdopted(all);
    return {
      path,
      chainId: await readChainId(deadline, path),
      hasRecords: await exists(deadline, join(path, RUNS_FOLDER)),
      runs: inOrder(all.filter((run) => !half.includes(run))),
      halfAdopted: half,
    };
  } catch (error) {
    throw readable(error, path);
  }
}

/** What can be told of a target without reading its records. */
export interface TargetOutline extends Pick<Target, "path" | "chainId" | "hasRecords"> {
  /** The file of the newest record, by its name; null where there is none. */
  newestRecord: string | null;
}

/**
 * Looks at a backup directory before it is locked: its records may change until then, and are read later.
 *
 * @param path Absolute.
 * @throws As `readTarget()`, but for what its records say.
 */
export async function outlineTarget(deadline: Deadline, path: string): Promise<TargetOutline> {
  try {
    const newest = (await recordNames(deadline, path)).toSorted().at(-1);
    return {
      path,
      chainId: await readChainId(deadline, path),
      hasRecords: await exists(deadline, join(path, RUNS_FOLDER)),
      newestRecord: newest === undefined ? null : join(path, RUNS_FOLDER, newest),
    };
  } catch (error) {
    throw readable(error, path);
  }
}

/** Names that may lie in a new target without being backups. */
function isHarmless({ name }: Deno.DirEntry): boolean {
  return name.startsWith(".") || ["lost+found", RESTORE_FILE].includes(name) ||
    name.endsWith(".log");
}

/**
 * Refuses a directory that holds something else than backups, before anything is written to it.
 *
 * @throws {UsageError} If it does.
 */
export async function refuseForeign(
  deadline: Deadline,
  target: TargetOutline | Target,
): Promise<void> {
  if (target.chainId !== null || target.hasRecords || !await exists(deadline, target.path)) return;
  try {
    for (const entry of await listFolder(deadline, target.path)) {
      if (isHarmless(entry) || entry.name === RECORDS_FOLDER) continue;
      throw new UsageError(
        `The target "${target.path}" holds "${entry.name}" and no backups made by qmpbackup: ` +
          "name an empty or a new directory",
      );
    }
  } catch (error) {
    throw readable(error, target.path);
  }
}

/**
 * Refuses a directory in which a link leads outside, where something would be written or removed: the
 * directory itself may be one, since the user named it.
 *
 * @throws {Failure} If there is one, with what to do.
 */
export async function refuseLinks(deadline: Deadline, { path, runs }: Target): Promise<void> {
  const folders = runs.flatMap(({ disks }) => disks.map(({ folder }) => folder));
  const ours = [RECORDS_FOLDER, RUNS_FOLDER, LOCK_FILE, UUID_FILE];
  for (const name of new Set([...ours, ...folders])) {
    if (name !== ".") await refuseLink(deadline, join(path, name));
  }
}

/**
 * Refuses a directory in which others could put a link in the place of what we write.
 *
 * @param mode Of our files: the group that it lets write may write to the folders, too. So may the group that
 * the first run was told of, or the last one: what they wrote has that mode.
 * @throws {UsageError} If there are such, with whose folder it is and what to do.
 */
export async function refuseShared(
  deadline: Deadline,
  { path, runs }: Target,
  mode = OWNER_ONLY,
): Promise<void> {
  const last = runs.at(-1);
  const fileMode = await withModeOf(deadline, mode, [
    join(path, LOCK_FILE),
    ...(last ? [recordFile(path, last)] : []),
  ]);
  const folders = runs.flatMap(({ disks }) => disks.map(({ folder }) => folder));
  for (const name of new Set([".", RECORDS_FOLDER, RUNS_FOLDER, ...folders])) {
    await refuseSharedFolder(deadline, join(path, name), fileMode);
  }
}

/** As `refuseShared()`, before the records are read: in the folders where the lock and the records lie. */
export async function refuseSharedOutline(
  deadline: Deadline,
  { path, newestRecord }: TargetOutline,
  mode: number,
): Promise<void> {
  const files = [join(path, LOCK_FILE), ...(newestRecord ? [newestRecord] : [])];
  const fileMode = await withModeOf(deadline, mode, files);
  for (const name of [".", RECORDS_FOLDER, RUNS_FOLDER]) {
    await refuseSharedFolder(deadline, join(path, name), fileMode);
  }
}

/** A mode, with what those of these files allow that are there. */
async function withModeOf(deadline: Deadline, mode: number, files: string[]): Promise<number> {
  const infos = await Promise.all(files.map((file) => lookAt(deadline, file)));
  return infos.reduce((all, info) => all | ((info?.mode ?? 0) & 0o666), mode);
}

/**
 * Refuses a folder in which others could put a link in the place of what we write.
 *
 * @throws {UsageError} If there are such, with whose folder it is and what to do.
 */
export async function refuseSharedFolder(
  deadline: Deadline,
  path: string,
  mode = OWNER_ONLY,
): Promise<void> {
  const problem = await findSharedFolder(deadline, path, mode);
  if (problem !== null) throw new UsageError(problem);
}

/**
 * Makes the directory and the folder of our records, and makes them last.
 *
 * @param mode Of files; folders can be entered by those who may read.
 * @param made Gets the paths of the folders that were missing, the outermost first.
 * @returns The lock's file in it.
 * @throws {UsageError} If this user may not.
 */
export async function createTarget(
  deadline: Deadline,
  path: string,
  mode?: number,
  made: string[] = [],
): Promise<string> {
  try {
    await createFolders(deadline, path, mode, made);
    // It may have been made by a run that died before it came to this.
    await syncParent(deadline, path);
    await createInside(deadline, join(path, RECORDS_FOLDER), mode, made);
    await createInside(deadline, join(path, RUNS_FOLDER), mode, made);
  } catch (error) {
    throw readable(error, path);
  }
  return join(path, LOCK_FILE);
}

/** A target that this run has locked. */
export interface ClaimedTarget extends AsyncDisposable {
  lockFile: string;
}

/**
 * Makes what is missing of a target, and locks it until disposed. If no run was recorded by then, what
 * was made here is removed again: a run that is refused leaves nothing.
 *
 * @param mode Of files; folders can be entered by those who may read.
 * @throws {LockedError} If another run holds the lock.
 * @throws {UsageError} If this user may not.
 */
export async function claimTarget(
  deadline: Deadline,
  path: string,
  holder: Holder,
  mode?: number,
): Promise<ClaimedTarget> {
  const made: string[] = [];
  let lockFile: string;
  try {
    lockFile = await createTarget(deadline, path, mode, made);
  } catch (error) {
    await removeFolders(deadline, made);
    throw error;
  }
  // If another run was faster, the folders are in its use.
  const lock = await takeLock(deadline, lockFile, holder, mode);
  return {
    lockFile,
    async [Symbol.asyncDispose]() {
      using _lock = lock;
      const runs = join(path, RUNS_FOLDER);
      if (!made.includes(runs)) return;
      await removeFolders(deadline, [runs]);
      if (await exists(deadline, runs)) return;
      await removeFile(deadline, lockFile);
      await removeFolders(deadline, made.slice(0, made.indexOf(runs)));
    },
  };
}

/**
 * Whether anything was backed up here, or at least begun. Where not, the records tell of runs that failed
 * before they knew the VM's disks, and say nothing of what else lies here.
 */
export function knowsDisks({ runs }: Pick<Target, "runs">): boolean {
  return runs.some(({ disks }) => disks.length > 0);
}

/**
 * Writes a run's record, whole or not at all. This is what makes a backup count.
 *
 * @param mode Of a new record.
 * @throws {RecordError} If it can't be written: nothing counts then.
 */
export async function writeRun(
  deadline: Deadline,
  path: string,
  record: RunRecord,
  mode?: number,
): Promise<void> {
  const file = recordFile(path, record);
  const text = formatRecord(record);
  try {
    await writeDurably(deadline, file, text, mode === undefined ? {} : { mode });
  } catch (error) {
    throw new RecordError(
      `The record "${file}" can't be written (check that the target is still mounted, and not full): ` +
        messageOf(error),
      { cause: error },
    );
  }
}

/** Where a run's record stands. */
export function recordFile(path: string, { id }: RunRecord): string {
  return join(path, RUNS_FOLDER, `${id}.json`);
}

/** Makes a disk's folder, and makes it last. */
export async function createFolder(
  deadline: Deadline,
  target: string,
  folder: string,
  mode?: number,
): Promise<void> {
  // The target itself may be a link.
  if (folder === ".") return;
  const path = join(target, folder);
  await createInside(deadline, path, mode);
  // It may have been there, and somebody else's.
  const problem = await findSharedFolder(
    deadline,
    path,
    await withModeOf(deadline, mode ?? OWNER_ONLY, [join(target, LOCK_FILE)]),
  );
  if (problem !== null) throw new Failure(problem);
}

/** Writes the chain's id, as the reference does: no newline. */
export async function writeChainId(
  deadline: Deadline,
  path: string,
  chainId: string,
  mode?: number,
): Promise<void> {
  await writeBeside(deadline, path, UUID_FILE, chainId, mode);
}

/**
 * Writes a file that lies beside the disks' folders, or among the records. What is not whole yet lies among
 * the records: here a disk's image might have any name.
 */
export async function writeBeside(
  deadline: Deadline,
  path: string,
  name: string,
  text: string,
  mode?: number,
): Promise<void> {
  const partial = join(path, RECORDS_FOLDER, basename(name) + TEMPORARY_SUFFIX);
  await writeDurably(
    deadline,
    join(path, name),
    text,
    mode === undefined ? { partial } : { partial, mode },
  );
}

/** What runs that died have left of files that were not whole yet. */
export async function temporaries(deadline: Deadline, path: string): Promise<string[]> {
  const records = [RECORDS_FOLDER, RUNS_FOLDER].map((folder) => join(path, folder));
  const others = [DIGESTS_FOLDER, VERIFIED_FOLDER].map((folder) =>
    foldersIn(deadline, join(path, folder))
  );
  const folders = [...records, ...(await Promise.all(others)).flat()];
  const found: string[] = [];
  for (const folder of folders) {
    for (const { name, isDirectory } of await listFolder(deadline, folder)) {
      if (!isDirectory && name.endsWith(TEMPORARY_SUFFIX)) found.push(join(folder, name));
    }
  }
  return found;
}

/** A folder, and the folders in it: that of the digests has one for each disk. A link is not followed. */
async function foldersIn(deadline: Deadline, folder: string): Promise<string[]> {
  if (!(await lookAt(deadline, folder))?.isDirectory) return [];
  const entries = await listFolder(deadline, folder);
  const disks = entries.filter(({ isDirectory }) => isDirectory).map(({ name }) => name);
  return [folder, ...disks.map((name) => join(folder, name))];
}

/** The folders in which a prune makes new images, one for each disk's folder; absolute. */
function pruneFolders({ path, runs }: Pick<Target, "path" | "runs">): string[] {
  const folders = new Set(runs.flatMap(({ disks }) => disks.map(({ folder }) => folder)));
  return [...folders].map((folder) => join(path, folder, PRUNE_FOLDER));
}

/** The folders of images that a prune was making when it was killed. */
export async function pruneLeftovers(
  deadline: Deadline,
  target: Pick<Target, "path" | "runs">,
): Promise<string[]> {
  const found: string[] = [];
  for (const folder of pruneFolders(target)) {
    await refuseLink(deadline, folder);
    if (await exists(deadline, folder)) found.push(folder);
  }
  return found;
}

/** Removes such a folder, with the files in it. */
export async function removePruneFolder(deadline: Deadline, folder: string): Promise<void> {
  for (const { name, isFile } of await listFolder(deadline, folder)) {
    if (isFile) await removeFile(deadline, join(folder, name));
  }
  await removeFolders(deadline, [folder]);
}

/** Removes a record, and makes that last. */
export async function removeRun(deadline: Deadline, path: string, run: RunRecord): Promise<void> {
  await removeFile(deadline, recordFile(path, run));
  await syncPath(deadline, join(path, RUNS_FOLDER));
}

/**
 * Changes rows of the records, the later runs' first: then an interruption leaves no row whose parent
 * is not recorded.
 *
 * @param change Returns whether it changed the row.
 */
export async function updateRows(
  deadline: Deadline,
  path: string,
  change: (row: DiskRecord) => boolean,
): Promise<void> {
  for (const run of (await readTarget(deadline, path)).runs.toReversed()) {
    if (run.disks.map(change).includes(true)) await writeRun(deadline, path, run);
  }
}

/** Records what tells finished images, by their paths in the target. */
export async function recordFingerprints(
  deadline: Deadline,
  path: string,
  fingerprints: ReadonlyMap<string, Fingerprint>,
): Promise<void> {
  if (fingerprints.size === 0) return;
  await updateRows(deadline, path, (row) => {
    const fingerprint = fingerprints.get(row.file);
    if (!fingerprint || (row.result !== "done" && row.result !== "superseded")) return false;
    row.fingerprint = fingerprint;
    return true;
  });
}

async function readChainId(deadline: Deadline, path: string): Promise<string | null> {
  const file = join(path, UUID_FILE);
  if (!await exists(deadline, file)) return null;
  const text = (await readSmall(deadline, file)).trim();
  if (!isChainId(text)) {
    throw new RecordError(`"${file}" holds no chain id: restore it, or name a new target`);
  }
  return text;
}

/** All records, in no order. */
async function readRuns(deadline: Deadline, path: string): Promise<RunRecord[]> {
  const folder = join(path, RUNS_FOLDER);
  const runs: RunRecord[] = [];
  let totalBytes = 0;
  const files = (await recordNames(deadline, path)).map((name) => join(folder, name));
  for await (const text of readEachUpTo(deadline, files, MAX_RECORD_BYTES)) {
    const file = files[runs.length] ?? "";
    const known = requireSmall(file, text);
    totalBytes += known.length;
    if (totalBytes > MAX_RECORDS_BYTES) {
      throw new RecordError(
        `The records in "${folder}" are larger than ${
          MAX_RECORDS_BYTES >> 20
        } MiB together: move those ` +
          "away whose images are gone",
      );
    }
    const run = parseRecord(file, known);
    if (basename(file) !== `${run.id}.json`) {
      throw new RecordError(
        `"${file}" is the record of "${brief(run.id)}", a copy: move it away`,
      );
    }
    runs.push(run);
  }
  return runs;
}

/** The names of the records' files; none where there is no folder of ours. */
async function recordNames(deadline: Deadline, path: string): Promise<string[]> {
  const folder = join(path, RUNS_FOLDER);
  try {
    const entries = await listFolder(deadline, folder);
    return entries.map(({ name }) => name).filter((name) => name.endsWith(".json"));
  } catch (error) {
    const isFolder = async () => (await stat(deadline, path)).isDirectory;
    if (error instanceof Deno.errors.NotADirectory && await isFolder()) {
      throw new RecordError(`"${folder}" is not a folder made by qmpbackup`, { cause: error });
    }
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/**
 * Reads a file of some kilobytes.
 *
 * @throws {RecordError} If it is far larger, or no regular file: what waits for a writer would be read
 * for ever, and a link may lead to a file that means something else.
 */
export async function readSmall(deadline: Deadline, path: string): Promise<string> {
  return requireSmall(path, await readUpTo(deadline, path, MAX_RECORD_BYTES));
}

function requireSmall(path: string, text: string | null): string {
  if (text !== null) return text;
  throw new RecordError(
    `"${path}" is not a file of qmpbackup: it is too large, or not a regular file (a link, a folder)`,
  );
}

/** What the operating system refuses is about the directory that the user named. */
function readable(error: unknown, path: string): unknown {
  if (error instanceof Deno.errors.NotADirectory || error instanceof Deno.errors.AlreadyExists) {
    return new UsageError(`"${path}" is not a directory`);
  }
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") {
    return error;
  }
  return new UsageError(`The directory "${path}" can't be used: ${error.message}`, {
    cause: error,
  });
}
