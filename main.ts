/**
 * The entry point: argv, signals, and the only exit.
 *
 * @module
 */

import process from "node:process";
import { basename } from "@std/path";
import { run } from "./src/app.ts";
import { processIo } from "./src/cli/output/io.ts";
import { STOP_SIGNALS, StoppedError, type StopSignal } from "./src/errors.ts";
import { isUnixSocketNetwork } from "./src/wire/address.ts";

/** The subcommands that look whether what was attached still lives. */
const SEES_ATTACHED = "attach|files|test|commit|rebase|snapshotrebase|cleanup";

/** Gives up the right to the network, unless the command line names a socket that needs it. */
export function giveUpNetwork(args: readonly string[]): void {
  const needs = isUnixSocketNetwork
    ? new RegExp(`^--(agent-)?socket\\b|(tcp|vsock):|^(${SEES_ATTACHED})$`)
    : /(tcp|vsock):/;
  if (!args.some((arg) => needs.test(arg))) Deno.permissions.revokeSync({ name: "net" });
}

if (import.meta.main) {
  giveUpNetwork(Deno.args);
  const stop = new AbortController();
  for (const signal of Object.keys(STOP_SIGNALS) as StopSignal[]) {
    // A second signal changes nothing: undoing what was begun is bounded by its own time-outs.
    Deno.addSignalListener(signal, () => stop.abort(new StoppedError(signal)));
  }
  // Deno.execPath() follows symbolic links; argv[0] is the name that was typed.
  const calledAs = basename(process.argv0);
  Deno.exit(await run(Deno.args, processIo(), stop.signal, calledAs));
}
