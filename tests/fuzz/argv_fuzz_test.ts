import { assert, assertEquals, assertNotMatch } from "@std/assert";
import { run } from "../../src/app.ts";
import { formatRecord } from "../../src/repo/record.ts";
import { type Command, COMMANDS, type Flag, FLAGS } from "../../src/cli/args/flags.ts";
import { parse, type Parsed } from "../../src/cli/args/parse.ts";
import { UsageError } from "../../src/errors.ts";
import { tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun, fakeIo } from "../unit/_fixtures.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { mutateText, word } from "./_nonsense.ts";

const FLAG_ENTRIES: [string, Flag][] = Object.entries(FLAGS);
const COMMAND_ENTRIES: [string, Command][] = Object.entries(COMMANDS);
const FLAG_WORDS = FLAG_ENTRIES.flatMap(([name, { short, aliases = [] }]) =>
  [name, ...aliases].map((long) => `--${long}`).concat(short ? [`-${short}`] : [])
);
const ODD_WORDS = [
  ...["-", "--", "---", "--=", "-=", "-l=", "--no-", "--__proto__", "--__proto__.polluted=1", "-1"],
  ...[
    "--constructor.prototype.polluted=1",
    "--level.polluted=1",
    "--socket.length",
    "-lfull",
    "-hh",
  ],
  ...[
    "--quiesce",
    "--quiesce=require",
    "--json",
    "--json=",
    "--json=false",
    "--help",
    "full",
    "5",
    "--_",
    "-h_",
  ],
];
const VERY_LONG = [
  "x".repeat(20_000),
  "--" + "x".repeat(20_000),
  `--include=${",".repeat(20_000)}`,
];

/** A command line that may be almost right. */
function anyArgv(dice: Dice): string[] {
  const part = (): string[] => {
    switch (dice.below(8)) {
      case 0:
        return [dice.once(1000) ? dice.pick(VERY_LONG) : word(dice)];
      case 1:
        return [dice.pick(ODD_WORDS)];
      case 2:
        return [mutateText(dice, dice.pick(FLAG_WORDS))];
      case 3:
        return [dice.pick(FLAG_WORDS) + dice.pick(["=", ""]) + dice.pick(["-_", word(dice)])];
      default: {
        const [name, flag] = dice.pick(FLAG_ENTRIES);
        return flag.kind === "switch" ? [`--${name}`] : [`--${name}`, valueFor(dice, flag)];
      }
    }
  };
  const start = dice.once(4) ? [] : dice.pick(COMMAND_ENTRIES)[0].split(" ");
  const rest = dice.some(4, part).flat();
  return dice.once(8) ? [...rest, ...start] : [...start, ...rest];
}

/** A value that a flag takes, mostly. */
function valueFor(dice: Dice, flag: Flag): string {
  if (dice.once(10)) return word(dice);
  if (flag.kind === "size") return dice.below(1000) + dice.pick(["", "K", "m", "GiB", "T"]);
  if (flag.kind === "count") return String(dice.below(1000));
  return flag.choices ? dice.pick(flag.choices) : dice.pick(["a", "a,b", "/nowhere/x"]);
}

const KINDS: Record<Flag["kind"], (value: unknown, flag: Flag) => boolean> = {
  switch: (value) => value === true,
  text: (value) => typeof value === "string" && value !== "",
  size: (value) => Number.isSafeInteger(value) && Number(value) >= 0,
  count: (value) => Number.isSafeInteger(value) && Number(value) >= 0,
  choice: (value, { choices = [] }) => choices.some((choice) => choice === value),
  pair: (value) =>
    Array.isArray(value) && value.length === 2 && value[0] !== "" &&
    value.every((item) => typeof item === "string"),
  files: (value) => Array.isArray(value) && value.length > 0 && !value.includes(""),
  list: (value) =>
    Array.isArray(value) && value.length > 0 &&
    value.every((item) => typeof item === "string" && item.trim() === item && item !== ""),
};

fuzz("run() ends what parse() refuses with 2, and the rest is what the flags say", dice, (seed) => {
  const argv = anyArgv(new Dice(seed));
  const parsed = mayThrow(UsageError, () => parse(argv));
  assertEquals(Reflect.get({}, "polluted"), undefined);
  return parsed ? checkParsed(parsed) : checkRefused(argv);
});

function checkParsed({ command, values }: Parsed) {
  for (const [name, value] of Object.entries(values)) {
    const flag = new Map(FLAG_ENTRIES).get(name);
    assert(flag && KINDS[flag.kind](value, flag), `${name}: ${value}`);
  }
  if (values.help || values.version) return;
  assert(command !== null);
  for (const name of COMMANDS[command].required) assert(values[name] !== undefined, name);
}

/** Nagios is told with 3 that nothing is known. */
async function checkRefused(argv: string[]) {
  assertEquals(await exitCodeOf(argv), argv.includes("--nagios") ? 3 : 2);
}

fuzz("parse() takes any value as it is", dice, (seed) => {
  const dice = new Dice(seed);
  // What was no UTF-8 is refused.
  const [dir = "", until = ""] = [word(dice), mutateText(dice, word(dice))]
    .map((text) => text.replaceAll("\ufffd", "?") || "x");
  const flags = [`--dir=${dir}`, `--until=${until}`];
  const argv = dice.once(2) ? ["restore", "merge", ...flags] : [...flags, "restore", "merge"];
  assertEquals(parse(argv).values, { dir, until });
});

/** Runs the program, and looks at how it ends. */
async function exitCodeOf(argv: string[]): Promise<number> {
  const io = fakeIo();
  const exitCode = await run(argv, io, new AbortController().signal);
  assertNotMatch(io.err, /bug of qmpbackup/);
  assertNotMatch(io.out + io.err, /(?!\n)\p{Cc}/u);
  if (!argv.includes("--json") || argv.includes("--nagios")) return exitCode;
  const lines = io.out.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  const last = lines.at(-1);
  assertEquals(last?.message_type, exitCode === 2 ? "error" : last?.message_type);
  if (last?.message_type === "error") assertEquals(last.exit_code, exitCode);
  else assertEquals(last?.message_type, "summary");
  return exitCode;
}

const dir = await tempDir();
// The tests begin when this file has ended.
addEventListener("unload", () => Deno.removeSync(dir.path, { recursive: true }));
const run1 = aRun([aDiskRecord()]);
for (
  const folder of ["empty", "records/_qmpbackup/runs", "records/disk0", "broken/_qmpbackup/runs"]
) {
  await Deno.mkdir(dir.join(folder), { recursive: true });
}
await Deno.writeTextFile(dir.join("records/_qmpbackup/runs/r.json"), formatRecord(run1));
await Deno.writeTextFile(dir.join("broken/_qmpbackup/runs/r.json"), "{");
await Deno.writeTextFile(dir.join("file"), "");
const PATHS = [
  "empty",
  "records",
  "records/disk0",
  "broken",
  "file",
  "file/below",
  "new",
  "x".repeat(300),
]
  .map((path) => dir.join(path));

/** A command line that is right, as far as it can be told without looking. */
function rightArgv(dice: Dice): string[] {
  const [name, { required, optional }] = dice.pick(
    COMMAND_ENTRIES.filter(([, { hidden }]) => !hidden),
  );
  const flags = [...required, ...optional.filter(() => dice.once(4))].flatMap((flagName) => {
    const flag: Flag = FLAGS[flagName];
    if (flag.kind === "switch") return [`--${flagName}`];
    return [`--${flagName}=${flag.kind === "text" ? dice.pick(PATHS) : valueFor(dice, flag)}`];
  });
  return [...name.split(" "), ...flags, ...(dice.once(2) ? ["--json"] : [])];
}

fuzz("run() ends whatever it is told with an exit code of its table", dice, async (seed) => {
  const exitCode = await exitCodeOf(rightArgv(new Dice(seed)));
  // 3: to Nagios, and with --strict.
  assert([0, 1, 2, 3].includes(exitCode), String(exitCode));
}, { inputs: 3000, permissions: "inherit" });
