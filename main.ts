/**
 * The entry point: argv, signals, and the only exit.
 *
 * @module
 */

import process from "node:process";
import { basename } from "@std/path";
import { run } from "./src/app.ts";
import { processIo } from "./src/cli/io.ts";
import { STOP_SIGNALS, StoppedError, type StopSignal } from "./src/errors.ts";

if (import.meta.main) {
  const stop = new AbortController();
  for (const signal of Object.keys(STOP_SIGNALS) as StopSignal[]) {
    // A second signal changes nothing: undoing what was begun is bounded by its own time-outs.
    Deno.addSignalListener(signal, () => stop.abort(new StoppedError(signal)));
  }
  // Deno.execPath() follows symbolic links; argv[0] is the name that was typed.
  const calledAs = basename(process.argv0);
  Deno.exit(await run(Deno.args, processIo(), stop.signal, calledAs));
}
