/**
 * Takes the point in time: the one moment whose contents all images of a run hold.
 *
 * One disk is switched in one step, so that the guest needn't stand still. Several are switched one
 * after the other, and no write may fall between: the processors stop for these milliseconds. A freeze
 * by the guest agent comes on top, for the sake of the file systems; it does not replace the stop,
 * since what writes to a disk past the file systems (swap, a database on a raw device) goes on.
 *
 * @module
 */

import { AgentError, freeze, type GuestAgent, StillFrozenError } from "../guest/agent.ts";
import type { RunRecord } from "../catalog/record.ts";
import type { QmpClient } from "../qmp/client.ts";
import { clearFrozen, markFrozen, pauseVm } from "../vm/marks.ts";

export interface HoldOptions {
  /** The guest's agent, if its file systems are to be frozen. */
  agent: GuestAgent | null;
  /** Whether to take no point in time where they can't be. */
  require: boolean;
  /** Whether to stop the guest even for one disk. */
  pause: boolean;
  /** Looks once more whether all is as it was planned for. */
  check: () => Promise<void>;
  /** Gets a sentence if the file systems could not be frozen. */
  warn: (sentence: string) => void;
}

export interface PointInTime {
  at: Date;
  hold: RunRecord["hold"];
}

/**
 * Runs all switches at one moment.
 *
 * @param switches One for each disk.
 * @throws {AgentError} If the file systems must be frozen and can't be; nothing was switched then.
 */
export async function takePointInTime(
  qmp: QmpClient,
  switches: (() => Promise<void>)[],
  { agent, pause, require, check, warn }: HoldOptions,
): Promise<PointInTime> {
  const start = performance.now();
  let point: PointInTime, frozen: boolean;
  {
    await using freeze = agent && await freezeGuest(qmp, agent, { require, warn });
    frozen = freeze !== null;
    await check();
    point = await switchAll(qmp, switches, pause);
  }
  if (!frozen) return point;
  return { ...point, hold: { ...point.hold, frozenMs: millisecondsSince(start) } };
}

/** Marked before, as the pause is, so that a later run can tell and thaw. */
async function freezeGuest(
  qmp: QmpClient,
  agent: GuestAgent,
  { require, warn }: Pick<HoldOptions, "require" | "warn">,
): Promise<AsyncDisposable | null> {
  await markFrozen(qmp);
  try {
    const frozen = await freeze(agent);
    const thaw = async () => {
      await frozen[Symbol.asyncDispose]();
      await clearFrozen(qmp);
    };
    return { [Symbol.asyncDispose]: thaw };
  } catch (error) {
    if (error instanceof StillFrozenError) throw error;
    await clearFrozen(qmp);
    if (require || !(error instanceof AgentError)) throw error;
    warn(`The guest's file systems were not frozen: ${error.message}`);
    return null;
  }
}

async function switchAll(
  qmp: QmpClient,
  switches: (() => Promise<void>)[],
  pauseAnyway: boolean,
): Promise<PointInTime> {
  if (switches.length === 1 && !pauseAnyway) {
    await switches[0]?.();
    return { at: new Date(), hold: { kind: "none", pausedMs: 0, frozenMs: null } };
  }
  let stopped: boolean, at: Date, start: number;
  {
    await using pause = await pauseVm(qmp);
    start = performance.now();
    // Sent at once: the fewer round trips, the shorter the pause.
    const results = await Promise.allSettled(switches.map((run) => run()));
    at = new Date();
    const failed = results.find((result) => result.status === "rejected");
    if (failed) throw failed.reason;
    stopped = pause.stopped;
  }
  const kind = stopped ? "stop" : "already-stopped";
  return { at, hold: { kind, pausedMs: stopped ? millisecondsSince(start) : 0, frozenMs: null } };
}

function millisecondsSince(start: number): number {
  return Math.round((performance.now() - start) * 10) / 10;
}
