import { getLogger } from "@logtape/logtape";
import { resolve } from "@std/path";
import { cleanUp } from "../../recovery/clean_up.ts";
import { holderNow } from "../../fs/flock.ts";
import { bitmapsOf } from "../../plan/last_backup.ts";
import { readTargets } from "../../repo/months.ts";
import { UsageError } from "../../errors.ts";
import type { QmpClient } from "../../qmp/client.ts";
import { queryDisks } from "../../vm/disks.ts";
import { refuseLockedVm } from "../../vm/lock.ts";
import { markNames } from "../../vm/marks.ts";
import { isBackupBitmap, isOurBitmap } from "../../vm/names.ts";
import { rollbackWords } from "../../vm/rollback_mark.ts";
import { removeBitmap } from "../../vm/switch_node.ts";
import { connectVm, nameHolder } from "../../vm/socket_holder.ts";
import { keepRules } from "../args/keep_rules.ts";
import { jsonLine } from "../output/report.ts";
import { printable } from "../output/text.ts";
import type { CommandContext } from "./context.ts";
import { markRuns, prune } from "./prune.ts";
import { qmpTarget, thawOf } from "./qmp_target.ts";

const log = getLogger(["qmpbackup", "cleanup"]);

/** The exit code where images could not be merged. */
const FAILED = 1;

/** `qmpbackup cleanup`: what was asked for of it, in the order below. */
export async function cleanup(context: CommandContext): Promise<number> {
  const { values, io } = context;
  const { recover = false, "remove-bitmap": bitmaps = false, "dry-run": dryRun = false } = values;
  const { protect, unprotect, note } = values;
  const isMarking = [protect, unprotect, note].some((value) => value !== undefined);
  if (!recover && !bitmaps && !values.prune && !isMarking) {
    throw new UsageError(
      '"cleanup" needs one of --prune, --protect, --unprotect, --note, --recover and --remove-bitmap',
    );
  }
  if (!values.prune && keepRules(values) !== null) {
    throw new UsageError("--keep flags say what --prune keeps: add --prune");
  }
  if ((recover || bitmaps) && values.socket === undefined) {
    throw new UsageError(`"cleanup ${recover ? "--recover" : "--remove-bitmap"}" needs --socket`);
  }
  const { recovered, removed } = recover || bitmaps
    ? await cleanUpVm(context, { recover, bitmaps, dryRun })
    : { recovered: 0, removed: 0 };
  const marked = isMarking ? await markRuns(context) : 0;
  const pruned = values.prune ? await prune(context) : null;
  const dropped = pruned && values.socket !== undefined && !bitmaps
    ? await dropUnneeded(context, dryRun)
    : 0;
  const state = dryRun ? "planned" : pruned?.problems ? "failed" : "done";
  if (values.json) {
    const more = { ...(isMarking ? { marked } : {}), ...(pruned ? { pruned } : {}) };
    io.stdout(jsonLine("summary", { state, recovered, removed: removed + dropped, ...more }));
  }
  return pruned?.problems ? FAILED : 0;
}

async function cleanUpVm(
  context: CommandContext,
  { recover, bitmaps, dryRun }: { recover: boolean; bitmaps: boolean; dryRun: boolean },
): Promise<{ recovered: number; removed: number }> {
  const { socket, qmpOptions } = qmpTarget(context.values);
  await using qmp = await connectVm(context.deadline, socket, qmpOptions);
  // Bitmaps are removed in a moment, and without the right to know the host's name.
  await using _named = recover
    ? await nameHolder(context.deadline, socket, holderNow("cleanup"))
    : null;
  const recovered = recover ? await recoverAll(qmp, context, dryRun) : 0;
  return { recovered, removed: bitmaps ? await removeBitmaps(qmp, context, dryRun) : 0 };
}

async function recoverAll(
  qmp: QmpClient,
  { values, io, deadline }: CommandContext,
  dryRun: boolean,
): Promise<number> {
  let unsaid: unknown = null;
  const count = await cleanUp(qmp, {
    deadline,
    target: values.target === undefined ? null : resolve(values.target),
    thaw: thawOf(values),
    dryRun,
    onFound: ({ description }) => {
      try {
        io.stdout(
          values.json
            ? jsonLine("recovered", { what: description })
            : `${printable(description)}\n`,
        );
      } catch (error) {
        // A stopped guest must not wait until somebody reads this.
        unsaid ??= error;
      }
    },
  });
  if (unsaid !== null) throw unsaid;
  const halfWay = await rollbackWords(qmp, await markNames(qmp));
  if (halfWay !== null) log.warn("{words}", { words: halfWay });
  if (count === 0) log.info("There is nothing to clean up: no killed run has left anything here");
  return count;
}

async function removeBitmaps(
  qmp: QmpClient,
  context: CommandContext,
  dryRun: boolean,
): Promise<number> {
  const { values } = context;
  const count = await removeThose(
    qmp,
    context,
    dryRun,
    (name) => isBackupBitmap(name, values.uuid),
  );
  if (count === 0) log.info("This VM's disks have no bitmaps made by qmpbackup");
  return count;
}

/** Removes the bitmaps of this target's chains that no record names any more. */
async function dropUnneeded(context: CommandContext, dryRun: boolean): Promise<number> {
  const { values, deadline } = context;
  const targets = await readTargets(deadline, resolve(values.target ?? "."));
  const needed = new Set(targets.flatMap(bitmapsOf));
  const chains = targets.flatMap(({ chainId }) => chainId ?? []);
  const { socket, qmpOptions } = qmpTarget(values);
  await using qmp = await connectVm(deadline, socket, qmpOptions);
  return await removeThose(
    qmp,
    context,
    dryRun,
    (name) => !needed.has(name) && chains.some((chainId) => isOurBitmap(name, chainId)),
  );
}

async function removeThose(
  qmp: QmpClient,
  { values, io, deadline, signal }: CommandContext,
  dryRun: boolean,
  isWanted: (name: string) => boolean,
): Promise<number> {
  await refuseLockedVm(deadline, qmp, null);
  const { disks } = await queryDisks(qmp);
  const ours = disks.flatMap((disk) =>
    disk.bitmaps.filter(({ name }) => isWanted(name))
      .map(({ name }) => ({ disk: disk.name, node: disk.node, bitmap: name }))
  );
  for (const { disk, node, bitmap } of ours) {
    signal.throwIfAborted();
    if (!dryRun) await removeBitmap(qmp, node, bitmap);
    io.stdout(
      values.json
        ? jsonLine("removed", { disk, bitmap })
        : `Removing bitmap: ${printable(bitmap)}\n`,
    );
  }
  return ours.length;
}
