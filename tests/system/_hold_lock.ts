/**
 * A process of its own that takes a lock: says "held", and holds it until it is killed or its input
 * ends; or says why it could not.
 */

import { messageOf } from "../../src/errors.ts";
import { takeLock } from "../../src/fs/flock.ts";
import { deadline } from "../support/deadline.ts";

function say(line: string) {
  Deno.stdout.writeSync(new TextEncoder().encode(line + "\n"));
}

if (import.meta.main) {
  const [path = "", run = ""] = Deno.args;
  const holder = { run, host: "here", pid: Deno.pid, since: "2026-11-22T23:00:00Z" };
  try {
    using _ = await takeLock(deadline, path, holder);
    say("held");
    await Deno.stdin.read(new Uint8Array(1));
  } catch (error) {
    say(`${error instanceof Error ? error.name : ""}: ${messageOf(error)}`);
  }
  // Where the runtime still waits for the lock (Deno 2.4) nothing else ends the process.
  Deno.exit();
}
