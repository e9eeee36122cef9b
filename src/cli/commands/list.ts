import { resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { messageOf, UsageError } from "../../errors.ts";
import { exists } from "../../fs/durable.ts";
import { freeBytes } from "../../fs/files.ts";
import { readAllBelow, readBackups, runsOf, type VmBackups } from "../../overview/find.ts";
import { healthOf, lastCompleteRun, type VmHealth, worstFirst } from "../../overview/health.ts";
import { type ImageStates, imageStates, statesOfRun } from "../../overview/image_states.ts";
import { withDamages } from "../../overview/damages.ts";
import type { Target } from "../../repo/repository.ts";
import { nightsOf } from "../../overview/nights.ts";
import { chainTotals, type Outlook, outlookOf } from "../../overview/totals.ts";
import { NO_MARK, readMarks, type RunMark } from "../../repo/run_mark.ts";
import { parseAge } from "../args/age.ts";
import type { Values } from "../args/parse.ts";
import { backupsText } from "../output/backups.ts";
import { fleetText, isCritical, pluginResult } from "../output/fleet.ts";
import { healthJson, imagesText, jsonLine, runJson } from "../output/report.ts";
import {
  type Verifications,
  verificationsJson,
  verificationsText,
} from "../output/verify_report.ts";
import { readResults } from "../../verify/results.ts";
import type { CommandContext } from "./context.ts";

/** `qmpbackup list`, and `info --show backups`. */
export async function list(context: CommandContext): Promise<number> {
  const { values, io, deadline } = context;
  if (!values.nagios) return await listBackups(context);
  const given = (["json", "all", "last", "disk"] as const).find((flag) => values[flag]);
  if (given !== undefined) throw new UsageError(`--nagios and --${given} don't go together`);
  const maxAgeMs = maxAgeOf(values) ?? parseAge("max-age", DEFAULT_PLUGIN_AGE);
  const found = await findBackups(deadline, values);
  const { line, exitCode } = pluginResult(await judge(deadline, found.all, maxAgeMs), maxAgeMs);
  io.stdout(line);
  return exitCode;
}

/** A night, and some time for the run. */
const DEFAULT_PLUGIN_AGE = "26h";

async function listBackups({ values, io, deadline }: CommandContext): Promise<number> {
  const maxAgeMs = maxAgeOf(values);
  const { one, all } = await findBackups(deadline, values);
  const healths = one === null
    ? await judge(deadline, all, maxAgeMs)
    : [await showOne(one, maxAgeMs)];
  if (one === null) showAll(healths);
  return maxAgeMs !== null && healths.some(isCritical) ? 1 : 0;

  function showAll(healths: VmHealth[]) {
    for (const flag of ["all", "last", "disk"] as const) {
      if (values[flag] === undefined) continue;
      throw new UsageError(`--${flag} is for the backups of one VM: name its directory with --dir`);
    }
    if (!values.json) return io.stdout(fleetText(healths, io.width()));
    for (const health of healths) io.stdout(jsonLine("vm", healthJson(health)));
    io.stdout(jsonLine("summary", { vms: healths.length, ok: !healths.some(isCritical) }));
  }

  async function showOne(backups: VmBackups, maxAgeMs: number | null): Promise<VmHealth> {
    const states = await allStates(deadline, backups);
    const needed = await neededStates(deadline, backups);
    const health = healthOf(backups, needed, { nowMs: Date.now(), maxAgeMs });
    const { disk = null } = values;
    const runs = runsOf(backups);
    refuseUnknownDisk(disk, backups);
    const marks = await allMarks(deadline, backups);
    const nights = nightsOf(runs, states, disk, marks);
    const last = lastOf(values);
    if (values.all && !values.json) {
      const shown = nights.slice(last === null ? 0 : -last).map(({ run }) => run);
      const chainId = backups.targets.length === 1 ? backups.targets[0]?.chainId : null;
      io.stdout(imagesText({ chainId: chainId ?? null, runs: shown }, states, io.width()));
      return health;
    }
    const chains = chainTotals(backups.targets, states)
      .filter((chain) => disk === null || chain.disk === disk);
    const outlook = await outlookFor(deadline, backups.path, nights);
    const view = { health, nights, last, chains, outlook };
    const verifications = await verificationsOf(deadline, backups);
    if (!values.json) {
      io.stdout(backupsText(view, io.width()) + verificationsText(verifications));
      return health;
    }
    const shown = nights.slice(last === null ? 0 : -last);
    for (const { run, gapMs, notes } of shown) {
      const { isProtected, note } = marks.get(run.id) ?? NO_MARK;
      const said = { protected: isProtected, note };
      io.stdout(jsonLine("run", { ...runJson(run, states), gapMs, notes, ...said }));
    }
    io.stdout(jsonLine("summary", {
      chain: backups.targets.at(-1)?.chainId ?? null,
      runs: shown.length,
      ...healthJson(health),
      chains: chains.map(({ sinceMs, untilMs, ...chain }) => ({
        ...chain,
        since: new Date(sinceMs).toISOString(),
        until: new Date(untilMs).toISOString(),
      })),
      freeBytes: outlook?.freeBytes ?? null,
      nightBytes: outlook?.nightBytes ?? null,
      nightsLeft: outlook?.nights ?? null,
      ...verificationsJson(verifications),
    }));
    return health;
  }
}

/** What was found of each target: each month has its own. */
async function verificationsOf(
  deadline: Deadline,
  { targets }: VmBackups,
): Promise<Verifications[]> {
  return await Promise.all(
    targets.map(async ({ path }) => ({ target: path, results: await readResults(deadline, path) })),
  );
}

function lastOf({ last }: Values): number | null {
  if (last === 0) throw new UsageError("--last must be 1 or more");
  return last ?? null;
}

function maxAgeOf({ "max-age": maxAge }: Values): number | null {
  return maxAge === undefined ? null : parseAge("max-age", maxAge);
}

/** The backups of one VM, or of all below a folder. */
async function findBackups(
  deadline: Deadline,
  { dir }: Values,
): Promise<{ one: VmBackups; all: VmBackups[] } | { one: null; all: VmBackups[] }> {
  if (dir === undefined) throw new UsageError("--show backups needs --dir");
  const path = resolve(dir);
  const one = await readBackups(deadline, path);
  if (one !== null) return { one, all: [one] };
  if (!await exists(deadline, path)) throw new UsageError(`"${path}" does not exist`);
  const all = await readAllBelow(deadline, path);
  if (all.length === 0) throw new UsageError(`"${path}" holds no records of backups`);
  return { one: null, all };
}

/** The worst first. */
async function judge(
  deadline: Deadline,
  all: VmBackups[],
  maxAgeMs: number | null,
): Promise<VmHealth[]> {
  const nowMs = Date.now();
  const healths: VmHealth[] = [];
  for (const backups of all) {
    try {
      healths.push(healthOf(backups, await neededStates(deadline, backups), { nowMs, maxAgeMs }));
    } catch (error) {
      const broken = { ...backups, error: messageOf(error) };
      healths.push(healthOf(broken, new Map(), { nowMs, maxAgeMs }));
    }
  }
  return worstFirst(healths);
}

async function allStates(deadline: Deadline, { targets }: VmBackups): Promise<ImageStates> {
  const states = await Promise.all(
    targets.map(async (target) =>
      await damagesIn(deadline, target, await imageStates(deadline, target))
    ),
  );
  return new Map(states.flatMap((one) => [...one]));
}

/** What users said of runs, by the runs' ids. */
async function allMarks(
  deadline: Deadline,
  { targets }: VmBackups,
): Promise<Map<string, RunMark>> {
  const marks = await Promise.all(targets.map(({ path }) => readMarks(deadline, path)));
  return new Map(marks.flatMap((one) => [...one]));
}

/** Of the images that the newest complete run is restored from. */
async function neededStates(deadline: Deadline, backups: VmBackups): Promise<ImageStates> {
  const run = lastCompleteRun(backups);
  const target = run && backups.targets.find(({ runs }) => runs.includes(run));
  if (!run || !target) return new Map();
  return await damagesIn(deadline, target, await statesOfRun(deadline, target, run));
}

async function damagesIn(deadline: Deadline, target: Target, states: ImageStates) {
  return withDamages(states, target, await readResults(deadline, target.path));
}

function refuseUnknownDisk(disk: string | null, backups: VmBackups) {
  if (disk === null) return;
  const known = new Set(runsOf(backups).flatMap(({ disks }) => disks.map(({ name }) => name)));
  if (known.has(disk)) return;
  const names = [...known].map((name) => `"${name}"`).join(", ");
  throw new UsageError(`No run has the disk "${disk}" (--disk): there are ${names || "none"}`);
}

async function outlookFor(
  deadline: Deadline,
  path: string,
  nights: Parameters<typeof outlookOf>[0],
): Promise<Outlook | null> {
  try {
    return outlookOf(nights, await freeBytes(deadline, path));
  } catch (error) {
    // Started from source without --allow-sys=statfs.
    if (error instanceof Deno.errors.NotCapable) return null;
    throw error;
  }
}
