import type { Io } from "../output/io.ts";
import type { Values } from "../args/parse.ts";
import type { Progress } from "../output/progress.ts";

/** What every subcommand gets. Each returns its exit code. */
export interface CommandContext {
  values: Values;
  /** The words after `help`. */
  topic: string;
  io: Io;
  progress: Progress;
  signal: AbortSignal;
}
