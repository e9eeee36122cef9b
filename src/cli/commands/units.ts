import { dirname, join, resolve } from "@std/path";
import { createFile } from "../../fs/create.ts";
import { exists } from "../../fs/durable.ts";
import { makeFolders } from "../../fs/files.ts";
import { UsageError } from "../../errors.ts";
import { jsonLine } from "../output/report.ts";
import { UNITS, unitsText } from "../systemd.ts";
import type { CommandContext } from "./context.ts";
import { print } from "./print.ts";

/** systemd warns of units that anybody but their owner can change, or not everybody can read. */
const FOR_ALL_TO_READ = 0o644;

/** `qmpbackup units`. */
export async function units(context: CommandContext): Promise<number> {
  const { values, io, deadline } = context;
  if (values.root === undefined) return await print(unitsText)(context);
  const root = resolve(values.root);
  const files = UNITS.map(({ path, text }) => ({ path: join(root, path), text }));
  // Before anything is written: somebody may have changed a unit.
  for (const { path } of files) {
    if (await exists(deadline, path)) {
      throw new UsageError(
        `"${path}" exists already, and is not overwritten: compare it with what "qmpbackup units" prints`,
      );
    }
  }
  for (const { path, text } of files) {
    await makeFolders(deadline, dirname(path));
    await createFile(deadline, path, FOR_ALL_TO_READ, text);
    if (!values.json) io.stdout(`${path}\n`);
  }
  if (values.json) io.stdout(jsonLine("summary", { files: files.map(({ path }) => path) }));
  return 0;
}
