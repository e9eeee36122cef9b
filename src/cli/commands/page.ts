import { resolve } from "@std/path";
import { messageOf, UsageError } from "../../errors.ts";
import { writeDurably } from "../../fs/durable.ts";
import { runsOf, type VmBackups } from "../../overview/find.ts";
import { healthOf, worstFirst } from "../../overview/health.ts";
import { nightsOf } from "../../overview/nights.ts";
import { chainTotals, depthsOf } from "../../overview/totals.ts";
import { isCritical } from "../output/fleet.ts";
import { pageText, type VmPage } from "../output/page/page.ts";
import { jsonLine } from "../output/report.ts";
import { printable } from "../output/text.ts";
import { verificationsText } from "../output/verify_report.ts";
import { VERSION } from "../version.ts";
import type { CommandContext } from "./context.ts";
import {
  allMarks,
  allStates,
  findBackups,
  maxAgeOf,
  neededStates,
  outlookFor,
  verificationsOf,
} from "./look.ts";

/** For everybody to read: a web server may show it. It is made by root, say. */
const PAGE_MODE = 0o644;

/** `qmpbackup info --html FILE`. */
export async function page(context: CommandContext, file: string): Promise<number> {
  const { values, io, deadline } = context;
  for (const flag of ["all", "last", "disk"] as const) {
    if (values[flag] !== undefined) {
      throw new UsageError(`--html and --${flag} don't go together: the page shows all`);
    }
  }
  const maxAgeMs = maxAgeOf(values);
  const now = new Date();
  const { all } = await findBackups(deadline, values);
  const found: VmPage[] = [];
  for (const backups of all) found.push(await lookAt(context, backups, now.getTime(), maxAgeMs));
  const vms = worstFirst(found.map(({ health }) => health))
    .flatMap((health) => found.filter((one) => one.health === health));
  const path = resolve(file);
  const dir = resolve(values.dir ?? ".");
  const text = await pageText({ dir, now, version: VERSION, vms });
  await writeDurably(deadline, path, text, { mode: PAGE_MODE });
  io.stdout(
    values.json
      ? jsonLine("summary", { file: path, vms: vms.length })
      : `Wrote ${printable(path)}\n`,
  );
  return maxAgeMs !== null && vms.some(({ health }) => isCritical(health)) ? 1 : 0;
}

async function lookAt(
  { deadline }: CommandContext,
  backups: VmBackups,
  nowMs: number,
  maxAgeMs: number | null,
): Promise<VmPage> {
  try {
    const states = await allStates(deadline, backups);
    const nights = nightsOf(runsOf(backups), states, null, await allMarks(deadline, backups));
    const depths = depthsOf(backups.targets);
    const needed = neededStates(backups, states);
    return {
      health: healthOf(backups, needed, { nowMs, maxAgeMs }),
      nights,
      depthOf: ({ run }) => depths.get(run) ?? 0,
      chains: chainTotals(backups.targets, states),
      outlook: await outlookFor(deadline, backups.path, nights),
      verified: verificationsText(await verificationsOf(deadline, backups)),
    };
  } catch (error) {
    const broken = { ...backups, error: messageOf(error) };
    const health = healthOf(broken, new Map(), { nowMs, maxAgeMs });
    return { health, nights: [], depthOf: () => 0, chains: [], outlook: null, verified: "" };
  }
}
