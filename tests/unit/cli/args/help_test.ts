import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  type Command,
  type CommandName,
  COMMANDS,
  FLAGS,
  GLOBAL_FLAGS,
  GROUPS,
} from "../../../../src/cli/args/flags.ts";
import { commandHelp, groupHelp, programHelp } from "../../../../src/cli/args/help.ts";
import { EXIT_CODES } from "../../../../src/errors.ts";

const commands = Object.entries(COMMANDS) as [CommandName, Command][];
const texts: [string, string][] = [
  ["programHelp()", programHelp()],
  ...[...GROUPS.keys()].map((first): [string, string] => [
    `groupHelp("${first}")`,
    groupHelp(first),
  ]),
  ...commands.map(([name]): [string, string] => [`commandHelp("${name}")`, commandHelp(name)]),
];

for (const [call, text] of texts) {
  Deno.test(`${call} keeps to 100 columns`, () => {
    // An example is to be copied: it stays in one line.
    const long = text.split("\n").filter((line) =>
      line.length > 100 && !/^ {2}qmpbackup /.test(line)
    );
    assertEquals(long, []);
  });

  Deno.test(`${call} ends in one line end, and has no space before one`, () => {
    assert(/\S\n$/.test(text));
    assertEquals(text.split("\n").filter((line) => line !== line.trimEnd()), []);
  });

  Deno.test(`${call} lists all exit codes`, () => {
    for (const [code, meaning] of Object.entries(EXIT_CODES)) {
      assertStringIncludes(text, `  ${code.padEnd(6)}${meaning}\n`);
    }
  });
}

for (const [name, { summary, hidden, required, optional, examples }] of commands) {
  Deno.test(`programHelp() lists "${name}", unless it is not for people`, () => {
    assertEquals(programHelp().includes(`  ${name.padEnd(26)}${summary}\n`), !hidden);
  });

  Deno.test(`commandHelp("${name}") lists each flag once`, () => {
    const lines = commandHelp(name).split("\n").filter((line) => /^ {2}(-\w, | {4})--/.test(line));
    const flags = lines.map((line) => /--([\w-]+)/.exec(line)?.[1]);
    assertEquals(flags, [...required, ...optional, ...GLOBAL_FLAGS]);
  });

  Deno.test(`commandHelp("${name}") shows the examples`, () => {
    for (const { does, line } of examples) {
      assertStringIncludes(commandHelp(name), `  # ${does}\n  ${line}\n`);
    }
  });
}

Deno.test("commandHelp() shows what is needed in the usage line", () => {
  assertStringIncludes(
    commandHelp("backup"),
    "\nUsage: qmpbackup backup --socket PATH --level {copy,full,inc,diff,auto} --target DIR [FLAGS]\n",
  );
});

Deno.test("commandHelp() says what a flag does in this subcommand", () => {
  assertStringIncludes(
    commandHelp("backup"),
    "--target DIR          where the backups go; made if",
  );
  assertEquals(/made if missing|where the backups go/.test(commandHelp("cleanup")), false);
  assertStringIncludes(
    commandHelp("cleanup"),
    "--uuid ID             only the bitmaps of the chain",
  );
  assertEquals(/whole backup directory/.test(commandHelp("restore commit")), false);
  assertEquals(/a disk's folder/.test(commandHelp("list") + commandHelp("info")), false);
});

for (const [name, command] of commands) {
  Deno.test(`"${name}" says nothing of flags that it does not take`, () => {
    const flags: string[] = [...command.required, ...command.optional];
    assertEquals(Object.keys(command.says ?? {}).filter((flag) => !flags.includes(flag)), []);
  });
}

Deno.test("commandHelp() shows short flags", () => {
  assertStringIncludes(commandHelp("backup"), "\n  -t, --target DIR          where the backups go");
});

Deno.test("COMMANDS uses every flag of the table", () => {
  const used = commands.flatMap(([, { required, optional }]) => [...required, ...optional]);
  const known: string[] = [...used, ...GLOBAL_FLAGS];
  assertEquals(Object.keys(FLAGS).filter((name) => !known.includes(name)), []);
});
