import { jsonLine } from "../output/report.ts";
import type { CommandContext } from "./context.ts";

/** A subcommand that prints a text, such as `qmpbackup manual`. */
export function print(
  textOf: (context: CommandContext) => string,
): (context: CommandContext) => Promise<number> {
  return (context) => {
    const { values, io } = context;
    const text = textOf(context);
    io.stdout(values.json ? jsonLine("summary", { text }) : text);
    return Promise.resolve(0);
  };
}
