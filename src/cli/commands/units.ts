import { dirname, join, resolve } from "@std/path";
import { bounded } from "../../fs/deadline.ts";
import { exists } from "../../fs/durable.ts";
import { UsageError } from "../../errors.ts";
import { jsonLine } from "../output/report.ts";
import { UNITS, unitsText } from "../systemd.ts";
import type { CommandContext } from "./context.ts";
import { print } from "./print.ts";

/** `qmpbackup units`. */
export async function units(context: CommandContext): Promise<number> {
  const { values, io } = context;
  if (values.root === undefined) return await print(unitsText)(context);
  const root = resolve(values.root);
  const files = UNITS.map(({ path, text }) => ({ path: join(root, path), text }));
  // Before anything is written: somebody may have changed a unit.
  for (const { path } of files) {
    if (await exists(path)) {
      throw new UsageError(
        `"${path}" exists already, and is not overwritten: compare it with what "qmpbackup units" prints`,
      );
    }
  }
  for (const { path, text } of files) {
    await bounded(path, () => Deno.mkdir(dirname(path), { recursive: true }));
    await bounded(path, () => Deno.writeTextFile(path, text, { createNew: true }));
    if (!values.json) io.stdout(`${path}\n`);
  }
  if (values.json) io.stdout(jsonLine("summary", { files: files.map(({ path }) => path) }));
  return 0;
}
