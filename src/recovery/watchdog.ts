/**
 * The watchdog: a second process of ours that outlives the first. While the guest is stopped or frozen by a run, the
 * watchdog waits on a pipe. A run that has let the guest go on says so through the pipe. If the run is killed, the
 * pipe closes without a word, and the watchdog lets the guest go on (`cli/commands/watchdog.ts`).
 *
 * @module
 */

import { endsWithin } from "../fs/deadline.ts";
import { Failure, messageOf } from "../errors.ts";
import { spawn } from "../process/spawn.ts";
import { type Address, formatAddress } from "../wire/address.ts";

/** What the watchdog says when it is up, and what it is told when all is well. */
export const WATCHDOG_READY = "ready";
export const WATCHDOG_DISMISSED = "done";

/** On a busy machine a program takes a second to start. */
const START_TIMEOUT_MS = 15_000;

/** It ends at once when it is told to. If it does not, we don't wait longer. */
const END_TIMEOUT_MS = 15_000;

/** Disposed without `release()`, it acts. */
export interface Watchdog extends AsyncDisposable {
  /** The guest goes on: the watchdog is not needed any more. */
  release(): Promise<void>;
}

export interface WatchdogOptions {
  /** The run that it watches. If another run has locked the VM by then, it does nothing. */
  run: string;
  socket: Address;
  agentSocket: Address | null;
}

/**
 * Starts a watchdog, and waits until it is up.
 *
 * @throws {Failure} If it can't be started.
 */
export async function startWatchdog(
  { run, socket, agentSocket }: WatchdogOptions,
): Promise<Watchdog> {
  const [program, ...args] = ownCommand();
  const agent = agentSocket ? ["--agent-socket", formatAddress(agentSocket)] : [];
  const child = startProgram(program, [
    ...args,
    ...["guard", "--run", run, "--socket", formatAddress(socket)],
    ...agent,
  ]);
  const pipe = child.stdin.getWriter();
  const close = async () => {
    // It may run longer than we do.
    child.unref();
    await pipe.close().catch(() => {});
  };
  try {
    await untilReady(child);
  } catch (error) {
    await close();
    child.kill("SIGKILL");
    await child.status;
    throw error;
  }
  let released = false;
  return {
    async release() {
      released = true;
      await pipe.write(new TextEncoder().encode(WATCHDOG_DISMISSED)).catch(() => {});
    },
    async [Symbol.asyncDispose]() {
      await close();
      if (released) await endsWithin(child.status, END_TIMEOUT_MS);
    },
  };
}

/** Ourselves: the binary, or the script and the Deno that runs it. */
function ownCommand(): [string, ...string[]] {
  // A binary can be given the right to run itself, wherever it lies, by this name alone.
  if (Deno.build.standalone) return ["/proc/self/exe"];
  return [
    ...[Deno.execPath(), "run", "--quiet", "--no-prompt"] as const,
    ...["--allow-read", "--allow-write", "--allow-net"],
    new URL("../../main.ts", import.meta.url).href,
  ];
}

function startProgram(program: string, args: string[]): Deno.ChildProcess {
  try {
    return spawn(program, args, {
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
      // In a group of its own: a key of the terminal (Ctrl-\\) ends all processes of a group.
      detached: true,
    });
  } catch (error) {
    throw new Failure(`"${program}" can't be run: ${messageOf(error)}`, { cause: error });
  }
}

async function untilReady({ stdout }: Deno.ChildProcess): Promise<void> {
  const late = setTimeout(() => reader.cancel().catch(() => {}), START_TIMEOUT_MS);
  const reader = stdout.getReader();
  try {
    const { value } = await reader.read();
    if (new TextDecoder().decode(value).startsWith(WATCHDOG_READY)) return;
    throw new Failure("It ended, or did not get ready in time");
  } finally {
    clearTimeout(late);
    await reader.cancel();
  }
}
