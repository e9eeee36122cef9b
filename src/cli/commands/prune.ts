import { getLogger } from "@logtape/logtape";
import { join, resolve } from "@std/path";
import { Failure, UsageError } from "../../errors.ts";
import type { Deadline } from "../../fs/deadline.ts";
import { holderNow, takeLock } from "../../fs/flock.ts";
import { images, restorePoints } from "../../repo/chains.ts";
import { LOCK_FILE } from "../../repo/layout.ts";
import { readTargets } from "../../repo/months.ts";
import { readTarget, refuseLinks, refuseShared, type Target } from "../../repo/repository.ts";
import { NO_MARK, readMarks, writeMark } from "../../repo/run_mark.ts";
import { findInTarget } from "../../recovery/in_target.ts";
import { requireQemuImg } from "../../qemu_img/qemu_img.ts";
import { estimateWon } from "../../prune/estimate.ts";
import { carryOutPrune, planPrune, type PrunePlan } from "../../prune/prune.ts";
import { keepRules } from "../args/keep_rules.ts";
import { jsonLine } from "../output/report.ts";
import { prunePoints, pruneText } from "../output/prune_report.ts";
import { requireKeyOf } from "../../restore/encryption.ts";
import type { CommandContext } from "./context.ts";
import { keyFileOf } from "./key_file.ts";

const log = getLogger(["qmpbackup", "cleanup"]);

/** What `cleanup --prune` did. */
export interface Pruned {
  kept: number;
  removed: number;
  wonBytes: number;
  /** Images that could not be merged. */
  problems: number;
}

/** `qmpbackup cleanup --prune`. */
export async function prune({ values, io, deadline, signal }: CommandContext): Promise<Pruned> {
  const rules = keepRules(values);
  if (rules === null) {
    throw new UsageError(
      "--prune needs to know what to keep: give at least one of --keep-last, --keep-hourly, --keep-daily, " +
        "--keep-weekly, --keep-monthly, --keep-yearly and --keep-within",
    );
  }
  const dryRun = values["dry-run"] ?? false;
  const found = await targetsOf(deadline, values.target);
  const keyFile = await keyFileOf(deadline, values);
  await requireQemuImg();
  using locks = new DisposableStack();
  const targets = dryRun ? found : await lockAll(deadline, found, locks);
  await requireKeyOf(deadline, targets.flatMap(filesOf), keyFile, signal);
  if (!dryRun) { for (const target of targets) await sweep(deadline, target); }
  const plan = await planPrune(
    deadline,
    dryRun ? targets : await readAgain(deadline, targets),
    rules,
  );
  for (const warning of plan.warnings) log.warn("{warning}", { warning });
  const rateLimitBytesPerSecond = values["rate-limit"] ?? 0;
  const points = prunePoints(plan);
  const done = dryRun
    ? { wonBytes: await estimateWon(deadline, plan, { signal, keyFile }), problems: [] }
    : await carryOutPrune(plan, { deadline, rateLimitBytesPerSecond, keyFile, signal });
  for (const problem of done.problems) log.error("{problem}", { problem });
  if (values.json) { for (const point of points) io.stdout(jsonLine("point", point)); }
  else io.stdout(pruneText(points, done.wonBytes, dryRun));
  return {
    kept: countOf(plan, (reasons) => reasons.length > 0),
    removed: countOf(plan, (reasons) => reasons.length === 0),
    wonBytes: done.wonBytes,
    problems: done.problems.length,
  };
}

const filesOf = ({ path, runs }: Target) =>
  images(runs).map(({ disk: { file, encrypted } }) => ({
    path: join(path, file),
    ...(encrypted ? { isEncrypted: true as const } : {}),
  }));

function countOf({ verdicts }: PrunePlan, isCounted: (reasons: string[]) => boolean): number {
  return verdicts.filter(({ reasons }) => isCounted(reasons)).length;
}

/** The target, or the months in it. */
async function targetsOf(deadline: Deadline, named: string | undefined): Promise<Target[]> {
  if (named === undefined) throw new UsageError('"cleanup --prune" needs --target');
  const targets = await readTargets(deadline, resolve(named));
  if (targets.length === 0) {
    throw new UsageError(
      `"${resolve(named)}" holds no records of backups: there is nothing to prune`,
    );
  }
  return targets;
}

async function lockAll(
  deadline: Deadline,
  targets: Target[],
  locks: DisposableStack,
): Promise<Target[]> {
  for (const target of targets) {
    await refuseLinks(deadline, target);
    await refuseShared(deadline, target);
    locks.use(await takeLock(deadline, join(target.path, LOCK_FILE), holderNow("of a prune")));
  }
  return await readAgain(deadline, targets);
}

/** A run may have ended before the lock was ours. */
async function readAgain(deadline: Deadline, targets: Target[]): Promise<Target[]> {
  return await Promise.all(targets.map(({ path }) => readTarget(deadline, path)));
}

/** Removes what runs that failed have left. What a run that was killed has left may be open in its QEMU. */
async function sweep(deadline: Deadline, target: Target): Promise<void> {
  const killed = target.runs.find(({ state }) => state === "running");
  if (killed) {
    log.warn(
      'The run {run} was killed, and its files in "{target}" are left: the next backup cleans up after it, or ' +
        "cleanup --recover --socket",
      { run: killed.id, target: target.path },
    );
    return;
  }
  for (const { description, repair } of await findInTarget(deadline, target)) {
    log.info("{description}", { description });
    await repair();
  }
}

/** `qmpbackup cleanup --protect`, `--unprotect` and `--note`. */
export async function markRuns({ values, io, deadline }: CommandContext): Promise<number> {
  const changes = [
    { id: values.protect, change: { isProtected: true }, words: "protected" },
    { id: values.unprotect, change: { isProtected: false }, words: "not protected any more" },
    noteOf(values.note),
  ].flatMap(({ id, ...rest }) => id === undefined ? [] : [{ id, ...rest }]);
  if (changes.length === 0) return 0;
  const targets = await targetsOf(deadline, values.target);
  for (const { id, change, words } of changes) {
    const target = targets.find(({ runs }) => runs.some((run) => run.id === id));
    if (!target) throw new UsageError(`There is no run "${id}" here${newest(targets)}`);
    await refuseLinks(deadline, target);
    await refuseShared(deadline, target);
    using _lock = await takeLock(deadline, join(target.path, LOCK_FILE), holderNow("of a mark"));
    if (!(await readTarget(deadline, target.path)).runs.some((run) => run.id === id)) {
      throw new Failure(`The run "${id}" was removed meanwhile`);
    }
    const mark = (await readMarks(deadline, target.path)).get(id) ?? NO_MARK;
    if (!values["dry-run"]) await writeMark(deadline, target.path, id, { ...mark, ...change });
    io.stdout(values.json ? jsonLine("marked", { run: id, ...change }) : `Run ${id}: ${words}\n`);
  }
  return changes.length;
}

function newest(targets: Target[]): string {
  const point = targets.flatMap(({ runs }) => restorePoints(runs)).at(-1);
  return point ? `; the newest is "${point.run.id}"` : "";
}

function noteOf(words: [string, string] | undefined) {
  const [id, text = ""] = words ?? [];
  const note = text === "" ? null : text;
  return { id, change: { note }, words: note === null ? "has no note any more" : "has a note" };
}
