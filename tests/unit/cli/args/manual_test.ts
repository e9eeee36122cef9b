import { assertEquals, assertStringIncludes } from "@std/assert";
import { COMMANDS, type Flag, FLAGS } from "../../../../src/cli/args/flags.ts";
import { manualPage } from "../../../../src/cli/args/manual.ts";
import { EXIT_CODES } from "../../../../src/errors.ts";

const page = manualPage();
/** What stands in the page, without roff's escapes and line breaks. */
const text = page.replaceAll("\\-", "-").replaceAll("\\(aq", "'").replaceAll("\\(dq", '"')
  .replaceAll("\\(ga", "`").replace(/\s+/g, " ");

Deno.test("manualPage() has each flag with its help, but for those of hidden subcommands", () => {
  for (const [name, flag] of Object.entries(FLAGS) as [string, Flag][]) {
    if (name === "run") continue;
    assertStringIncludes(text, `--${name}`);
    assertStringIncludes(text, flag.help);
  }
  assertEquals(/guard|--run\b/.test(text), false);
});

Deno.test("manualPage() has each subcommand, its examples, and all exit codes", () => {
  for (const [name, command] of Object.entries(COMMANDS)) {
    if ("hidden" in command) continue;
    assertStringIncludes(text, `.B qmpbackup ${name} `);
    assertStringIncludes(text, command.summary);
    for (const help of Object.values<string>("says" in command ? command.says : {})) {
      assertStringIncludes(text, help);
    }
    for (const { does, line } of command.examples) {
      assertStringIncludes(text, `${does}: .nf ${line} .fi`);
    }
  }
  for (const [code, meaning] of Object.entries(EXIT_CODES)) {
    assertStringIncludes(text, `.B ${code} ${meaning}`);
  }
});

Deno.test("manualPage() leaves no line to be taken for a request by mistake", () => {
  const requests = page.split("\n").filter((line) => /^[.']/.test(line)).map((line) =>
    line.split(" ")[0]
  );
  const known = [".B", ".BR", ".I", ".PP", ".RI", ".SH", ".TH", ".TP", ".br", ".fi", ".nf"];
  assertEquals([...new Set(requests)].sort(), known);
});
