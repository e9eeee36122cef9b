/**
 * The backup directory: reads what is there, and writes the few files of ours in it.
 *
 * @module
 */

import { join } from "@std/path";
import { messageOf, UsageError } from "../errors.ts";
import { bounded, exists, HangingError, syncPath, writeDurably } from "./durable.ts";
import { isChainId, LOCK_FILE, RECORDS_FOLDER, RUNS_FOLDER, UUID_FILE } from "./names.ts";
import {
  type DiskRecord,
  formatRecord,
  parseRecord,
  RecordError,
  type RunRecord,
} from "./record.ts";

/** A record is some kilobytes; what is far larger is none. */
const MAX_RECORD_BYTES = 16 << 20;

export interface Target {
  /** Absolute. */
  path: string;
  /** The chain's id, or null for a target without one: a new one, or one that holds copies only. */
  chainId: string | null;
  /** Whether runs were recorded here; the reference's targets have an id and no records. */
  hasRecords: boolean;
  /** In the order of their sequence numbers. */
  runs: RunRecord[];
}

/**
 * Reads a backup directory; one that does not exist is empty.
 *
 * @param path Absolute.
 * @throws {UsageError} If it can't be read or is no directory.
 * @throws {RecordError} If what stands in it can't be believed.
 */
export async function readTarget(path: string): Promise<Target> {
  try {
    const runs = await readRuns(path);
    return {
      path,
      chainId: await readChainId(path),
      hasRecords: await exists(join(path, RUNS_FOLDER)),
      runs,
    };
  } catch (error) {
    throw readable(error, path);
  }
}

/** Names that may lie in a new target without being backups. */
function isHarmless({ name }: Deno.DirEntry): boolean {
  return name.startsWith(".") || name === "lost+found" || name.endsWith(".log");
}

/**
 * Refuses a directory that holds something else than backups, before anything is written to it.
 *
 * @throws {UsageError} If it does.
 */
export async function refuseForeign(target: Target): Promise<void> {
  if (target.chainId !== null || target.hasRecords || !await exists(target.path)) return;
  try {
    for (const entry of await entriesOf(target.path)) {
      if (isHarmless(entry) || entry.name === RECORDS_FOLDER) continue;
      throw new UsageError(
        `The target "${target.path}" holds "${entry.name}" and no backups of ours: ` +
          "name an empty or a new directory",
      );
    }
  } catch (error) {
    throw readable(error, target.path);
  }
}

/**
 * Makes the directory and the folder of our records, open to their owner only.
 *
 * @returns The lock's file in it.
 * @throws {UsageError} If this user may not.
 */
export async function createTarget(path: string): Promise<string> {
  try {
    const folder = join(path, RUNS_FOLDER);
    await bounded(path, () => Deno.mkdir(folder, { recursive: true, mode: 0o700 }));
  } catch (error) {
    throw readable(error, path);
  }
  return join(path, LOCK_FILE);
}

/**
 * Writes a run's record, whole or not at all. This is what makes a backup count.
 *
 * @throws {RecordError} If it can't be written: nothing counts then.
 */
export async function writeRun(path: string, record: RunRecord): Promise<void> {
  const file = join(path, RUNS_FOLDER, `${record.id}.json`);
  try {
    await writeDurably(file, formatRecord(record));
  } catch (error) {
    throw new RecordError(
      `The record "${file}" can't be written (is the target still there, is it full?): ` +
        messageOf(error),
      { cause: error },
    );
  }
}

/** Writes the chain's id, as the reference does: no newline. */
export async function writeChainId(path: string, chainId: string): Promise<void> {
  await writeDurably(join(path, UUID_FILE), chainId);
}

/** Makes a disk's folder, and makes it last. */
export async function createFolder(target: string, folder: string): Promise<void> {
  const path = join(target, folder);
  await bounded(path, () => Deno.mkdir(path, { recursive: true, mode: 0o700 }));
  await syncPath(target);
}

/**
 * Changes rows of the records, the later runs' first: then an interruption leaves no row whose parent
 * is not recorded.
 *
 * @param change Returns whether it changed the row.
 */
export async function updateRows(
  path: string,
  change: (row: DiskRecord) => boolean,
): Promise<void> {
  for (const run of (await readRuns(path)).toReversed()) {
    if (run.disks.map(change).includes(true)) await writeRun(path, run);
  }
}

async function readChainId(path: string): Promise<string | null> {
  const file = join(path, UUID_FILE);
  if (!await exists(file)) return null;
  const text = (await readSmall(file)).trim();
  if (!isChainId(text)) {
    throw new RecordError(`"${file}" holds no chain id: restore it, or name a new target`);
  }
  return text;
}

async function readRuns(path: string): Promise<RunRecord[]> {
  const folder = join(path, RUNS_FOLDER);
  const runs: RunRecord[] = [];
  try {
    for (const { name } of await entriesOf(folder)) {
      if (!name.endsWith(".json")) continue;
      runs.push(parseRecord(join(folder, name), await readSmall(join(folder, name))));
    }
  } catch (error) {
    if (
      error instanceof Deno.errors.NotADirectory &&
      (await bounded(path, () => Deno.stat(path))).isDirectory
    ) {
      throw new RecordError(`"${folder}" is no folder of ours`, { cause: error });
    }
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return runs.sort((a, b) => a.sequence - b.sequence);
}

async function entriesOf(folder: string): Promise<Deno.DirEntry[]> {
  return await bounded(folder, () => Array.fromAsync(Deno.readDir(folder)));
}

async function readSmall(path: string): Promise<string> {
  const { size, isFile } = await bounded(path, () => Deno.stat(path)).catch((error) => {
    // A link that leads nowhere: what it stood for must not be taken for missing.
    if (error instanceof Deno.errors.PermissionDenied || error instanceof HangingError) throw error;
    throw new RecordError(`"${path}" can't be read: ${messageOf(error)}`, { cause: error });
  });
  if (!isFile || size > MAX_RECORD_BYTES) {
    throw new RecordError(`"${path}" is no file of ours: it is too large, or no regular file`);
  }
  return await bounded(path, () => Deno.readTextFile(path));
}

/** What the operating system refuses is about the directory that the user named. */
function readable(error: unknown, path: string): unknown {
  if (error instanceof Deno.errors.NotADirectory || error instanceof Deno.errors.AlreadyExists) {
    return new UsageError(`"${path}" is no directory`);
  }
  if (!(error instanceof Error) || !("code" in error) || typeof error.code !== "string") {
    return error;
  }
  return new UsageError(`The directory "${path}" can't be used: ${error.message}`, {
    cause: error,
  });
}
