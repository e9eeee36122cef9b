import { assertEquals } from "@std/assert";
import { describeHolder, parseHolder } from "../../../src/fs/flock.ts";

const HOLDER = { run: "20261122T230000Z-f00dcafe", host: "h1", pid: 42, since: "2026-11-22" };

Deno.test("parseHolder() reads what stands in a lock", () => {
  assertEquals(parseHolder(JSON.stringify(HOLDER) + "\n"), HOLDER);
});

for (const text of ["", "null", "42", '{"run":1}', "{"]) {
  Deno.test(`parseHolder() finds nothing of ours in ${JSON.stringify(text)}`, () => {
    assertEquals(parseHolder(text), null);
  });
}

Deno.test("describeHolder() says who and since when", () => {
  assertEquals(
    describeHolder(HOLDER),
    "run 20261122T230000Z-f00dcafe (pid 42 on h1, since 2026-11-22)",
  );
});

Deno.test("describeHolder() says that a holder is not known", () => {
  assertEquals(describeHolder(null), "its name is not known");
});
