import { assertEquals, assertThrows } from "@std/assert";
import { shown } from "../../../src/cli/commands/info.ts";
import type { Values } from "../../../src/cli/args/parse.ts";
import { UsageError } from "../../../src/errors.ts";

const SHOWN: [values: Values, show: string][] = [
  [{ socket: "/s" }, "blockdev"],
  [{ dir: "/d" }, "backups"],
  [{ socket: "/s", show: "bitmaps" }, "bitmaps"],
  [{ socket: "/s", dir: "/d", show: "blockdev" }, "blockdev"],
  [{ show: "backups" }, "backups"],
];
for (const [values, show] of SHOWN) {
  Deno.test(`shown() takes ${JSON.stringify(values)} for --show ${show}`, () => {
    assertEquals(shown(values), show);
  });
}

for (const values of [{}, { socket: "/s", dir: "/d" }]) {
  Deno.test(`shown() names the values of --show for ${JSON.stringify(values)}`, () => {
    assertThrows(() => shown(values), UsageError, "blockdev, bitmaps, backups");
  });
}
