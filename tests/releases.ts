/**
 * The tests on real QEMU, once more for each other release that Debian has: `deno task test:releases`.
 *
 * QEMU 5.2 has tests of its own (`tests/vm/direct_test.ts`), which the usual run holds.
 *
 * @module
 */

import { qemuOf, SUITES } from "./support/releases.ts";

/** What does not ask QEMU for more than these releases do, or asks for one release. */
const SKIPPED = ["direct_test.ts", "binary_test.ts", "cuts_test.ts", "life_test.ts"];

const tests = (await Array.fromAsync(Deno.readDir("tests/vm"), ({ name }) => name))
  .filter((name) => !SKIPPED.includes(name)).sort().map((name) => `tests/vm/${name}`);
/** What these do to images is up to `qemu-img`. */
const IMAGE_TESTS = ["prune_test.ts", "prune_refusals_test.ts", "attach_test.ts", "verify_test.ts"]
  .map((name) => `tests/system/${name}`);

let failed = 0;
for (const suite of ["trixie", "forky"] as const) {
  const bin = await qemuOf(suite);
  // deno-lint-ignore no-console
  console.log(`== QEMU ${SUITES[suite]}, of Debian ${suite}`);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", ...IMAGE_TESTS, ...tests],
    env: { PATH: `${bin}:${Deno.env.get("PATH")}` },
  }).spawn().status;
  if (!success) failed++;
}
Deno.exit(failed);
