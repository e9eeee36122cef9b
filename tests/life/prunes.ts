/**
 * Prunes in a life: what the rules keep stays what it was, whenever one is stopped.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { StoppedError } from "../../src/errors.ts";
import { ended, startTool, succeed, tool, type ToolResult } from "../support/tool.ts";
import { assertAttached, isAttached } from "./attachments.ts";
import { restoreMany } from "./restores.ts";
import type { PruneStep } from "./steps.ts";
import { pick, type World } from "./world.ts";

/** Points of so many of the last runs are compared. */
const COMPARED = 4;

/** What a process takes until it prunes. */
const START_MS = 400;

/** Removes old points: no other ones may be gone. */
export async function pruneTarget(world: World, step: PruneStep): Promise<void> {
  const target = pick(world.targets, step.target);
  const before = target.points();
  if (before.length === 0) return;
  const ids = [...new Set(before.map(([{ id }]) => id))];
  const saved = step.protect === null ? null : pick(ids, step.protect);
  if (saved !== null) await succeed(["cleanup", "--target", target.path, "--protect", saved]);
  const args = ["cleanup", "--prune", "--target", target.path, "--keep-last", String(step.last)];
  const { code, stderr } = await run(args, step);

  world.tell(
    `cleanup --prune of ${target.path}, the last ${step.last}, ${saved} protected → ${code}`,
  );
  world.count(`cleanup --prune → ${code}`);
  const isRefused = stderr.includes("holds snapshots");
  const codes = [isRefused ? 1 : 0, ...(step.stopAfterMs === null ? [] : [130, 137])];
  assert(codes.includes(code), `It ended with ${code}: ${stderr}`);
  await target.read();
  const left = new Set(target.points().map(([{ id }, row]) => `${id} ${row.id}`));
  const gone = before.filter(([{ id }, row]) => !left.has(`${id} ${row.id}`));
  const newest = new Map(before.map(([run, row]) => [row.id, run.id]));
  const counted = ids.filter((id) => id !== saved && !world.protected.has(id));
  for (const [{ id }, row] of gone) {
    assert(!counted.slice(-step.last).includes(id), `${id} is one of the last ${step.last}`);
    assert(id !== saved, `${id} is protected`);
    assert(id !== newest.get(row.id), `${id} is the newest of ${row.id}`);
  }
  assert(!isAttached(world, target, gone.map(([, row]) => row)), "What is attached is a point");
  target.forget(gone);
  target.assertPoints();
  if (code === 0 && !stderr.includes("stay as they are")) {
    // What the next increment builds on stays as well, if that is not the newest.
    const inChain = before.filter(([, { level }]) => level !== "copy");
    const bases = new Map(inChain.map(([run, row]) => [row.id, run.id]));
    const kept = new Set([...counted.slice(-step.last), ...newest.values(), ...bases.values()]);
    const rest = ids.filter((id) => left.size > 0 && target.runs.some((run) => run.id === id));
    const points = new Set(target.points().map(([{ id }]) => id));
    const extra = rest.filter((id) => points.has(id) && !kept.has(id));
    assertEquals(extra.filter((id) => id !== saved && !world.protected.has(id)), []);
  }
  if (saved !== null) world.protected.add(saved);
  await restoreMany(world, COMPARED);
  await assertAttached(world);
}

async function run(args: string[], { stopAfterMs, kill }: PruneStep): Promise<ToolResult> {
  if (stopAfterMs === null) return await tool(args);
  if (!kill) {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(new StoppedError("SIGINT")), stopAfterMs);
    return await tool(args, stop.signal).finally(() => clearTimeout(timer));
  }
  const child = startTool(args);
  const timer = setTimeout(() => child.kill("SIGKILL"), START_MS + stopAfterMs);
  return await ended(child).finally(() => clearTimeout(timer));
}
