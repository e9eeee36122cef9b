/**
 * A backup in a life: with writes while it runs, stopped, killed, or on a target that fills up.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { StoppedError } from "../../src/errors.ts";
import { ended, startTool, tool, type ToolResult } from "../support/tool.ts";
import type { DiskSpec, Vm } from "../support/vm.ts";
import { assertInOrder } from "./order.ts";
import { Moments } from "./shadow.ts";
import type { BackupStep } from "./steps.ts";
import type { Run, Target } from "./target.ts";
import { pick, type World } from "./world.ts";

/** Bytes per second: slow enough that what happens meanwhile does happen meanwhile. */
const SLOW = 2 << 20;

/** A run that is under way. */
interface Running {
  result: Promise<ToolResult>;
  isOver: boolean;
  /** By a signal, or with -9 if it is a process of its own. */
  stop(): void;
}

/** Takes a backup and looks whether it ended as it had to. */
export async function backUp(world: World, step: BackupStep): Promise<void> {
  const target = pick(world.targets, step.target);
  const disks = step.only === null ? world.disks : [pick(world.disks, step.only)];
  const levels = expectedLevels(step, target, disks);
  const mustFail = step.level === "inc" && [...levels.values()].includes("full");

  world.tell(`qmpbackup ${argsOf(world, step, target, disks).join(" ")}`);
  const moments = new Moments(world.now);
  const running = start(argsOf(world, step, target, disks), step.interrupt === "kill tool");
  await goOnMeanwhile(world, step, running, moments);
  const { code, stdout, stderr } = await running.result;

  if (step.interrupt === "fill target") await world.room.empty();
  const run = await target.addRun(moments);
  if (step.interrupt === "kill QEMU") await world.restart(false);

  const done = run?.disks.filter(({ result }) => result === "done") ?? [];
  world.tally.taken += done.length;
  world.count(`backup ${step.interrupt === "none" ? "" : `(${step.interrupt}) `}→ ${code}`);
  world.tell(`→ ${code} ${describe(run)}`);
  const said = `${stdout}${stderr}`;
  const codes = codesOf(step, mustFail);
  // A disk that has grown between the plan and the point in time: that can be told, and is.
  if (moments.isOfSeveralSizes) codes.push(1);
  assert(codes.includes(code), `It ended with ${code}: ${said}`);
  if (mustFail && code === 1 && step.interrupt === "none") {
    assertStringIncludes(stderr, "No increment can be taken of the disk");
  }
  for (const row of run?.disks ?? []) {
    // Whether a full backup is due is told by the tool's own records.
    if (isDueAtTimes(step) && row.level === "full") continue;
    assertEquals(row.level, levels.get(row.id), `The level of ${row.id}: ${said}`);
  }
  if (code === 0) {
    assert(run, "A run that is done has a record");
    assertEquals(
      run.disks.map(({ id, result }) => [id, result]),
      disks.map(({ id }) => [id, "done"]),
    );
    const isThere = step.only === null && step.interrupt !== "kill QEMU";
    if (isThere) await assertInOrder(world, target, step.level !== "copy");
  }
}

function isDueAtTimes({ fullEvery, level }: BackupStep): boolean {
  return fullEvery && (level === "auto" || level === "diff");
}

function describe(run: Run | null): string {
  return run?.disks.map(({ name, level, result }) => `${name} ${level} ${result}`).join(", ") ??
    "no record";
}

/** An increment where one must be possible, never anything else; `inc` of a disk without fails. */
function expectedLevels({ level, compare }: BackupStep, target: Target, disks: DiskSpec[]) {
  return new Map(disks.map(({ id }) => {
    if (level === "copy" || level === "full") return [id, level];
    const canGoOn = target.hasBitmap(id) || (compare && target.hasChain(id));
    return [id, canGoOn ? "inc" : "full"];
  }));
}

function codesOf({ interrupt }: BackupStep, mustFail: boolean): number[] {
  const code = mustFail ? 1 : 0;
  switch (interrupt) {
    case "none":
      return [code];
    case "cancel":
      return [code, 130];
    case "kill tool":
      return [code, 137];
    case "kill QEMU":
      return [code, 1];
    // 2: not even the folder can be made.
    case "fill target":
      return [code, 1, 2];
  }
}

function argsOf(world: World, step: BackupStep, target: Target, disks: DiskSpec[]): string[] {
  return [
    ...["backup", "--socket", world.vm.socket, "--target", target.path, "--level", step.level],
    ...(step.only === null ? ["--include-raw"] : ["--include", disks[0]?.node ?? ""]),
    ...(step.slow || step.interrupt !== "none" ? ["--speed-limit", String(SLOW)] : []),
    ...(step.compress ? ["--compress"] : []),
    ...(step.compare ? ["--on-lost-bitmap", "compare"] : []),
    ...(step.verify ? ["--verify"] : []),
    ...(step.pause ? ["--pause"] : []),
    ...(isDueAtTimes(step) ? ["--full-every", "3"] : []),
  ];
}

function start(args: string[], asProcess: boolean): Running {
  let result: Promise<ToolResult>, stop: () => void;
  if (asProcess) {
    const child = startTool(args);
    result = ended(child);
    stop = () => {
      try {
        child.kill("SIGKILL");
      } catch {
        // It has ended.
      }
    };
  } else {
    const controller = new AbortController();
    result = tool(args, controller.signal);
    stop = () => controller.abort(new StoppedError("SIGINT"));
  }
  const running: Running = { result, stop, isOver: false };
  result.finally(() => running.isOver = true).catch(() => {});
  return running;
}

/** What the guest writes, and what else happens, from the start of a run to its end. */
async function goOnMeanwhile(world: World, step: BackupStep, running: Running, moments: Moments) {
  const before = await jobsOf(world.vm);
  // A process takes a while until it is there.
  if (step.interrupt === "kill tool") {
    while (!running.isOver && !await isLocked(world.vm)) await delay(5);
  }
  let isTaken = false;
  const interruptAt = Math.floor(step.interruptAt * (step.changes.length + 1));
  for (const [i, change] of [...step.changes, null].entries()) {
    if (i === interruptAt) {
      await delay(step.interruptAfterMs);
      await interrupt(world, step, running);
      if (step.interrupt === "kill QEMU") return;
    }
    if (change === null || running.isOver) continue;
    await delay(change.afterMs);
    // A job of this run reads what was there at the point in time: that is past.
    isTaken ||= (await jobsOf(world.vm)).some((id) => !before.includes(id));
    await world.change(change);
    if (!isTaken) moments.add(world.now);
  }
}

async function interrupt(world: World, step: BackupStep, running: Running) {
  switch (step.interrupt) {
    case "none":
      return;
    case "cancel":
    case "kill tool":
      return running.stop();
    case "kill QEMU":
      return await world.kill();
    case "fill target":
      return await world.room.fill();
  }
}

/** Those that copy: one that looks what is allocated runs before the point in time. */
async function jobsOf(vm: Vm): Promise<string[]> {
  const jobs = await vm.execute("query-jobs") as { id: string }[];
  return jobs.map(({ id }) => id).filter((id) => !id.endsWith(".look"));
}

/** Whether a run has marked the VM as its own; a dead run's mark counts as well. */
async function isLocked(vm: Vm): Promise<boolean> {
  const objects = await vm.execute("qom-list", { path: "/objects" }) as { name: string }[];
  return objects.some(({ name }) => name === "qmpbackup-lock");
}
