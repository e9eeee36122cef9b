/**
 * QEMU's own process: its command line.
 *
 * Deno lets only programs with all rights read `/proc`. So `cat` reads it: see `outputOf()`.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { messageOf } from "../errors.ts";
import { outputOf } from "../process/output.ts";
import { commandLineWithoutSecrets, isOfVm, splitCommandLine } from "./command_line.ts";

const log = getLogger(["qmpbackup", "machine"]);

export interface ProcessFacts {
  commandLine: string[] | null;
  workingFolder: string | null;
}

/**
 * Reads the command line of QEMU, without secrets. Where it may not be read, or is another process's, there is
 * none: that is not an error.
 *
 * @param threadId One of QEMU's threads, whose number QEMU tells.
 */
export async function readProcess(
  threadId: number | null,
  vm: { name: string; uuid: string; socket: string },
): Promise<ProcessFacts> {
  const none = { commandLine: null, workingFolder: null };
  if (threadId === null) return none;
  try {
    await refusePrompt();
    const [line, folder] = await Promise.all([
      outputOf("cat", [`/proc/${threadId}/cmdline`]),
      outputOf("readlink", [`/proc/${threadId}/cwd`]),
    ]);
    const argv = splitCommandLine(line ?? "");
    if (argv === null || !isOfVm(argv, vm)) return none;
    return {
      commandLine: commandLineWithoutSecrets(argv),
      workingFolder: folder?.replace(/\n$/, "") || null,
    };
  } catch (error) {
    log.debug("QEMU's command line can't be read: {words}", { words: messageOf(error) });
    return none;
  }
}

/** Where the right is missing, Deno may ask the user for it: this is not worth a question. */
async function refusePrompt(): Promise<void> {
  const { state } = await Deno.permissions.query({ name: "run", command: "timeout" });
  if (state !== "granted") throw new Deno.errors.NotCapable("--allow-run=timeout is not given");
}
