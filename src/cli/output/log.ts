/**
 * The log: time, level, sentence; on stderr, and where else the user wants it.
 *
 * @module
 */

import { configure, dispose, getTextFormatter, type LogRecord, type Sink } from "@logtape/logtape";
import { bold, dim, red, yellow } from "@std/fmt/colors";
import { dirname } from "@std/path";
import { bounded, endsWithin } from "../../fs/deadline.ts";
import { createFile, OWNER_ONLY } from "../../fs/create.ts";
import { findSharedFolder } from "../../fs/folder.ts";
import { openItself } from "../../fs/open.ts";
import { Failure, messageOf, UsageError } from "../../errors.ts";
import { withoutSecrets } from "../../secrets.ts";
import { startSyslog } from "./syslog.ts";
import { localTime, printable } from "./text.ts";

const PAINT: Record<string, (text: string) => string> = {
  debug: dim,
  warning: yellow,
  error: red,
  fatal: (text) => bold(red(text)),
};

export interface LogOptions {
  /** Log QMP messages and commands too. */
  debug: boolean;
  color: boolean;
  /** Append to this file as well; its folder is made. */
  file: string | null;
  /** Send to syslog as well. */
  syslog: boolean;
  /** The first line of the file: who runs, and how. */
  headline: string;
}

/**
 * Sends the program's log to `write` and where else the user wants it, until disposed.
 *
 * @throws {UsageError} If the file can't be written.
 */
export async function startLog(
  write: (text: string) => void,
  options: LogOptions,
): Promise<AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const format = lineFormatter(options.color);
  const sinks: Record<string, Sink> = { stderr: (record) => write(format(record)) };
  if (options.file !== null) {
    const path = options.file;
    const plain = lineFormatter(false);
    const file = stack.use(
      appending(
        await openFile(path),
        (error) =>
          write(printable(`The log file "${path}" can't be written: ${messageOf(error)}`) + "\n"),
      ),
    );
    file.append(`${localTime(new Date())} INFO ${printable(withoutSecrets(options.headline))}\n`);
    sinks.file = (record) => file.append(plain(record));
  }
  if (options.syslog) sinks.syslog = stack.use(startSyslog());
  const names = Object.keys(sinks);
  const lowestLevel = options.debug ? "debug" : "info";
  await configure({
    reset: true,
    sinks,
    loggers: [
      { category: ["qmpbackup"], sinks: names, lowestLevel },
      { category: ["logtape", "meta"], sinks: names, lowestLevel: "warning" },
    ],
  });
  stack.defer(() => dispose());
  const started = stack.move();
  return { [Symbol.asyncDispose]: () => started.disposeAsync() };
}

async function openFile(path: string): Promise<Deno.FsFile> {
  try {
    await bounded(path, () => Deno.mkdir(dirname(path), { recursive: true }));
    // Where nobody else could have put a link or a device there, it is the admin's.
    const isOwn = await findSharedFolder(dirname(path)) === null;
    if (!isOwn) return await openInShared(path);
    await refuseOther(path);
    return await bounded(
      path,
      () => Deno.open(path, { append: true, create: true, mode: OWNER_ONLY }),
    );
  } catch (error) {
    throw new UsageError(`The log file "${path}" can't be written: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * Refuses what is not a regular file: to open a pipe waits for its reader, and to write to it, or to some
 * device, may wait for ever. A link may be followed here.
 */
async function refuseOther(path: string) {
  if (path === "/dev/null") return;
  const info = await bounded(path, () => Deno.stat(path)).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  });
  if (info && !info.isFile) throw new Failure("it is there, and not a regular file");
}

/** In a folder to which others may write as well nothing is opened but the file itself. */
async function openInShared(path: string): Promise<Deno.FsFile> {
  try {
    return await openItself(path, "the log", { append: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    await createFile(path, OWNER_ONLY);
    return await openItself(path, "the log", { append: true });
  }
}

/** A file system that hangs gets this long for the last lines of a log. */
const CLOSE_TIMEOUT_MS = 5_000;

/**
 * Appends to a file in the background, one text after the other: if its file system hangs, nothing waits for
 * the log.
 *
 * @param onError Called once: a backup goes on if its log can't be written.
 */
function appending(file: Deno.FsFile, onError: (error: unknown) => void) {
  let last = Promise.resolve(), isTold = false;
  const write = async (text: string) => {
    const bytes = new TextEncoder().encode(text);
    try {
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
    } catch (error) {
      if (!isTold) onError(error);
      isTold = true;
    }
  };
  return {
    append: (text: string) => void (last = last.then(() => write(text))),
    async [Symbol.asyncDispose]() {
      // Closing a file that hangs would hang as well.
      if (await endsWithin(last, CLOSE_TIMEOUT_MS)) file.close();
    },
  };
}

/** "2026-11-22 23:11:35 +0100 INFO Sentence". Nothing in it can drive the terminal. */
export function lineFormatter(color: boolean): (record: LogRecord) => string {
  return getTextFormatter({
    timestamp: (timeMs) => localTime(new Date(timeMs)),
    level: "FULL",
    value: "bare",
    format: ({ timestamp, level, message, record }) => {
      const line = `${timestamp} ${level} ${printable(withoutSecrets(message))}`;
      const paint = color ? PAINT[record.level] : undefined;
      return paint ? paint(line) : line;
    },
  });
}
