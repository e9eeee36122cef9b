/**
 * The one way to start a program.
 *
 * @module
 */

/** What is said of each program; its stdin, stdout and stderr must be said. */
export interface SpawnOptions {
  /** Variables that are changed; all others are passed on. */
  env?: Record<string, string>;
  stdin: "piped" | "null";
  stdout: "piped" | "null";
  stderr: "piped" | "null" | "inherit";
  /** Sends SIGTERM when aborted. */
  signal?: AbortSignal;
  /** Puts it into a process group of its own. */
  detached?: boolean;
}

/**
 * Starts a program.
 *
 * Deno starts nothing while `LD_LIBRARY_PATH` or `LD_PRELOAD` is set, unless it may run everything: so both
 * are emptied. A program that needs them wants a script of its name, first in PATH.
 *
 * @param program Its name, looked for in PATH, or its path.
 * @throws {Deno.errors.NotFound} If there is no such program.
 * @throws {Deno.errors.NotCapable} If Deno may not start it.
 */
export function spawn(
  program: string,
  args: readonly string[],
  { env, ...options }: SpawnOptions,
): Deno.ChildProcess {
  return new Deno.Command(program, {
    ...options,
    args: [...args],
    env: { ...env, LD_LIBRARY_PATH: "", LD_PRELOAD: "" },
  }).spawn();
}
