/**
 * Random lives of VMs, one after the other, for `QMPBACKUP_TEST_MINUTES` (60). Each has
 * `QMPBACKUP_TEST_STEPS` (500), and the seed after that of the one before it, from
 * `QMPBACKUP_TEST_SEED` on.
 *
 * @module
 */

import { messageOf } from "../src/errors.ts";
import { live } from "./life/life.ts";
import { describeTally, numberOf, seedOf } from "./life/seed.ts";

const end = Date.now() + numberOf("QMPBACKUP_TEST_MINUTES", 60) * 60_000;
const steps = numberOf("QMPBACKUP_TEST_STEPS", 500);
const total = { lives: 0, steps: 0, taken: 0, compared: 0 };

for (let seed = seedOf(); total.lives === 0 || Date.now() < end; seed++) {
  console.log(`QMPBACKUP_TEST_SEED=${seed} QMPBACKUP_TEST_STEPS=${steps}`);
  try {
    const tally = await live(seed, steps);
    console.log(describeTally(tally));
    total.lives++;
    total.steps += tally.steps;
    total.taken += tally.taken;
    total.compared += tally.compared;
  } catch (error) {
    console.error(messageOf(error));
    Deno.exit(1);
  }
}
console.log(
  `${total.lives} lives, ${total.steps} steps, ${total.taken} restore points taken, ` +
    `${total.compared} times one compared: each was what it had to be`,
);
