/**
 * Runs a program to its end. One that goes into the background by itself (`--daemonize`, `--fork`) ends here
 * when it is ready, and with its complaint if it can't be.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { Failure, messageOf } from "../errors.ts";
import { tailOf } from "./tail.ts";
import { spawn } from "./spawn.ts";

const log = getLogger(["qmpbackup", "process"]);

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunProgramOptions {
  /** What to install where it is missing: "Debian: qemu-system-common". */
  install: string;
  /** Sends SIGTERM when aborted. */
  signal?: AbortSignal;
  /** Gets what it prints, piece by piece, instead of the result. The program waits for it. */
  onStdout?: (bytes: Uint8Array) => Promise<void>;
}

/** A program is not installed. */
export class MissingProgramError extends Failure {
  override name = "MissingProgramError";
}

/**
 * Runs a program to its end.
 *
 * @throws {MissingProgramError} If it is not installed.
 * @throws {Failure} If it can't be started.
 * @throws The signal's reason, if it was aborted: the program gets SIGTERM then.
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  { install, signal, onStdout }: RunProgramOptions,
): Promise<Ended> {
  log.debug("{program} {args}", { program, args: JSON.stringify(args) });
  signal?.throwIfAborted();
  const child = start(program, args, install, signal);
  // Not all at once with the rest: where a piece can't be taken, the program must not be left running.
  const taking = onStdout ? takeAll(child, onStdout) : tailOf(child.stdout);
  const [taken, stderr, status] = await Promise.allSettled([
    taking,
    tailOf(child.stderr),
    child.status,
  ]);
  signal?.throwIfAborted();
  return { code: valueOf(status).code, stdout: valueOf(taken), stderr: valueOf(stderr) };
}

function valueOf<T>(settled: PromiseSettledResult<T>): T {
  if (settled.status === "fulfilled") return settled.value;
  throw settled.reason;
}

/** Ends the program if a piece can't be taken. */
async function takeAll(
  child: Deno.ChildProcess,
  onStdout: (bytes: Uint8Array) => Promise<void>,
): Promise<string> {
  try {
    for await (const chunk of child.stdout) await onStdout(chunk);
  } catch (error) {
    try {
      child.kill();
    } catch {
      // It has ended by itself.
    }
    throw error;
  }
  return "";
}

function start(
  program: string,
  args: readonly string[],
  install: string,
  signal: AbortSignal | undefined,
): Deno.ChildProcess {
  try {
    return spawn(program, args, {
      // Messages in English, and names as they are.
      env: { LC_ALL: "C.UTF-8" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new MissingProgramError(`${program} is not installed: install it (${install})`);
    }
    throw new Failure(`${program} can't be started: ${messageOf(error)}`, { cause: error });
  }
}
