/**
 * Runs a program to its end. One that goes into the background by itself (`--daemonize`, `--fork`) ends here
 * when it is ready, and with its complaint if it can't be.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { Failure, messageOf } from "../errors.ts";
import { spawn } from "./spawn.ts";

const log = getLogger(["qmpbackup", "process"]);

/** What is kept of each output: the end. */
const MAX_OUTPUT_CHARACTERS = 1 << 20;

export interface Ended {
  code: number;
  stdout: string;
  stderr: string;
}

/** A program is not installed. */
export class MissingProgramError extends Failure {
  override name = "MissingProgramError";
}

/**
 * Runs a program to its end.
 *
 * @param install What to install where it is missing: "Debian: qemu-system-common".
 * @throws {MissingProgramError} If it is not installed.
 * @throws {Failure} If it can't be started.
 * @throws The signal's reason, if it was aborted: the program gets SIGTERM then.
 */
export async function runProgram(
  program: string,
  args: readonly string[],
  { install, signal }: { install: string; signal?: AbortSignal },
): Promise<Ended> {
  log.debug("{program} {args}", { program, args: JSON.stringify(args) });
  signal?.throwIfAborted();
  const child = start(program, args, install, signal);
  const [stdout, stderr, { code }] = await Promise.all([
    endOf(child.stdout),
    endOf(child.stderr),
    child.status,
  ]);
  signal?.throwIfAborted();
  return { code, stdout, stderr };
}

function start(
  program: string,
  args: readonly string[],
  install: string,
  signal: AbortSignal | undefined,
): Deno.ChildProcess {
  try {
    return spawn(program, args, {
      env: { LC_ALL: "C" },
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

async function endOf(stream: ReadableStream<Uint8Array>): Promise<string> {
  // Told to keep U+FEFF: Deno 2.9 takes one at the start of any chunk for a byte order mark.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let kept = "";
  for await (const chunk of stream) {
    kept = (kept + decoder.decode(chunk, { stream: true })).slice(-MAX_OUTPUT_CHARACTERS);
  }
  return kept;
}
