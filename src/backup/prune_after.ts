/**
 * `backup --keep-…`: old points go after a good run, under its lock on the target. The VM is let go by then.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { join } from "@std/path";
import { Failure, messageOf } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { holderNow, takeLock } from "../fs/flock.ts";
import type { BackupRequest } from "../plan/request.ts";
import { merge } from "../prune/carry_out.ts";
import type { KeepRules } from "../prune/policy.ts";
import { carryOutPrune, planPrune } from "../prune/prune.ts";
import { chainOf, images } from "../repo/chains.ts";
import { LOCK_FILE } from "../repo/layout.ts";
import { readPastMonths } from "../repo/months.ts";
import type { RunRecord } from "../repo/record.ts";
import {
  readTarget,
  refuseLinks,
  refuseShared,
  type Target,
  writeRun,
} from "../repo/repository.ts";

const log = getLogger(["qmpbackup", "backup"]);

/**
 * Removes what the rules don't keep. The backup is done, whatever becomes of this: what fails is a warning in its
 * record.
 *
 * @param record Of the run; its images may be merged ones in the end.
 */
export async function pruneAfter(
  record: RunRecord,
  { target, monthly, speedLimitBytesPerSecond, keyFile }: BackupRequest,
  { deadline, signal }: { deadline: Deadline; signal: AbortSignal },
  rules: KeepRules,
): Promise<void> {
  const warnings: string[] = [];
  try {
    using locks = new DisposableStack();
    const months = monthly ? await readPastMonths(deadline, target) : [];
    for (const month of months.filter(({ hasRecords }) => hasRecords)) {
      await refuseLinks(deadline, month);
      await refuseShared(deadline, month);
      const lockFile = join(month.path, LOCK_FILE);
      locks.use(await takeLock(deadline, lockFile, holderNow(record.id)));
    }
    const targets: Target[] = [];
    for (const path of [...months.map((month) => month.path), target]) {
      targets.push(await readTarget(deadline, path));
    }
    const plan = await planPrune(deadline, targets, rules);
    const removed = plan.verdicts.filter(({ reasons }) => reasons.length === 0).length;
    if (removed > 0) log.info("Removing {removed} old points", { removed });
    const rateLimitBytesPerSecond = speedLimitBytesPerSecond;
    const { problems } = await carryOutPrune(plan, {
      ...{ deadline, rateLimitBytesPerSecond, keyFile, signal },
    });
    warnings.push(...plan.warnings, ...problems);
  } catch (error) {
    warnings.push(
      `The backup is done, but old backups could not be removed: ${
        messageOf(error)
      }. The next run, or ` +
        "cleanup --prune, goes on",
    );
  }
  await noteWarnings(deadline, target, record, warnings);
}

/** The images of the run may be others by now: its record is read again. */
async function noteWarnings(
  deadline: Deadline,
  target: string,
  record: RunRecord,
  warnings: string[],
): Promise<void> {
  try {
    const { runs } = await readTarget(deadline, target);
    const now = runs.find(({ id }) => id === record.id);
    if (!now) return;
    Object.assign(record, now, { warnings: [...record.warnings, ...warnings] });
    if (warnings.length > 0) await writeRun(deadline, target, record);
  } catch (error) {
    record.warnings.push(...warnings, messageOf(error));
  }
}

/** QEMU opens no longer chain well. */
const MAX_LAYERS = 100;

/**
 * `backup --level diff`: merges each new increment with those before it, back to the last full backup. They stay
 * points of their own, and the next increment builds on the new one alone. No second bitmap is needed, and the
 * disk is not read again.
 */
export async function mergeSinceFull(
  record: RunRecord,
  { target: path, speedLimitBytesPerSecond, keyFile }: BackupRequest,
  { deadline, signal }: { deadline: Deadline; signal: AbortSignal },
): Promise<void> {
  const warnings: string[] = [];
  const { runs } = await readTarget(deadline, path);
  const context = {
    deadline,
    signal,
    keyFile,
    target: path,
    rateLimitBytesPerSecond: speedLimitBytesPerSecond,
  };
  for (const into of images(runs).filter(({ run }) => run.id === record.id)) {
    if (into.disk.level !== "inc") continue;
    try {
      const [full, ...layers] = chainOf(images(runs), into.disk.file).map(({ disk }) => disk);
      if (!full || layers.length < 2) continue;
      if (layers.length > MAX_LAYERS) {
        throw new Failure(`${layers.length} images are too many to merge: take a full backup`);
      }
      await merge({ layers, parent: full, into }, { path, runs }, context);
    } catch (error) {
      warnings.push(
        `The backup of "${into.disk.name}" is done, and holds what changed since the last backup, not since the ` +
          `last full one: ${messageOf(error)}`,
      );
    }
  }
  await noteWarnings(deadline, path, record, warnings);
}
