import { live } from "../life/life.ts";
import { describeTally, numberOf, seedOf } from "../life/seed.ts";

Deno.test("every restore point stays what it was, whatever happens to the tool, QEMU and the target", async () => {
  const seed = seedOf();
  const steps = numberOf("QMPBACKUP_TEST_STEPS", 200);
  console.log(`QMPBACKUP_TEST_SEED=${seed} QMPBACKUP_TEST_STEPS=${steps} repeats this life`);
  console.log(describeTally(await live(seed, steps)));
});
