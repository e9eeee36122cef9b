import { Deadline } from "../../fs/deadline.ts";
import type { Io } from "../output/io.ts";
import type { Values } from "../args/parse.ts";
import type { Progress } from "../output/progress.ts";
import { timeoutMsOf } from "./qmp_target.ts";

/** What every subcommand gets. Each returns its exit code. */
export interface CommandContext {
  values: Values;
  /** The words after `help`. */
  topic: string;
  io: Io;
  progress: Progress;
  /** Of all that the command asks file systems for. */
  deadline: Deadline;
  signal: AbortSignal;
}

/** How long file systems may take to answer a command. Only `backup` lets a user say it. */
export function deadlineOf(values: Values): Deadline {
  return new Deadline(timeoutMsOf("stall-timeout", values["stall-timeout"] ?? 300));
}
