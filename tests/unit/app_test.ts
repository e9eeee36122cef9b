import { assertEquals, assertStringIncludes } from "@std/assert";
import { run } from "../../src/app.ts";
import { programHelp } from "../../src/cli/help.ts";
import { VERSION } from "../../src/cli/version.ts";
import { fakeIo } from "./_fixtures.ts";

/** Runs the program with these words. */
async function runWith(...argv: string[]) {
  const io = fakeIo();
  const exitCode = await run(argv, io, new AbortController().signal);
  return { exitCode, out: io.out, err: io.err };
}

Deno.test("run() prints the version", async () => {
  assertEquals(await runWith("--version"), {
    exitCode: 0,
    out: `qmpbackup ${VERSION}\n`,
    err: "",
  });
});

Deno.test("run() prints the help", async () => {
  assertEquals(await runWith("--help"), { exitCode: 0, out: programHelp(), err: "" });
});

Deno.test("run() prints a subcommand's help", async () => {
  const { exitCode, out } = await runWith("info", "--help");
  assertEquals(exitCode, 0);
  assertStringIncludes(out, "Usage: qmpbackup info");
});

Deno.test("run() says what is wrong with a command line, on stderr", async () => {
  assertEquals(await runWith("backup", "--levl", "full"), {
    exitCode: 2,
    out: "",
    err: 'Error: Unknown flag "--levl": did you mean "--level"\n',
  });
});

Deno.test("run() says what is wrong as JSON, even on a command line that can't be parsed", async () => {
  const { exitCode, out, err } = await runWith("backup", "--levl", "full", "--json");
  assertEquals([exitCode, err], [2, ""]);
  assertEquals(JSON.parse(out), {
    message_type: "error",
    message: 'Unknown flag "--levl": did you mean "--level"',
    exit_code: 2,
  });
});

Deno.test("run() obeys no control character of a command line", async () => {
  const { err } = await runWith("back\x1b[2Jup");
  assertEquals(err.includes("\x1b"), false);
});
