/** What every step of the build needs: programs to run, a folder to work in, errors that help. */

import { createHash } from "node:crypto";

/** A step that failed; the message is one sentence and says what to do. */
export class BuildError extends Error {
  override name = "BuildError";
}

/** A program and its arguments. */
export type Command = readonly [program: string, ...args: string[]];

/** How {@linkcode run} runs a program. */
export interface RunOptions {
  cwd?: string;
  /** Set on top of our own environment. */
  env?: Record<string, string>;
}

/**
 * Runs a program, without a shell.
 *
 * @returns Whether it ended well.
 * @throws {BuildError} If there is no such program.
 */
export async function run(
  [program, ...args]: Command,
  options: RunOptions,
): Promise<boolean> {
  const io = { stdout: "null", stderr: "inherit" } as const;
  try {
    const command = new Deno.Command(program, { args, ...options, ...io });
    return (await command.output()).success;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new BuildError(`There is no program "${program}" here: install it and run again`);
  }
}

/** Makes a folder inside `parent` that is gone when its scope ends. */
export async function workFolder(parent: string): Promise<AsyncDisposable & { path: string }> {
  await Deno.mkdir(parent, { recursive: true });
  const path = await Deno.makeTempDir({ dir: parent, prefix: "work-" });
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** Returns the SHA-256 of `data` in hexadecimal. */
export function sha256(data: Uint8Array): string {
  return createHash("sha256").update(data).digest("hex");
}

/** Tells whoever runs the build. */
export function say(line: string): void {
  // deno-lint-ignore no-console
  console.log(line);
}
