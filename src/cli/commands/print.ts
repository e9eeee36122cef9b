import type { CommandContext } from "./context.ts";

/** A subcommand that prints a text, such as `qmpbackup manual`. */
export function print(text: () => string): (context: CommandContext) => Promise<number> {
  return ({ io }) => {
    io.stdout(text());
    return Promise.resolve(0);
  };
}
