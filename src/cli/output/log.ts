/**
 * The log: time, level, sentence; on stderr, and where else the user wants it.
 *
 * @module
 */

import { configure, dispose, getTextFormatter, type LogRecord, type Sink } from "@logtape/logtape";
import { bold, dim, red, yellow } from "@std/fmt/colors";
import type { Deadline } from "../../fs/deadline.ts";
import { type Appender, openAppending } from "../../fs/append.ts";
import { messageOf, UsageError } from "../../errors.ts";
import { withoutSecrets } from "../../secrets.ts";
import { startSyslog } from "./syslog.ts";
import { localTime } from "../../time.ts";
import { printable } from "./text.ts";

const PAINT: Record<string, (text: string) => string> = {
  debug: dim,
  warning: yellow,
  error: red,
  fatal: (text) => bold(red(text)),
};

export interface LogOptions {
  /** Log QMP messages and commands too. */
  debug: boolean;
  /** Write only warnings and errors to stderr. */
  quiet: boolean;
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
  deadline: Deadline,
  write: (text: string) => void,
  options: LogOptions,
): Promise<AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const format = lineFormatter(options.color);
  const isShown = ({ level }: LogRecord) => !options.quiet || !["debug", "info"].includes(level);
  const sinks: Record<string, Sink> = {
    stderr: (record) => {
      if (isShown(record)) write(format(record));
    },
  };
  if (options.file !== null) {
    const plain = lineFormatter(false);
    const file = stack.use(await openLogFile(deadline, options.file, write));
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

async function openLogFile(
  deadline: Deadline,
  path: string,
  write: (text: string) => void,
): Promise<Appender> {
  const words = (error: unknown) => `The log file "${path}" can't be written: ${messageOf(error)}`;
  try {
    // A backup goes on if its log can't be written.
    return await openAppending(
      deadline,
      path,
      "the log",
      (error) => write(printable(words(error)) + "\n"),
    );
  } catch (error) {
    throw new UsageError(words(error), { cause: error });
  }
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
