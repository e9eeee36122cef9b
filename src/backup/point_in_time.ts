/**
 * Takes the point in time: the one moment whose contents all images of a run hold.
 *
 * One command switches all disks, and QEMU holds their writes while it does so: the guest needn't be stopped for
 * that, even with many disks. If it has to be stopped all the same (asked for, or an old QEMU), its processors stop
 * while the switch nodes are put in and switched. The guest agent freezes file systems only to have them
 * consistent.
 *
 * While the guest is stopped or frozen, a watchdog runs beside us: if we are killed in that moment, it lets the
 * guest go on.
 *
 * @module
 */

import { messageOf } from "../errors.ts";
import {
  AgentError,
  type Freeze,
  freeze,
  type GuestAgent,
  StillFrozenError,
} from "../qga/agent.ts";
import type { RunRecord } from "../repo/record.ts";
import type { QmpClient } from "../qmp/client.ts";
import { clearFrozen, markFrozen, pauseVm } from "../vm/pause.ts";
import type { Watchdog } from "../recovery/watchdog.ts";

/** What is done to all disks, in this order. */
export interface SwitchSteps {
  getReady(): Promise<void>;
  switchOver(): Promise<void>;
  addSnapshots(): Promise<void>;
}

export interface MomentOptions {
  /** The guest's agent, if its file systems are to be frozen. */
  agent: GuestAgent | null;
  /** Whether to take no point in time where they can't be. */
  require: boolean;
  /** Whether to stop the guest. */
  pause: boolean;
  startWatchdog: () => Promise<Watchdog>;
  /** Gets a sentence if something was not done as asked for. */
  warn: (sentence: string) => void;
}

export interface PointInTime {
  at: Date;
  hold: RunRecord["hold"];
}

/**
 * Runs the steps. Stops and freezes the guest for them as far as it has to be.
 *
 * @throws {AgentError} If the file systems must be frozen and can't be (nothing was switched then), or
 * were not all the time (then the point in time is not to be used).
 */
export async function takePointInTime(
  qmp: QmpClient,
  steps: SwitchSteps,
  options: MomentOptions,
): Promise<PointInTime> {
  const { agent, pause } = options;
  if (!pause) await steps.getReady();
  await using watchdog = agent || pause ? await watchdogOrWarn(options) : null;
  const { doubts, ...point } = await freezeAndSwitch(qmp, steps, options);
  // If the guest could not be let go on, the watchdog is not told so, and tries as well.
  await watchdog?.release();
  if (doubts.length > 0) {
    const words =
      "The guest agent says that the file systems were not frozen, or not all the time: " +
      doubts.join(", ");
    if (options.require) throw new AgentError(words);
    options.warn(words);
  }
  if (!pause) await steps.addSnapshots();
  return point;
}

async function watchdogOrWarn({ startWatchdog, warn }: MomentOptions): Promise<Watchdog | null> {
  try {
    return await startWatchdog();
  } catch (error) {
    warn(
      "The watchdog could not be started. If this run is killed while the guest is stopped or " +
        `frozen, the guest stays so until the next run (${messageOf(error)})`,
    );
    return null;
  }
}

async function freezeAndSwitch(
  qmp: QmpClient,
  steps: SwitchSteps,
  { agent, pause, ...how }: MomentOptions,
): Promise<PointInTime & { doubts: string[] }> {
  const start = performance.now();
  await using freeze = agent && await freezeGuest(qmp, agent, how);
  const point = pause ? await switchPaused(qmp, steps) : await switchRunning(steps);
  const doubts = await freeze?.thaw() ?? [];
  if (!freeze || doubts.length > 0) return { ...point, doubts };
  return { ...point, hold: { ...point.hold, frozenMs: millisecondsSince(start) }, doubts };
}

/** A mark is set before, as for a pause: a later run sees it, and thaws. */
async function freezeGuest(
  qmp: QmpClient,
  agent: GuestAgent,
  { require, warn }: Pick<MomentOptions, "require" | "warn">,
): Promise<Freeze | null> {
  await markFrozen(qmp);
  try {
    const frozen = await freeze(agent);
    let isOver = false;
    const thaw = async () => {
      isOver = true;
      const doubts = await frozen.thaw();
      await clearFrozen(qmp);
      return doubts;
    };
    return {
      thaw,
      async [Symbol.asyncDispose]() {
        if (!isOver) await thaw();
      },
    };
  } catch (error) {
    if (error instanceof StillFrozenError) throw error;
    await clearFrozen(qmp);
    if (require || !(error instanceof AgentError)) throw error;
    warn(`The guest's file systems were not frozen: ${error.message}`);
    return null;
  }
}

async function switchRunning({ switchOver }: SwitchSteps): Promise<PointInTime> {
  await switchOver();
  return { at: new Date(), hold: { kind: "none", pausedMs: 0, frozenMs: null } };
}

async function switchPaused(
  qmp: QmpClient,
  { getReady, switchOver, addSnapshots }: SwitchSteps,
): Promise<PointInTime> {
  let stopped: boolean, at: Date, start: number;
  {
    await using pause = await pauseVm(qmp);
    start = performance.now();
    await getReady();
    await switchOver();
    at = new Date();
    await addSnapshots();
    stopped = pause.stopped;
  }
  const kind = stopped ? "stop" : "already-stopped";
  return { at, hold: { kind, pausedMs: stopped ? millisecondsSince(start) : 0, frozenMs: null } };
}

function millisecondsSince(start: number): number {
  return Math.round((performance.now() - start) * 10) / 10;
}
