/**
 * The program: from argv to an exit code.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { backup } from "./cli/commands/backup.ts";
import { cleanup } from "./cli/commands/cleanup.ts";
import { type CommandContext, deadlineOf } from "./cli/commands/context.ts";
import { watchdog } from "./cli/commands/watchdog.ts";
import { info } from "./cli/commands/info.ts";
import { list } from "./cli/commands/list.ts";
import { print } from "./cli/commands/print.ts";
import { restoreAttach } from "./cli/commands/restore_attach.ts";
import { restoreFiles } from "./cli/commands/restore_files.ts";
import { restoreInPlace } from "./cli/commands/restore_in_place.ts";
import { restoreVerify } from "./cli/commands/restore_verify.ts";
import { restoreTest } from "./cli/commands/restore_boot.ts";
import { restoreMerge } from "./cli/commands/restore.ts";
import { restoreFinish } from "./cli/commands/restore_finish.ts";
import { restoreRollback } from "./cli/commands/restore_rollback.ts";
import { restoreVm } from "./cli/commands/restore_vm.ts";
import { units } from "./cli/commands/units.ts";
import { bashCompletions, fishCompletions, zshCompletions } from "./cli/args/completions.ts";
import type { CommandName } from "./cli/args/flags.ts";
import { commandHelp } from "./cli/args/help.ts";
import { pluginUnknown } from "./cli/output/fleet.ts";
import type { Io } from "./cli/output/io.ts";
import { startLog } from "./cli/output/log.ts";
import { manualPage } from "./cli/args/manual.ts";
import { parse, type Parsed } from "./cli/args/parse.ts";
import { Progress } from "./cli/output/progress.ts";
import { jsonLine } from "./cli/output/report.ts";
import { printable } from "./cli/output/text.ts";
import { helpOn } from "./cli/args/help_on.ts";
import { VERSION } from "./cli/version.ts";
import { exitCodeOf, explainGone, Failure, messageOf, UsageError } from "./errors.ts";

const log = getLogger(["qmpbackup"]);

const RUN: Record<CommandName, (context: CommandContext) => Promise<number>> = {
  backup,
  "restore merge": restoreMerge,
  "restore attach": restoreAttach,
  "restore files": restoreFiles,
  "restore vm": restoreVm,
  "restore test": restoreTest,
  "restore finish": restoreFinish,
  "restore rollback": restoreRollback,
  "restore rebase": restoreInPlace("rebase"),
  "restore commit": restoreInPlace("commit"),
  "restore verify": restoreVerify,
  "restore snapshotrebase": restoreInPlace("snapshotrebase"),
  info,
  list,
  cleanup,
  "completions bash": print(bashCompletions),
  "completions zsh": print(zshCompletions),
  "completions fish": print(fishCompletions),
  help: print(({ topic }) => helpOn(topic)),
  version: print(versionText),
  manual: print(manualPage),
  units,
  guard: watchdog,
};

function versionText(): string {
  return `qmpbackup ${VERSION}\n`;
}

/**
 * Runs the program.
 *
 * @param calledAs The name it was started under: `qmprestore` takes the reference's command line.
 * @param signal Aborted with a `StoppedError` when the program is to stop.
 * @returns The exit code. Never throws.
 */
export async function run(
  argv: readonly string[],
  io: Io,
  signal: AbortSignal,
  calledAs = "qmpbackup",
): Promise<number> {
  // Seen without parsing, since even a wrong command line is to be reported as JSON.
  const json = argv.includes("--json");
  try {
    // The reference's program of that name is our subcommand `restore`.
    const parsed = parse(calledAs === "qmprestore" ? ["restore", ...argv] : argv);
    const { command, values, topic } = parsed;
    if (values.version) {
      io.stdout(versionText());
      return 0;
    }
    if (values.help || command === null) {
      io.stdout(topic || command === null ? helpOn(topic ?? "") : commandHelp(command));
      return 0;
    }
    return await runCommand(command, parsed, { argv, io, signal });
  } catch (error) {
    if (argv.includes("--nagios")) return reportToMonitoring(error, io);
    return report(error, io, json);
  }
}

/** What a plugin says where it can't find out: its line is read from stdout. */
function reportToMonitoring(error: unknown, io: Io): number {
  const { line, exitCode } = pluginUnknown(messageOf(error));
  io.stdout(line);
  return exitCode;
}

async function runCommand(
  command: CommandName,
  { values, topic = "" }: Parsed,
  { argv, io, signal }: { argv: readonly string[]; io: Io; signal: AbortSignal },
): Promise<number> {
  const quiet = values.quiet ?? false;
  if (quiet && values.debug) throw new UsageError("--quiet and --debug don't go together");
  const intervalMs = (values["progress-interval"] ?? 30) * 1000;
  const shownOn = quiet ? { ...io, isTerminal: false } : io;
  using progress = new Progress(shownOn, (line) => log.info("{line}", { line }), intervalMs);
  const write = (text: string) => {
    progress.hide();
    io.stderr(text);
  };
  const deadline = deadlineOf(values);
  await using _log = await startLog(deadline, write, {
    debug: values.debug ?? false,
    quiet,
    color: io.color,
    file: values.logfile === undefined ? null : resolve(values.logfile),
    syslog: values.syslog ?? false,
    // The words of the reference, which scripts look for.
    headline: `Version: ${VERSION} Arguments: ${argv.join(" ")}`,
  });
  const onStop = () => {
    progress.interrupt();
    log.warn("{reason}: undoing what was begun", { reason: messageOf(signal.reason) });
  };
  if (command !== "guard") signal.addEventListener("abort", onStop);
  try {
    return await RUN[command]({ values, topic, io, progress, deadline, signal });
  } catch (error) {
    throw explainGone(error);
  } finally {
    signal.removeEventListener("abort", onStop);
  }
}

/** The error's sentence on stderr, or as the closing record on stdout. */
function report(error: unknown, io: Io, json: boolean): number {
  const exitCode = exitCodeOf(error);
  const message = printable(messageOf(error));
  if (json) io.stdout(jsonLine("error", { message, exit_code: exitCode }));
  else io.stderr(`Error: ${message}\n`);
  if (isBug(error)) {
    const stack = (error.stack ?? "").split("\n").map(printable).join("\n");
    io.stderr(`${stack}\nThis is a bug of qmpbackup: please report it\n`);
  }
  return exitCode;
}

/** Not a bug: what Deno refuses, and what the operating system refuses (it has a code such as "ENOSPC"). */
function isBug(error: unknown): error is Error {
  return error instanceof Error && !(error instanceof Failure) &&
    !(error instanceof SuppressedError) && !(error instanceof Deno.errors.NotCapable) &&
    !("code" in error && typeof error.code === "string") && !/\(os error \d+\)/.test(error.message);
}
