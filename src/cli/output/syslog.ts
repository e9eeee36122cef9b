/**
 * Sends the log to syslog, through the program that every Linux has for that.
 *
 * @module
 */

import { getTextFormatter, type Sink } from "@logtape/logtape";
import { UsageError } from "../../errors.ts";
import { spawn } from "../../process/spawn.ts";
import { withoutSecrets } from "../../secrets.ts";
import { printable } from "./text.ts";

/** What `logger --prio-prefix` wants before a line (syslog(3): facility user, then the severity). */
const PRIORITY: Record<string, number> = { debug: 15, info: 14, warning: 12, error: 11, fatal: 10 };

const CLOSE_TIMEOUT_MS = 5_000;

/** What `logger` is told. Nothing in it can drive the terminal of who reads it. */
export const formatSyslog = getTextFormatter({
  timestamp: "none",
  value: "bare",
  format: ({ message, record }) =>
    `<${PRIORITY[record.level] ?? 14}>${printable(withoutSecrets(message))}`,
});

/** Hands lines to one `logger` (util-linux) that runs as long as the log is open. */
export function startSyslog(): Sink & AsyncDisposable {
  const child = spawnLogger();
  const writer = child.stdin.getWriter();
  const sink: Sink = (record) => {
    writer.write(new TextEncoder().encode(formatSyslog(record))).catch(() => {});
  };
  const close = async () => {
    // Syslog may hang. When everything is done, the program does not wait for it.
    const late = setTimeout(() => child.kill("SIGKILL"), CLOSE_TIMEOUT_MS);
    await writer.close().catch(() => {});
    await child.status;
    clearTimeout(late);
  };
  return Object.assign(sink, { [Symbol.asyncDispose]: close });
}

function spawnLogger(): Deno.ChildProcess {
  try {
    return spawn("logger", ["--tag", "qmpbackup", "--prio-prefix"], {
      stdin: "piped",
      stdout: "null",
      stderr: "null",
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    throw new UsageError("--syslog needs the program logger (Debian: bsdutils)", { cause: error });
  }
}
