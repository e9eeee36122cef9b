/**
 * The log on stderr: time, level, sentence.
 *
 * @module
 */

import { configure, dispose, getTextFormatter, type LogRecord } from "@logtape/logtape";
import { bold, dim, red, yellow } from "@std/fmt/colors";
import { localTime } from "./text.ts";

const PAINT: Record<string, (text: string) => string> = {
  debug: dim,
  warning: yellow,
  error: red,
  fatal: (text) => bold(red(text)),
};

/**
 * Sends the program's log to `write`, until disposed.
 *
 * @param options.debug Log QMP messages and commands too.
 */
export async function startLog(
  write: (text: string) => void,
  options: { debug: boolean; color: boolean },
): Promise<AsyncDisposable> {
  const format = lineFormatter(options.color);
  await configure({
    reset: true,
    sinks: { stderr: (record) => write(format(record)) },
    loggers: [
      {
        category: ["qmpbackup"],
        sinks: ["stderr"],
        lowestLevel: options.debug ? "debug" : "info",
      },
      { category: ["logtape", "meta"], sinks: ["stderr"], lowestLevel: "warning" },
    ],
  });
  return { [Symbol.asyncDispose]: () => dispose() };
}

/** "2026-11-22 23:11:35 +0100 INFO Sentence". Names in it can't drive the terminal ("bare"). */
export function lineFormatter(color: boolean): (record: LogRecord) => string {
  return getTextFormatter({
    timestamp: (timeMs) => localTime(new Date(timeMs)),
    level: "FULL",
    value: "bare",
    format: ({ timestamp, level, message, record }) => {
      const line = `${timestamp} ${level} ${message}`;
      const paint = color ? PAINT[record.level] : undefined;
      return paint ? paint(line) : line;
    },
  });
}
