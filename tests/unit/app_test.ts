import { assertEquals, assertStringIncludes } from "@std/assert";
import { run } from "../../src/app.ts";
import { programHelp } from "../../src/cli/args/help.ts";
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

for (const words of ["--help", "-h", "help", "help --debug"]) {
  Deno.test(`run() prints the help for ${words}`, async () => {
    assertEquals(await runWith(...words.split(" ")), { exitCode: 0, out: programHelp(), err: "" });
  });
}

Deno.test("run() prints the same help of a subcommand however it is asked for", async () => {
  for (const name of ["backup", "restore", "restore merge", "completions", "help", "units"]) {
    const { out, exitCode } = await runWith("help", ...name.split(" "));
    assertEquals(exitCode, 0, name);
    assertStringIncludes(out, `Usage: qmpbackup ${name} `);
    assertEquals((await runWith(...name.split(" "), "--help")).out, out);
    if (name !== "help") assertEquals((await runWith(...name.split(" "), "help")).out, out);
  }
});

Deno.test("run() shows all ways to restore in the help on restore", async () => {
  const { out } = await runWith("restore", "--help");
  for (const way of ["merge", "rebase", "commit", "snapshotrebase"]) {
    assertStringIncludes(out, `  restore ${way.padEnd(15)}`);
    assertStringIncludes(out, `  qmpbackup restore ${way} --dir`);
  }
});

Deno.test("run() names the help that is nearest to an unknown topic", async () => {
  const { exitCode, err } = await runWith("help", "bakup");
  assertEquals([exitCode, err], [
    2,
    'Error: There is no help on "bakup": did you mean "backup"?\n',
  ]);
});

Deno.test("run() tells the version as a subcommand, as JSON too", async () => {
  assertEquals((await runWith("version")).out, `qmpbackup ${VERSION}\n`);
  assertEquals(JSON.parse((await runWith("version", "--json")).out), {
    message_type: "summary",
    text: `qmpbackup ${VERSION}\n`,
  });
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
    err: 'Error: Unknown flag "--levl": did you mean "--level"?\n',
  });
});

Deno.test("run() says what is wrong as JSON, even on a command line that can't be parsed", async () => {
  const { exitCode, out, err } = await runWith("backup", "--levl", "full", "--json");
  assertEquals([exitCode, err], [2, ""]);
  assertEquals(JSON.parse(out), {
    message_type: "error",
    message: 'Unknown flag "--levl": did you mean "--level"?',
    exit_code: 2,
  });
});

Deno.test("run() obeys no control character of a command line", async () => {
  const { err } = await runWith("back\x1b[2Jup");
  assertEquals(err.includes("\x1b"), false);
});
