/**
 * A random life of a VM: hundreds of steps from a seed, each of which must leave every restore point
 * what it was.
 *
 * A seed repeats the steps; what falls between which two commands of a run is up to the machine.
 *
 * @module
 */

import { assertAttached, attachPoint, detachAll, detachOne } from "./attachments.ts";
import { backUp } from "./backups.ts";
import { pruneTarget } from "./prunes.ts";
import { restoreInPlace, restoreMany, restoreOne, verifyTarget } from "./restores.ts";
import { type Step, stepsOf } from "./steps.ts";
import type { Target } from "./target.ts";
import { pick, type Tally, World } from "./world.ts";

/** How often a few points are looked at; at the end it is all. */
const STEPS_BETWEEN_LOOKS = 20;
const POINTS_AT_A_LOOK = 4;
/** With less than this free, a backup may be refused. */
const LITTLE_ROOM_BYTES = 64 << 20;

/**
 * Lives a life.
 *
 * @throws {Error} If a step fails or a point is not what it was, with all steps up to there.
 */
export async function live(seed: number, count: number): Promise<Tally> {
  await using world = await World.create();
  const { story, tally } = world;
  try {
    for (const step of stepsOf(seed, count)) {
      story.push(`${tally.steps}. ${nameOf(step)}`);
      await take(world, step);
      tally.steps++;
      if (tally.steps % STEPS_BETWEEN_LOOKS === 0) {
        await world.assertShadow();
        await restoreMany(world, POINTS_AT_A_LOOK);
        await assertAttached(world);
      }
    }
    world.tell("the end: all points are compared");
    await world.assertShadow();
    await restoreMany(world);
    await assertAttached(world);
    for (const target of world.targets) await verifyTarget(world, target);
    return tally;
  } catch (error) {
    const words = error instanceof Error ? error.stack : String(error);
    throw new Error(
      `The life of the seed ${seed}:\n${story.join("\n")}\n${words}\n${await world.lastWords()}`,
    );
  }
}

function nameOf(step: Step): string {
  if (step.kind === "backup") return `backup ${step.level}, ${step.interrupt}`;
  if (step.kind === "restore in place") return `restore ${step.way}`;
  if (step.kind === "restart QEMU") return step.cleanly ? "quit QEMU" : "kill QEMU";
  return step.kind;
}

async function take(world: World, step: Step): Promise<void> {
  switch (step.kind) {
    case "write":
    case "zero":
    case "discard":
    case "grow":
      return await world.change(step);
    case "backup":
      await backUp(world, step);
      return await makeRoom(world);
    case "prune":
      return await pruneTarget(world, step);
    case "attach":
      return await attachPoint(world, step);
    case "detach":
      return await detachOne(world, step);
    case "restore in place":
      return await restoreInPlace(world, step);
    case "restore merge":
      return await restoreOne(world, pick(world.targets, step.target), step.point);
    case "restore verify":
      return await verifyTarget(world, pick(world.targets, step.target));
    case "restart QEMU":
      if (!step.cleanly) await world.kill();
      return await world.restart(step.cleanly);
    case "add disk":
      return await world.addDisk(step.clusterBytes, step.size);
    case "new target":
      return await replace(world, pick(world.targets, step.target));
    case "recover":
      return await world.recover(pick(world.targets, step.target));
    case "remove bitmaps":
      return await world.removeBitmaps();
  }
}

/** Begins both targets anew before a backup could be refused for want of room. */
async function makeRoom(world: World) {
  if (world.room.freeBytes() > LITTLE_ROOM_BYTES) return;
  world.tell("both targets are full: all is compared, and they are begun anew");
  await restoreMany(world);
  for (const target of world.targets) await replace(world, target);
}

async function replace(world: World, target: Target) {
  await detachAll(world, target);
  await world.replace(target);
}
