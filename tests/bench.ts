/**
 * How fast we are, against others in the same run: `deno task bench`.
 *
 * ```
 * deno task bench [--quick] [--rounds N] [--only full,thin] [--dir DIR] [--write]
 * ```
 *
 * Prints a table; with `--write` also into the topic `performance`. Uses the QEMU that is first in PATH. No test
 * depends on any of it.
 *
 * @module
 */

import { fromFileUrl, join } from "@std/path";
import { parseArgs } from "@std/cli/parse-args";
import * as v from "valibot";
import { describeMachine } from "./bench/machine.ts";
import { svgOf } from "./bench/plot.ts";
import type { Measured } from "./bench/row.ts";
import { ROWS } from "./bench/rows/all.ts";
import { tableOf } from "./bench/table.ts";
import { writeTopic } from "./bench/topic.ts";
import { ensureQemu } from "./support/install_qemu.ts";
import { runMain } from "./support/main.ts";

const BUILD = fromFileUrl(new URL("../.build/bench", import.meta.url));

const Asked = v.object({
  quick: v.boolean(),
  write: v.boolean(),
  only: v.optional(v.string()),
  rounds: v.optional(v.pipe(v.string(), v.toNumber(), v.integer(), v.minValue(1))),
  dir: v.optional(v.string(), BUILD),
});

async function bench(stack: AsyncDisposableStack): Promise<void> {
  const asked = v.parse(
    Asked,
    parseArgs(Deno.args, { boolean: ["quick", "write"], string: ["only", "rounds", "dir"] }),
  );
  const { quick, write, dir: where, rounds = quick ? 1 : 5 } = asked;
  const only = asked.only?.split(",");
  await Deno.mkdir(where, { recursive: true });
  const all: Measured[] = [];
  for (const row of ROWS) {
    if (only && !only.includes(row.name)) continue;
    await using ofRow = new AsyncDisposableStack();
    stack.defer(() => ofRow.disposeAsync());
    // Short: the names of sockets have an end.
    const dir = await Deno.makeTempDir({ dir: where, prefix: "b" });
    ofRow.defer(() => Deno.remove(dir, { recursive: true }));
    console.error(`${row.name} …`);
    all.push(await row.measure({ dir, quick, rounds, stack: ofRow }));
  }
  const machine = await describeMachine(where, { rounds, quick });
  const table = tableOf(all.flatMap(({ lines }) => lines));
  console.log(`${machine}\n\n${table}`);
  const plots = all.flatMap(({ plot }) => plot ?? []);
  for (const plot of plots) {
    await Deno.writeTextFile(join(where, `${plot.name}.svg`), svgOf(plot));
  }
  if (plots.length > 0) console.log(`\nPlots: ${where}/*.svg`);
  if (write) await writeTopic(machine, table, plots);
}

if (import.meta.main) {
  await runMain(async (made) => {
    await ensureQemu();
    await bench(made);
  });
}
