import { assertEquals } from "@std/assert";
import type { LogRecord } from "@logtape/logtape";
import { lineFormatter } from "../../../../src/cli/output/log.ts";
import { formatSyslog } from "../../../../src/cli/output/syslog.ts";

/** As a guest may call itself: it clears the screen, adds a line of its own, and turns what follows. */
const HOSTILE = "vm\x1b[2J\n2026-11-22 INFO all is well\x9b1m\u202e\u200f\u061c\u2067 done";
const SHOWN = "vm\\x1b[2J\\x0a2026-11-22 INFO all is well\\x9b1m\\x202e\\x200f\\x61c\\x2067 done";

function record(...message: unknown[]): LogRecord {
  const about = {
    category: ["qmpbackup"],
    level: "warning",
    timestamp: 0,
    properties: {},
  } as const;
  return { ...about, message, rawMessage: "" };
}

for (const color of [false, true]) {
  const name = color ? "with colours" : "without colours";
  Deno.test(`lineFormatter() shows what would drive a terminal, ${name}`, () => {
    const line = lineFormatter(color)(record("The guest ", HOSTILE, " says ", "no\r\n", ""));
    // deno-lint-ignore no-control-regex
    const plain = line.replace(/^\x1b\[33m|\x1b\[39m\n?$/g, "").trimEnd();
    assertEquals(
      plain.replace(/^\S+ \S+ \S+ /, "").replaceAll("\\n", "\\x0a").replaceAll("\\r", "\\x0d"),
      `WARNING The guest ${SHOWN} says no\\x0d\\x0a`,
    );
  });
}

Deno.test("lineFormatter() shows what stands in the sentence itself", () => {
  const line = lineFormatter(false)(record(`Disk ${"a\u2066b\x07"}`));
  assertEquals(line.replace(/^\S+ \S+ \S+ /, ""), "WARNING Disk a\\x2066b\\x07\n");
});

Deno.test("formatSyslog() shows what would drive a terminal", () => {
  const line = formatSyslog(record("Disk ", "a\u202eb\x1b[2J", ""));
  assertEquals(line, "<12>Disk a\\x202eb\\x1b[2J\n");
});
