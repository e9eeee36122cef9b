import { jsonLine } from "../report.ts";
import type { CommandContext } from "./context.ts";

/** A subcommand that prints a text, such as `qmpbackup manual`. */
export function print(text: () => string): (context: CommandContext) => Promise<number> {
  return ({ values, io }) => {
    io.stdout(values.json ? jsonLine("summary", { text: text() }) : text());
    return Promise.resolve(0);
  };
}
