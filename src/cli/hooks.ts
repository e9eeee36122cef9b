/**
 * Programs of the user's own, run before and after a backup: `--before` and `--after`.
 *
 * They are run by `timeout` (coreutils), which ends them and what they started, with SIGKILL in the end.
 * And a binary of ours may run only programs that were named when it was made. There is no shell in between.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { type Deadline, endsWithin } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import type { RunRecord } from "../repo/record.ts";
import { Failure, messageOf, UsageError } from "../errors.ts";
import { spawn } from "../process/spawn.ts";
import { jsonLine } from "./output/report.ts";

const log = getLogger(["qmpbackup", "hook"]);

/** After SIGTERM a hook has this long to end by itself. */
const GRACE_SECONDS = 5;

const TELL_GRACE_MS = 1_000;

/** What `timeout` ends with when the time is over. */
const TIMED_OUT = 124;

export interface Hook {
  /** What the user knows it by: "--before". */
  flag: string;
  /** Absolute. */
  program: string;
  timeoutSeconds: number;
}

/**
 * Looks at a program before it is needed.
 *
 * @throws {UsageError} If it is not there, or can't be run.
 */
export async function findHook(
  deadline: Deadline,
  flag: string,
  path: string | undefined,
  timeoutSeconds: number,
): Promise<Hook | null> {
  if (path === undefined) return null;
  const program = resolve(path);
  const wrong = (words: string) => new UsageError(`The program "${program}" (${flag}) ${words}`);
  const { isFile, mode } = await stat(deadline, program).catch((error) => {
    throw wrong(`can't be used: ${messageOf(error)}`);
  });
  if (!isFile || ((mode ?? 0) & 0o111) === 0) throw wrong("is not a program that can be run");
  return { flag, program, timeoutSeconds };
}

/**
 * Runs a hook, with the run's record as one line of JSON on its stdin.
 *
 * @param target The folder of the backups, which the record's paths are relative to.
 * @throws {Failure} If it ends with anything but 0, or not in time.
 * @throws The signal's reason, if it was aborted.
 */
export async function runHook(
  { flag, program, timeoutSeconds }: Hook,
  record: RunRecord,
  target: string,
  signal: AbortSignal,
): Promise<void> {
  signal.throwIfAborted();
  log.info("Running {program} ({flag})", { program, flag });
  const args = [`--kill-after=${GRACE_SECONDS}`, String(timeoutSeconds), program];
  const child = startHook(args, signal);
  const telling = tell(child.stdin, jsonLine("run", { target, ...record }));
  const { code } = await child.status;
  // A process that it left behind may keep its stdin open without reading.
  await endsWithin(telling, TELL_GRACE_MS);
  signal.throwIfAborted();
  if (code === 0) return;
  throw new Failure(
    `The program "${program}" (${flag}) ` +
      (code === TIMED_OUT ? `did not end within ${timeoutSeconds} s` : `ended with ${code}`),
  );
}

function startHook(args: string[], signal: AbortSignal): Deno.ChildProcess {
  try {
    return spawn("timeout", args, {
      stdin: "piped",
      // Ours is for results, which programs may read.
      stdout: "null",
      stderr: "inherit",
      // SIGTERM, which `timeout` passes on.
      signal,
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    throw new Failure("Hooks need the program timeout (Debian: coreutils)", { cause: error });
  }
}

async function tell(stdin: WritableStream<Uint8Array>, text: string): Promise<void> {
  const writer = stdin.getWriter();
  // A program may ignore its stdin.
  await writer.write(new TextEncoder().encode(text)).catch(() => {});
  await writer.close().catch(() => {});
}
