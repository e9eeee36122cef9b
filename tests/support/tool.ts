/**
 * Runs the tool under test: in this process, or as a child that can be killed.
 *
 * @module
 */

import { fromFileUrl } from "@std/path";
import { run } from "../../src/app.ts";

/** What a run of the tool said and how it ended. */
export interface ToolResult {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs the tool in this process, one run at a time: the log is the process's own. */
export async function tool(args: string[], signal?: AbortSignal): Promise<ToolResult> {
  let stdout = "", stderr = "";
  const code = await run(args, {
    stdout: (text) => void (stdout += text),
    stderr: (text) => void (stderr += text),
    isTerminal: false,
    color: false,
    columns: () => 80,
    rows: () => 24,
    width: () => Infinity,
  }, signal ?? new AbortController().signal);
  return { code, stdout, stderr };
}

/** As `tool()`, for runs that must succeed. */
export async function succeed(args: string[], signal?: AbortSignal): Promise<ToolResult> {
  const result = await tool(args, signal);
  if (result.code !== 0) {
    throw new Error(
      `qmpbackup ${args.join(" ")} ended with ${result.code}:\n${result.stderr}${result.stdout}`,
    );
  }
  return result;
}

const MAIN = fromFileUrl(new URL("../../main.ts", import.meta.url));

/** The tool as a program with its arguments. */
export function toolCommand(args: string[]): string[] {
  return [Deno.execPath(), "run", "-A", MAIN, ...args];
}

/**
 * Starts the tool as a process of its own.
 *
 * @param under A program that starts it, with that program's arguments.
 * @param env On top of our environment.
 */
export function startTool(
  args: string[],
  { under = [], env = {} }: { under?: string[]; env?: Record<string, string> } = {},
): Deno.ChildProcess {
  const [program = "", ...rest] = [...under, ...toolCommand(args)];
  return new Deno.Command(program, {
    args: rest,
    env,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
}

/** No run of a test takes so long: one that does is held by something, which is to be found. */
const ENDED_TIMEOUT_MS = 300_000;

/** Waits for a child of `startTool()`; one that never ends is killed, and an error. */
export async function ended(child: Deno.ChildProcess): Promise<ToolResult> {
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    child.kill("SIGKILL");
  }, ENDED_TIMEOUT_MS);
  const { code, stdout, stderr } = await child.output().finally(() => clearTimeout(timer));
  const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  const result = { code, stdout: decode(stdout), stderr: decode(stderr) };
  if (isLate) {
    throw new Error(`It did not end in ${ENDED_TIMEOUT_MS / 1000} s:\n${result.stderr}`);
  }
  return result;
}
