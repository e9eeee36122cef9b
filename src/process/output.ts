/**
 * What another program prints, of those that look at the system. They are started by `timeout`, which is one of
 * the programs that we may run: Deno keeps `/proc`, `/sys` and `/dev` to programs with all rights.
 *
 * @module
 */

import { spawn } from "./spawn.ts";

const TIMEOUT_SECONDS = 5;

/**
 * What a program prints.
 *
 * @returns Null if it fails, is missing, or takes longer than 5 seconds.
 * @throws {Deno.errors.NotCapable} If `timeout` may not be run.
 */
export async function outputOf(program: string, args: string[]): Promise<string | null> {
  const child = spawn("timeout", [String(TIMEOUT_SECONDS), program, ...args], {
    env: { LC_ALL: "C" },
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  });
  const [text, { success }] = await Promise.all([new Response(child.stdout).text(), child.status]);
  return success ? text : null;
}
