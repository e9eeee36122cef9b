/**
 * What most tests of a fault begin and end with: a full backup and changes that only the next run can
 * know of, and that run, which must hold them all.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { assertNothingLeft, filesOf, type Scene, untilJobs } from "./scene.ts";
import { ended, startTool, succeed } from "./tool.ts";

const MIB = 1 << 20;

export interface Run {
  id: string;
  state: string;
  disks: { level: string; file: string; result: string; reason: string; error: string | null }[];
}

/** All runs of the target, by its records, the oldest first. */
export async function runsOf(s: Scene): Promise<Run[]> {
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", s.target, "--json"]);
  return stdout.trim().split("\n").map((line) => JSON.parse(line))
    .filter(({ message_type }) => message_type === "run");
}

/** A full backup, then changes that only the next increment can know of. */
export async function fullThenChanges(s: Scene): Promise<void> {
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 0, 12 * MIB);
  if (s.disks > 1) await s.vm.write("vd1", 0x52, 20 * MIB, 12 * MIB);
}

/** A run that was killed when its jobs were at work, and they are still. */
export async function leaveDeadRun(s: Scene): Promise<void> {
  const child = startTool(s.backupArgs("inc", "--speed-limit", "1"));
  await untilJobs(s.vm, s.disks);
  child.kill("SIGKILL");
  await ended(child);
}

/**
 * The next run holds what a failed one would have held, and what came after; the full backup is as it
 * was, and nothing is left of anything.
 *
 * @param levels What the run, an `auto`, makes of each disk.
 */
export async function nextHoldsAll(s: Scene, levels = ["inc", "inc"]): Promise<void> {
  await s.vm.write("vd0", 0x61, 50 * MIB, MIB);
  await s.remember("auto");
  await succeed(s.backupArgs("auto"));
  const runs = await runsOf(s);
  assertEquals(runs.at(-1)?.disks.map(({ level }) => level), levels);
  await s.assertRestores("auto");
  await s.assertRestores("full", runs[0]?.id);
  await assertNothingLeft(s.vm, 1);
  const folders = [s.dir.path, s.target, `${s.target}/_qmpbackup`];
  const files = (await Promise.all(folders.map(filesOf))).flat();
  assertEquals(files.filter((file) => /\.(partial|fleece|tmp)$/.test(file)), []);
}
