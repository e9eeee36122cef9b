/**
 * Runs other people's programs.
 *
 * @module
 */

import type { ToolResult } from "./tool.ts";

export interface RunOptions {
  env?: Record<string, string>;
  cwd?: string;
  /** What the program reads. */
  stdin?: string;
}

/** Runs a program to its end. */
export async function run(
  program: string,
  args: string[],
  { stdin, ...options }: RunOptions = {},
): Promise<ToolResult> {
  const child = new Deno.Command(program, {
    args,
    ...options,
    stdin: stdin === undefined ? "null" : "piped",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const write = async () => {
    if (stdin === undefined) return;
    const writer = child.stdin.getWriter();
    await writer.write(new TextEncoder().encode(stdin));
    await writer.close();
  };
  const [{ code, stdout, stderr }] = await Promise.all([child.output(), write()]);
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: decode(stdout), stderr: decode(stderr) };
}

/** As `run()`, for programs that must end well; returns what they print. */
export async function mustRun(
  program: string,
  args: string[],
  options: RunOptions = {},
): Promise<string> {
  const { code, stdout, stderr } = await run(program, args, options);
  if (code !== 0) {
    throw new Error(`${program} ${args.join(" ")} ended with ${code}:\n${stderr}${stdout}`);
  }
  return stdout;
}
