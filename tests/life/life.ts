/**
 * A random life of a VM: hundreds of steps from a seed, each of which must leave every restore point
 * what it was.
 *
 * A seed repeats the steps; what falls between which two commands of a run is up to the machine.
 *
 * @module
 */

import { backUp } from "./backups.ts";
import { restoreInPlace, restoreMany, restoreOne } from "./restores.ts";
import { type Step, stepsOf } from "./steps.ts";
import { pick, World } from "./world.ts";

/** How often a few points are looked at; at the end it is all. */
const STEPS_BETWEEN_LOOKS = 20;
const POINTS_AT_A_LOOK = 4;
/** With less than this free, a backup may be refused. */
const LITTLE_ROOM_BYTES = 64 << 20;

export interface Tally {
  steps: number;
  /** By what was asked for and how it went: "backup auto, kill tool". */
  kinds: Map<string, number>;
  compared: number;
}

/**
 * Lives a life.
 *
 * @throws {Error} If a step fails or a point is not what it was, with all steps up to there.
 */
export async function live(seed: number, count: number): Promise<Tally> {
  const tally: Tally = { steps: 0, kinds: new Map(), compared: 0 };
  const story: string[] = [];
  try {
    await using world = await World.create();
    for (const step of stepsOf(seed, count)) {
      story.push(`${tally.steps} ${JSON.stringify(step)}`);
      const outcome = await take(world, step, tally);
      story.push(`  → ${outcome}`);
      tally.kinds.set(nameOf(step), (tally.kinds.get(nameOf(step)) ?? 0) + 1);
      tally.steps++;
      if (tally.steps % STEPS_BETWEEN_LOOKS === 0) {
        await world.assertShadow();
        tally.compared += await restoreMany(world, POINTS_AT_A_LOOK);
      }
    }
    story.push("The end: all points are looked at");
    await world.assertShadow();
    tally.compared += await restoreMany(world);
    return tally;
  } catch (error) {
    const words = error instanceof Error ? error.stack : String(error);
    throw new Error(`The life of the seed ${seed}:\n${story.join("\n")}\n${words}`);
  }
}

function nameOf(step: Step): string {
  if (step.kind === "backup") return `backup ${step.level}, ${step.interrupt}`;
  if (step.kind === "restore in place") return `restore ${step.way}`;
  if (step.kind === "restart QEMU") return step.cleanly ? "quit QEMU" : "kill QEMU";
  return step.kind;
}

async function take(world: World, step: Step, tally: Tally): Promise<string> {
  switch (step.kind) {
    case "write":
    case "zero":
    case "discard":
    case "grow":
      await world.change(step);
      return "";
    case "backup": {
      const outcome = await backUp(world, step);
      if (world.room.freeBytes() > LITTLE_ROOM_BYTES) return outcome;
      tally.compared += await restoreMany(world);
      for (const target of world.targets) await world.replace(target);
      return `${outcome}; both targets are full: all compared, and begun anew`;
    }
    case "restore in place":
      return await restoreInPlace(world, step);
    case "restore merge":
      tally.compared++;
      return await restoreOne(world, pick(world.targets, step.target), step.point);
    case "restart QEMU":
      await world.restart(step.cleanly);
      return "";
    case "add disk":
      await world.addDisk(step.format, step.size);
      return "";
    case "new target":
      await world.replace(pick(world.targets, step.target));
      return "";
    case "remove bitmaps":
      await world.removeBitmaps();
      return "";
  }
}
