/**
 * The guard: a second process of ours that outlives the first. While a run holds the guest (stopped, or
 * its file systems frozen), the guard waits on a pipe. A run that has let the guest go tells it; a run
 * that is killed closes the pipe without a word, and the guard lets the guest go on.
 *
 * @module
 */

import { endsWithin } from "../fs/deadline.ts";
import { Failure, messageOf } from "../errors.ts";
import { spawn } from "../process/spawn.ts";
import { type Address, formatAddress } from "../wire/address.ts";

/** What the guard says when it is up, and what it is told when all is well. */
export const GUARD_READY = "ready";
export const GUARD_DISMISSED = "done";

/** Starting a program may take a second on a busy machine. */
const START_TIMEOUT_MS = 15_000;

/** It ends at once when it is told to; one that does not is left to itself. */
const END_TIMEOUT_MS = 15_000;

/** Disposed without `release()`, it acts. */
export interface Guard extends AsyncDisposable {
  /** The guest goes on: the guard is needed no more. */
  release(): Promise<void>;
}

export interface GuardOptions {
  /** The run that it watches: if another one has taken the VM over by then, it does nothing. */
  run: string;
  socket: Address;
  agentSocket: Address | null;
}

/**
 * Starts a guard, and waits until it is up.
 *
 * @throws {Failure} If it can't be started.
 */
export async function startGuard({ run, socket, agentSocket }: GuardOptions): Promise<Guard> {
  const [program, ...args] = ownCommand();
  const agent = agentSocket ? ["--agent-socket", formatAddress(agentSocket)] : [];
  const child = startProgram(program, [
    ...args,
    ...["guard", "--run", run, "--socket", formatAddress(socket)],
    ...agent,
  ]);
  const pipe = child.stdin.getWriter();
  const close = async () => {
    // It outlives us if it has to.
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
      await pipe.write(new TextEncoder().encode(GUARD_DISMISSED)).catch(() => {});
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
      // In a group of its own: a key of the terminal (Ctrl-\\) ends all of a group at once.
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
    if (new TextDecoder().decode(value).startsWith(GUARD_READY)) return;
    throw new Failure("It ended, or did not get ready in time");
  } finally {
    clearTimeout(late);
    await reader.cancel();
  }
}
