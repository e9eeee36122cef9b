import { assertEquals } from "@std/assert";
import { needsReset } from "../../../src/rollback/guest.ts";

const STATES: [state: string, needsReset: boolean][] = [
  ["running", true],
  ["paused", true],
  ["io-error", true],
  ["suspended", true],
  ["guest-panicked", true],
  ["prelaunch", false],
  ["shutdown", false],
];
for (const [state, expected] of STATES) {
  Deno.test(`needsReset() says ${expected} of the state "${state}"`, () => {
    assertEquals(needsReset(state), expected);
  });
}
