import { assertEquals, assertThrows } from "@std/assert";
import { parseAge } from "../../../../src/cli/args/age.ts";
import { UsageError } from "../../../../src/errors.ts";

for (
  const [text, hours] of [["26h", 26], ["90m", 1.5], ["2d", 48], ["1800s", 0.5], [
    "030h",
    30,
  ]] as const
) {
  Deno.test(`parseAge() reads "${text}"`, () => {
    assertEquals(parseAge("max-age", text), hours * 3600_000);
  });
}

for (const text of ["26", "h", "0h", "-1h", "1.5h", "26 h", "26hours", "1w", "9999999h"]) {
  Deno.test(`parseAge() refuses "${text}"`, () => {
    assertThrows(() => parseAge("max-age", text), UsageError, "--max-age takes a time such as 26h");
  });
}
