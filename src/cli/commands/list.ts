import { UsageError } from "../../errors.ts";
import type { Deadline } from "../../fs/deadline.ts";
import { runsOf, type VmBackups } from "../../overview/find.ts";
import { healthOf, type VmHealth } from "../../overview/health.ts";
import { nightsOf } from "../../overview/nights.ts";
import { type ChainTotal, chainTotals } from "../../overview/totals.ts";
import { NO_MARK } from "../../repo/run_mark.ts";
import { parseAge } from "../args/age.ts";
import type { Values } from "../args/parse.ts";
import { backupsText } from "../output/backups.ts";
import { fleetText, isCritical, pluginResult } from "../output/fleet.ts";
import { type BootResult, readBootResults } from "../../boot/result.ts";
import { lastBootText } from "../output/booted.ts";
import { healthJson, imagesText, jsonLine, runJson } from "../output/report.ts";
import { verificationsJson, verificationsText } from "../output/verify_report.ts";
import type { CommandContext } from "./context.ts";
import {
  allMarks,
  allStates,
  findBackups,
  judge,
  maxAgeOf,
  neededStates,
  outlookFor,
  verificationsOf,
} from "./look.ts";
import { page } from "./page.ts";

/** `qmpbackup list`, and `info --show backups`. */
export async function list(context: CommandContext): Promise<number> {
  const { values, io, deadline } = context;
  if (!values.nagios) {
    return values.html === undefined
      ? await listBackups(context)
      : await page(context, values.html);
  }
  const given = (["json", "all", "last", "disk", "html"] as const).find((flag) => values[flag]);
  if (given !== undefined) throw new UsageError(`--nagios and --${given} don't go together`);
  const maxAgeMs = maxAgeOf(values) ?? parseAge("max-age", DEFAULT_PLUGIN_AGE);
  const found = await findBackups(deadline, values);
  const { line, exitCode } = pluginResult(await judge(deadline, found.all, maxAgeMs), maxAgeMs);
  io.stdout(line);
  return exitCode;
}

/** A night, and some time for the run. */
const DEFAULT_PLUGIN_AGE = "26h";

async function listBackups(context: CommandContext): Promise<number> {
  const { values, deadline } = context;
  const maxAgeMs = maxAgeOf(values);
  const { one, all } = await findBackups(deadline, values);
  const healths = one === null
    ? await judge(deadline, all, maxAgeMs)
    : [await showOne(context, one, maxAgeMs)];
  if (one === null) showAll(context, healths);
  return maxAgeMs !== null && healths.some(isCritical) ? 1 : 0;
}

function showAll({ values, io }: CommandContext, healths: VmHealth[]) {
  for (const flag of ["all", "last", "disk"] as const) {
    if (values[flag] === undefined) continue;
    throw new UsageError(`--${flag} is for the backups of one VM: name its directory with --dir`);
  }
  if (!values.json) return io.stdout(fleetText(healths, io.width()));
  for (const health of healths) io.stdout(jsonLine("vm", healthJson(health)));
  io.stdout(jsonLine("summary", { vms: healths.length, ok: !healths.some(isCritical) }));
}

/** Shows one VM's backups as the flags say, and returns its health. */
async function showOne(
  { values, io, deadline }: CommandContext,
  backups: VmBackups,
  maxAgeMs: number | null,
): Promise<VmHealth> {
  const states = await allStates(deadline, backups);
  const needed = neededStates(backups, states);
  const health = healthOf(backups, needed, { nowMs: Date.now(), maxAgeMs });
  const { disk = null } = values;
  refuseUnknownDisk(disk, backups);
  const marks = await allMarks(deadline, backups);
  const nights = nightsOf(runsOf(backups), states, disk, marks);
  const last = lastOf(values);
  const shown = nights.slice(last === null ? 0 : -last);
  if (values.all && !values.json) {
    const chainId = backups.targets.length === 1 ? backups.targets[0]?.chainId : null;
    const runs = shown.map(({ run }) => run);
    io.stdout(imagesText({ chainId: chainId ?? null, runs }, states, io.width()));
    return health;
  }
  const chains = chainTotals(backups.targets, states)
    .filter((chain) => disk === null || chain.disk === disk);
  const outlook = await outlookFor(deadline, backups.path, nights);
  const verifications = await verificationsOf(deadline, backups);
  const boots = await bootsOf(deadline, backups);
  if (!values.json) {
    const view = { health, nights, last, chains, outlook };
    io.stdout(
      backupsText(view, io.width()) + verificationsText(verifications) + lastBootText(boots),
    );
    return health;
  }
  for (const { run, gapMs, notes } of shown) {
    const { isProtected, note } = marks.get(run.id) ?? NO_MARK;
    const said = { protected: isProtected, note };
    io.stdout(jsonLine("run", { ...runJson(run, states), gapMs, notes, ...said }));
  }
  io.stdout(jsonLine("summary", {
    chain: backups.targets.at(-1)?.chainId ?? null,
    runs: shown.length,
    ...healthJson(health),
    chains: chains.map(chainJson),
    ...outlookJson(outlook),
    ...verificationsJson(verifications),
    booted: boots[0] ?? null,
  }));
  return health;
}

function chainJson({ sinceMs, untilMs, ...chain }: ChainTotal) {
  return {
    ...chain,
    since: new Date(sinceMs).toISOString(),
    until: new Date(untilMs).toISOString(),
  };
}

function outlookJson(outlook: Awaited<ReturnType<typeof outlookFor>>) {
  return {
    freeBytes: outlook?.freeBytes ?? null,
    nightBytes: outlook?.nightBytes ?? null,
    nightsLeft: outlook?.nights ?? null,
  };
}

/** What booting its points gave, the newest first. */
async function bootsOf(deadline: Deadline, { targets }: VmBackups): Promise<BootResult[]> {
  const all = await Promise.all(targets.map(({ path }) => readBootResults(deadline, path)));
  return all.flat().toSorted((a, b) => b.started.localeCompare(a.started));
}

function lastOf({ last }: Values): number | null {
  if (last === 0) throw new UsageError("--last must be 1 or more");
  return last ?? null;
}

function refuseUnknownDisk(disk: string | null, backups: VmBackups) {
  if (disk === null) return;
  const known = new Set(runsOf(backups).flatMap(({ disks }) => disks.map(({ name }) => name)));
  if (known.has(disk)) return;
  const names = [...known].map((name) => `"${name}"`).join(", ");
  throw new UsageError(`No run has the disk "${disk}" (--disk): there are ${names || "none"}`);
}
