/**
 * Restores in a life: of single points, of all, and in place.
 *
 * @module
 */

import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import { tool } from "../support/tool.ts";
import { assertAttached, isAttached } from "./attachments.ts";
import type { InPlaceStep, Share } from "./steps.ts";
import type { Row, Run, Target } from "./target.ts";
import { pick, type World } from "./world.ts";

/** Restores one point into a new file and compares it. */
export async function restoreOne(world: World, target: Target, share: Share): Promise<void> {
  const points = target.points();
  if (points.length === 0) return;
  await verify(world, target, ...pick(points, share));
}

/** Restores points and compares them: the newest few of each target, or all. */
export async function restoreMany(world: World, newest = Infinity): Promise<void> {
  for (const target of world.targets) {
    const points = target.points();
    for (const [run, row] of points.slice(-newest)) {
      await verify(world, target, run, row);
    }
  }
}

async function verify(world: World, target: Target, run: Run, row: Row) {
  world.tell(`restore merge of ${target.path}/${row.file}`);
  await target.verify(run, row, world.dir.join("vm"));
  world.count("restore merge → 0");
  world.tally.compared++;
}

/** Verifies a target in full: whatever happened to it, nothing in it is damaged. */
export async function verifyTarget(world: World, target: Target): Promise<void> {
  if (target.points().length === 0) return;
  const { code, stdout, stderr } = await tool(["restore", "verify", "--dir", target.path]);
  world.tell(`restore verify of ${target.path} → ${code}`);
  world.count(`restore verify → ${code}`);
  assertEquals(code, 0, `${stdout}${stderr}`);
}

/** Restores in place: points that were committed over are gone, and no others. */
export async function restoreInPlace(world: World, step: InPlaceStep): Promise<void> {
  const target = pick(world.targets, step.target);
  const points = target.points().filter(([, { level }]) => level !== "copy");
  if (points.length === 0) return;
  const [run, row] = pick(points, step.point);
  const chain = target.chainOf(row);
  const isBelow = ([, other]: [Run, Row]) => other !== row && chain.includes(other);
  const mayGo = step.way === "rebase" ? [] : target.points().filter(isBelow);

  const stop = new AbortController();
  const timer = step.stopAfterMs === null
    ? undefined
    : setTimeout(() => stop.abort(new StoppedError("SIGINT")), step.stopAfterMs);
  const { code, stderr } = await tool([
    ...["restore", step.way, "--dir", join(target.path, row.folder)],
    ...["--until", row.file.split("/").at(-1) ?? ""],
  ], stop.signal);
  clearTimeout(timer);

  world.tell(`restore ${step.way} up to ${target.path}/${row.file} → ${code}`);
  world.count(`restore ${step.way} → ${code}`);
  const isOpen = isAttached(world, target, chain);
  const done = isOpen ? 1 : 0;
  const codes = chain.length < 2 ? [2] : step.stopAfterMs === null ? [done] : [done, 130];
  if (step.way !== "rebase" && isBranched(target, chain)) codes.push(1);
  assert(codes.includes(code), `It ended with ${code}: ${stderr}`);
  await target.read();
  const left = new Set(target.points().map(([{ id }, other]) => `${id} ${other.id}`));
  const gone = mayGo.filter(([{ id }, other]) => !left.has(`${id} ${other.id}`));
  if (code === 0) assertEquals(gone.length, mayGo.length, "All that was committed over is gone");
  if (isOpen) assertEquals(gone, []);
  target.forget(gone);
  target.assertPoints();
  const now = target.points().find(([{ id }, other]) => id === run.id && other.id === row.id);
  assert(now, "The point that was restored in place is one still");
  await verify(world, target, ...now);
  await assertAttached(world);
}

/**
 * Whether something else builds on images of a chain, the newest first: a difference does, beside the
 * increments before it. Then nothing is committed into them.
 */
function isBranched(target: Target, chain: Row[]): boolean {
  const below = chain.slice(1).map(({ file }) => file);
  const others = target.points().flatMap(([, row]) => target.chainOf(row));
  return others.some((row) =>
    row.parent !== null && below.includes(row.parent) && !chain.includes(row)
  );
}
