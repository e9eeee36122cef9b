import { assertEquals, assertThrows } from "@std/assert";
import { COMMANDS } from "../../../../src/cli/args/flags.ts";
import { parse, type Values } from "../../../../src/cli/args/parse.ts";
import { UsageError } from "../../../../src/errors.ts";

const BACKUP = ["backup", "--socket", "/s", "--level", "full", "--target", "/t"];

/** The values of a backup's command line with these words at its end. */
function valuesWith(...words: string[]): Values {
  return parse([...BACKUP, ...words]).values;
}

function assertRefused(argv: string[], message: string) {
  assertThrows(() => parse(argv), UsageError, message);
}

Deno.test("parse() takes subcommand and flags", () => {
  assertEquals(parse(BACKUP), {
    command: "backup",
    values: { socket: "/s", level: "full", target: "/t" },
  });
});

Deno.test("parse() takes flags before the subcommand too", () => {
  const argv = ["--debug", "--socket", "/s", "backup", "--level", "full", "--target", "/t"];
  assertEquals(parse(argv), {
    command: "backup",
    values: { debug: true, socket: "/s", level: "full", target: "/t" },
  });
});

Deno.test("parse() takes a subcommand of two words", () => {
  assertEquals(parse(["restore", "merge", "--dir", "/d"]).command, "restore merge");
});

Deno.test("parse() takes --flag=value", () => {
  assertEquals(parse(["info", "--show=backups", "--dir=-odd"]).values, {
    show: "backups",
    dir: "-odd",
  });
});

Deno.test("parse() takes short flags", () => {
  assertEquals(parse(["backup", "--socket", "/s", "-l", "inc", "-t", "/t"]).values, {
    socket: "/s",
    level: "inc",
    target: "/t",
  });
});

Deno.test("parse() takes a short flag's value without a space, as the reference does", () => {
  assertEquals(parse(["backup", "--socket", "/s", "-linc", "-t/t", "-idisk0"]).values, {
    socket: "/s",
    level: "inc",
    target: "/t",
    include: ["disk0"],
  });
});

for (
  const [words, list] of [
    [["--list"], "/"],
    [["--list", "/etc"], "/etc"],
    [["--list=/a b"], "/a b"],
    [["--list", "--nbd"], "/"],
  ] as const
) {
  Deno.test(`parse() takes --list with a path or without: ${words.join(" ")}`, () => {
    for (const argv of [["restore", "attach", ...words], [...words, "restore", "attach"]]) {
      assertEquals(parse([...argv, "--dir", "/d"]).values.list, list);
    }
  });
}

for (const words of [["-l", "full"], ["-lfull"], ["-l=full"], ["--level=full"]]) {
  Deno.test(`parse() reads ${words.join(" ")}`, () => {
    assertEquals(
      parse(["backup", "--socket", "/s", ...words, "-t=/t", "-L/log"]).values,
      { socket: "/s", level: "full", target: "/t", logfile: "/log" },
    );
  });
}

for (const name of ["--remove-bitmap", "--remove-bitmaps"]) {
  Deno.test(`parse() takes the spelling ${name}`, () => {
    const { values } = parse(["cleanup", "--socket", "/s", name]);
    assertEquals(values, { socket: "/s", "remove-bitmap": true });
  });
}

Deno.test("parse() takes the last of a flag given twice", () => {
  assertEquals(valuesWith("--level", "inc").level, "inc");
});

Deno.test("parse() keeps a value that looks like a number as it is", () => {
  assertEquals(valuesWith("--uuid", "007", "--include", "0x10"), {
    socket: "/s",
    level: "full",
    target: "/t",
    uuid: "007",
    include: ["0x10"],
  });
});

Deno.test("parse() leaves out flags that are not given", () => {
  assertEquals(Object.keys(valuesWith()), ["socket", "level", "target"]);
});

const LISTS: [string[], string[]][] = [
  [["-i", "a"], ["a"]],
  [["--include", "a,b"], ["a", "b"]],
  [["-i", "a", "--include", "b,c"], ["a", "b", "c"]],
  [["-i", " a , b ,"], ["a", "b"]],
  [["-i", "#block1,/machine/x[0]"], ["#block1", "/machine/x[0]"]],
];
for (const [words, names] of LISTS) {
  Deno.test(`parse() reads the list ${JSON.stringify(words)}`, () => {
    assertEquals(valuesWith(...words).include, names);
  });
}

for (const value of ["", ",", " , "]) {
  Deno.test(`parse() refuses the list "${value}"`, () => {
    assertRefused([...BACKUP, "--exclude", value], "--exclude needs a value: A,B");
  });
}

for (const [text, count] of [["0", 0], ["50000000", 50000000], ["007", 7]] as const) {
  Deno.test(`parse() reads the number "${text}"`, () => {
    assertEquals(valuesWith("--speed-limit", text)["speed-limit"], count);
    assertEquals(valuesWith("--remove-delay", text)["remove-delay"], count);
  });
}

const SIZES: [text: string, sizeBytes: number][] = [
  ["50M", 50 * 1024 ** 2],
  ["1G", 1024 ** 3],
  ["512k", 512 * 1024],
  ["2T", 2 * 1024 ** 4],
  ["10MiB", 10 * 1024 ** 2],
  ["0M", 0],
];
for (const [text, sizeBytes] of SIZES) {
  Deno.test(`parse() reads the size "${text}"`, () => {
    assertEquals(valuesWith("--speed-limit", text)["speed-limit"], sizeBytes);
    const restore = ["restore", "merge", "--dir", "/d", `--rate-limit=${text}`];
    assertEquals(parse(restore).values["rate-limit"], sizeBytes);
  });
}

const NO_NUMBERS = ["1.5", "1e3", "0x10", "-5", "99999999999999999999", " 5", "NaN"];
for (const text of NO_NUMBERS) {
  Deno.test(`parse() refuses the number "${text}"`, () => {
    assertRefused(
      [...BACKUP, `--timeout=${text}`],
      `--timeout takes a whole number, 0 or more, not "${text}"`,
    );
  });
}

// To some 50MB are 50 000 000 bytes, to others 52 428 800.
for (const text of [...NO_NUMBERS, "M", "50MB", "50X", "50 M", "1.5G", "-1M", "9999999T"]) {
  Deno.test(`parse() refuses the size "${text}"`, () => {
    assertRefused(
      [...BACKUP, `--speed-limit=${text}`],
      `--speed-limit takes a whole number of bytes, 0 or more, such as 50000000, 50M or 1G, not "${text}"`,
    );
  });
}

Deno.test("parse() takes no unit for what is not bytes", () => {
  assertRefused([...BACKUP, "--timeout", "10M"], "--timeout takes a whole number");
});

Deno.test("parse() refuses a negative number, and does not take it for a flag", () => {
  assertRefused([...BACKUP, "--speed-limit", "-5"], "negative number");
});

Deno.test("parse() refuses a number that is empty", () => {
  assertRefused([...BACKUP, "--speed-limit", ""], "--speed-limit needs a value: BYTES");
});

Deno.test("parse() refuses a flag at the end without its value", () => {
  assertRefused([...BACKUP, "--uuid"], "--uuid needs a value: ID");
});

Deno.test("parse() does not take the next flag for a value", () => {
  const argv = ["backup", "--socket", "/s", "--level", "--target", "/t"];
  assertRefused(argv, "--level needs a value: copy, full, inc, diff, auto");
});

Deno.test("parse() refuses an unknown level, with the known ones", () => {
  assertRefused(
    [...BACKUP, "--level", "incremental"],
    '--level is one of copy, full, inc, diff, auto, not "incremental"',
  );
});

const UNKNOWN: [string, string, string][] = [
  ["--levl", "--levl", "--level"],
  ["--levle=full", "--levle", "--level"],
  ["--speed_limit", "--speed_limit", "--speed-limit"],
  ["--no-compress", "--no-compress", "--compress"],
  ["--target.x", "--target.x", "--target"],
  ["--jsn", "--jsn", "--json"],
];
for (const [word, flag, nearest] of UNKNOWN) {
  Deno.test(`parse() refuses ${word} and names ${nearest}`, () => {
    assertRefused([...BACKUP, word], `Unknown flag "${flag}": did you mean "${nearest}"?`);
  });
}

for (const word of ["-x", "--__proto__", "--constructor", "--=x"]) {
  Deno.test(`parse() refuses ${word}`, () => assertRefused([...BACKUP, word], "Unknown flag"));
}

Deno.test("parse() refuses a value for a switch", () => {
  assertRefused([...BACKUP, "--pause=no"], "--pause");
});

Deno.test("parse() takes a switch that is switched off", () => {
  assertEquals("pause" in valuesWith("--pause=false"), false);
});

Deno.test("parse() refuses a flag of another subcommand", () => {
  assertRefused([...BACKUP, "--dir", "/d"], '"backup" takes no --dir');
});

for (const flag of ["socket", "level", "target"]) {
  Deno.test(`parse() refuses a backup without --${flag}`, () => {
    const at = BACKUP.indexOf(`--${flag}`);
    assertRefused(BACKUP.toSpliced(at, 2), `"backup" needs --${flag}`);
  });
}

Deno.test("parse() takes the two words of a note", () => {
  const { values } = parse(["cleanup", "--target", "/t", "--note", "run1", "before the upgrade"]);
  assertEquals(values.note, ["run1", "before the upgrade"]);
  assertEquals(parse(["cleanup", "--note", "run1", ""]).values.note, ["run1", ""]);
  assertRefused(["cleanup", "--note", "run1"], "--note needs two values: RUN TEXT");
});

Deno.test("parse() refuses no subcommand, with all of them", () => {
  assertRefused([], "Name a subcommand: backup, restore merge, restore rebase,");
});

const NO_COMMANDS: [string[], string][] = [
  [["007"], 'Unknown subcommand "007"'],
  [["bakup"], 'Unknown subcommand "bakup": did you mean "backup"'],
  [
    ["restore"],
    "Say which one: restore merge, restore rebase, restore commit, restore snapsh",
  ],
  [["completions"], "Say which one: completions bash, completions zsh, completions fish."],
  [["restore", "marge"], 'Unknown subcommand "restore marge": did you mean "restore merge"'],
  [[...BACKUP, "/t2"], 'Unknown subcommand "backup /t2": did you mean "backup"'],
  [[...BACKUP, "--", "--json"], 'Unknown subcommand "backup --json": did you mean "backup"'],
  [[...BACKUP, "-"], 'Unknown subcommand "backup -": did you mean "backup"'],
];
for (const [argv, message] of NO_COMMANDS) {
  Deno.test(`parse() refuses the words ${JSON.stringify(argv.slice(-2))}`, () => {
    assertRefused(argv, message);
  });
}

for (const flag of ["help", "version"] as const) {
  Deno.test(`parse() takes --${flag} alone`, () => {
    assertEquals(parse([`--${flag}`]), { command: null, values: { [flag]: true } });
  });
}

Deno.test("parse() takes --help of a subcommand without what it needs", () => {
  assertEquals(parse(["backup", "-h"]), { command: "backup", values: { help: true } });
});

const HELPS: [argv: string[], topic: string][] = [
  [["help"], ""],
  [["help", "backup"], "backup"],
  [["help", "restore", "merge"], "restore merge"],
  [["help", "failures"], "failures"],
  [["restore", "--help"], "restore"],
  [["-h", "restore"], "restore"],
  // `qmprestore help`.
  [["restore", "help"], "restore"],
  [["restore", "merge", "help"], "restore merge"],
];
for (const [argv, topic] of HELPS) {
  Deno.test(`parse() finds what ${argv.join(" ")} asks about`, () => {
    const parsed = parse(argv);
    assertEquals([parsed.command, parsed.topic], ["help", topic]);
  });
}

Deno.test("parse() takes a flag of another subcommand for none of help's", () => {
  assertRefused(["help", "backup", "--target", "/t"], '"help" takes no --target');
});

for (const [name, { examples }] of Object.entries(COMMANDS)) {
  for (const { line } of examples) {
    Deno.test(`parse() takes the example: ${line}`, () => {
      // Where a shell sends what is printed is not ours to read.
      const words = [...line.replace(/ >\S+$/, "").matchAll(/"([^"]*)"|(\S+)/g)].map(([, a, b]) =>
        a ?? b ?? ""
      );
      assertEquals(words.shift(), "qmpbackup");
      assertEquals(parse(words).command as string, name);
    });
  }
}

Deno.test("parse() refuses bytes that are no UTF-8, whose place Deno fills with U+FFFD", () => {
  for (const argv of [[...BACKUP, "--include", "a\ufffd"], ["backup", "--target=/t\ufffd"]]) {
    assertRefused(argv, "holds bytes that are not UTF-8");
  }
});

Deno.test("parse() takes any value of a short flag that stands without a space", () => {
  for (const target of ["-_", "-odd", "--help", "a\nb", "a=b"]) {
    assertEquals(
      parse(["backup", "--socket", "/s", "-lfull", `-t${target}`]).values.target,
      target,
    );
  }
});

for (const word of ["--_", "--_=backup", "-_", "-h_", "--no-_"]) {
  Deno.test(`parse() takes ${word} for no list of words`, () => {
    assertThrows(() => parse([word, ...BACKUP]), UsageError);
    assertThrows(() => parse([...BACKUP, word]), UsageError);
  });
}
