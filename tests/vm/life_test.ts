import { live } from "../life/life.ts";
import { describeTally, seedOf } from "../life/seed.ts";

Deno.test("every restore point equals its shadow, whatever happens to tool, QEMU and target", async () => {
  const seed = seedOf();
  const steps = Number(Deno.env.get("QMPBACKUP_TEST_STEPS") ?? 200);
  console.log(
    `A random life: repeat it with QMPBACKUP_TEST_SEED=${seed} QMPBACKUP_TEST_STEPS=${steps}`,
  );
  console.log(describeTally(await live(seed, steps)));
});
