/**
 * From argv to a subcommand and its flags' values. Pure.
 *
 * @module
 */

import { parseArgs } from "@std/cli/parse-args";
import { closestString } from "@std/text/closest-string";
import { UsageError } from "../../errors.ts";
import {
  type Command,
  type CommandName,
  COMMANDS,
  type Flag,
  type FlagName,
  FLAGS,
  GLOBAL_FLAGS,
  GROUPS,
  PUBLIC_COMMANDS,
} from "./flags.ts";

type Spec = typeof FLAGS;
type ValueOf<F> = F extends { kind: "switch" } ? boolean
  : F extends { kind: "list" | "files" } ? string[]
  : F extends { kind: "pair" } ? [string, string]
  : F extends { kind: "count" | "size" } ? number
  : F extends { kind: "choice"; choices: readonly (infer Choice)[] } ? Choice
  : string;

/** What was given, by flag. */
export type Values = { [Name in FlagName]?: ValueOf<Spec[Name]> };

export interface Parsed {
  /** Null where only `--help` or `--version` was asked for. */
  command: CommandName | null;
  values: Values;
  /** What help is asked for: the words after `help`, or the first word of several subcommands before `--help`. */
  topic?: string;
}

const flagEntries = Object.entries(FLAGS) as [FlagName, Flag][];

/**
 * Parses a command line.
 *
 * @throws {UsageError} If it is wrong; the message names what is nearest to it.
 */
export function parse(argv: readonly string[]): Parsed {
  refuseUnreadable(argv);
  const given = parseArgs(joined(joinPairs(argv)).flatMap(spellOut), {
    boolean: namesOf((flag) => flag.kind === "switch"),
    string: ["_", ...namesOf((flag) => flag.kind !== "switch")],
    collect: namesOf((flag) => flag.kind === "list" || flag.kind === "files"),
    alias: Object.fromEntries(
      flagEntries.map(([name, flag]) => [name, otherNames(flag)]),
    ),
    unknown: refuseUnknown,
  });
  const values: Record<string, unknown> = {};
  for (const [name, flag] of flagEntries) {
    const raw = given[name];
    const isAbsent = raw === undefined || raw === false || Array.isArray(raw) && raw.length === 0;
    if (isAbsent) continue;
    values[name] = valueOf(name, flag, raw);
  }
  const words = given._.map(String);
  const topic = topicOf(words, values as Values);
  if (topic !== null) {
    checkFlags("help", values as Values);
    return { command: "help", values: values as Values, topic };
  }
  const command = commandOf(words, values as Values);
  if (command) checkFlags(command, values as Values);
  return { command, values: values as Values };
}

/** What help is asked for in words: `help`, `help restore merge`, `restore --help`, `restore help`. */
function topicOf(words: string[], { help }: Values): string | null {
  const [first, ...rest] = words;
  if (first === "help") return rest.join(" ");
  if (rest.at(-1) === "help") return words.slice(0, -1).join(" ");
  return help && first !== undefined && rest.length === 0 && GROUPS.has(first) ? first : null;
}

/** What is not UTF-8 comes with its bytes replaced: it would name another file. */
function refuseUnreadable(argv: readonly string[]) {
  const word = argv.find((word) => word.includes("\ufffd"));
  if (word === undefined) return;
  throw new UsageError(
    `"${word}" holds bytes that are not UTF-8: name it through a link or a mount`,
  );
}

/** Makes `--list=/etc` of `--list /etc`: the value of such a flag may be left out, but no subcommand is a path. */
function joined(argv: readonly string[]): string[] {
  const isOpen = (word: string | undefined) =>
    flagEntries.some(([name, { kind, implied }]) =>
      kind === "text" && implied !== undefined && word === `--${name}`
    );
  return argv.flatMap((word, i) => {
    const next = argv[i + 1];
    if (isOpen(word) && next?.startsWith("/")) return [`${word}=${next}`];
    return word.startsWith("/") && isOpen(argv[i - 1]) ? [] : [word];
  });
}

/** What stands between the two words of a pair, once they are one. */
const BETWEEN = "\0";

/** Makes one word of a flag and the two that are its value. */
function joinPairs(argv: readonly string[]): string[] {
  const pairs = namesOf(({ kind }) => kind === "pair").map((name) => `--${name}`);
  const words: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const word = argv[at] as string;
    const [first, second] = argv.slice(at + 1);
    if (!pairs.includes(word) || first === undefined || second === undefined) {
      words.push(word);
      continue;
    }
    words.push(`${word}=${first}${BETWEEN}${second}`);
    at += 2;
  }
  return words;
}

/** Makes `--level=full` of `-lfull`, and refuses `--pause=no`, which would mean yes. */
function spellOut(word: string): string[] {
  const [, short, rest = ""] = /^-([a-z])([^=].*)$/s.exec(word) ?? [];
  const flag = flagEntries.find(([, flag]) => short && flag.short === short);
  // A value may begin with "-", but not in a word of its own.
  if (flag && flag[1].kind !== "switch") return [`--${flag[0]}=${rest}`];
  // No flag has one; `--_` would take the place of the parser's own list of words.
  if (/^-[^=]*_/.test(word)) refuseUnknown(word, word.replace(/^-+|=.*$/gs, ""));
  const implied = flagEntries.find(([name, { implied }]) => implied && word === `--${name}`);
  if (implied) return [`${word}=${implied[1].implied}`];
  const [, name = "", value = ""] = /^--([\w-]+)=(.*)$/s.exec(word) ?? [];
  const isSwitch = flagEntries.some(([known, { kind, aliases = [] }]) =>
    kind === "switch" && [known, ...aliases].includes(name)
  );
  if (isSwitch && !["true", "false"].includes(value)) {
    throw new UsageError(`--${name} takes no value`);
  }
  return [word];
}

function namesOf(isWanted: (flag: Flag) => boolean): string[] {
  return flagEntries.filter(([, flag]) => isWanted(flag)).flatMap(([name]) => name);
}

function otherNames({ short, aliases = [] }: Flag): string[] {
  return [...(short ? [short] : []), ...aliases];
}

function refuseUnknown(arg: string, key?: string) {
  // Other words are looked at later, as the subcommand.
  if (key === undefined || !arg.startsWith("-") || arg === "-") return true;
  if (/^-\d/.test(arg)) throw new UsageError(`"${arg}": no flag takes a negative number`);
  const names = flagEntries.flatMap(([name, flag]) => [name, ...(flag.aliases ?? [])]);
  const flag = arg.replace(/=.*$/s, "");
  throw new UsageError(`Unknown flag "${flag}": did you mean "--${closestString(key, names)}"?`);
}

function valueOf(name: FlagName, flag: Flag, raw: unknown): unknown {
  if (flag.kind === "switch") return true;
  if (flag.kind === "files") {
    const paths = (Array.isArray(raw) ? raw : [raw]).map(String);
    if (paths.includes("")) throw new UsageError(`--${name} needs a value: ${flag.value}`);
    return paths;
  }
  if (flag.kind === "list") {
    const items = (Array.isArray(raw) ? raw : [raw]).flatMap((text) => String(text).split(","));
    const names = items.map((item) => item.trim()).filter((item) => item !== "");
    if (names.length === 0) throw new UsageError(`--${name} needs a value: ${flag.value}`);
    return names;
  }
  const text = String(Array.isArray(raw) ? raw.at(-1) : raw);
  if (text === "") {
    throw new UsageError(`--${name} needs a value: ${flag.value ?? flag.choices?.join(", ")}`);
  }
  if (flag.kind === "choice" && !flag.choices?.includes(text)) {
    throw new UsageError(`--${name} is one of ${flag.choices?.join(", ")}, not "${text}"`);
  }
  if (flag.kind === "pair") return pairOf(name, flag, text);
  if (flag.kind === "count") return countOf(name, text);
  if (flag.kind === "size") return sizeOf(name, text);
  return text;
}

function pairOf(name: FlagName, { value }: Flag, text: string): [string, string] {
  const [first, second] = text.split(BETWEEN);
  if (first && second !== undefined) return [first, second];
  throw new UsageError(`--${name} needs two values: ${value}`);
}

function countOf(name: FlagName, text: string): number {
  const count = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(count)) {
    throw new UsageError(`--${name} takes a whole number, 0 or more, not "${text}"`);
  }
  return count;
}

/** Each a power of 1024, as in `qemu-img` and `dd`. */
const UNITS = ["", "K", "M", "G", "T"];

/** Reads "50000000", "50M", "50m" and "50MiB"; not "50MB", which is 50 000 000 to some. */
function sizeOf(name: FlagName, text: string): number {
  const [, digits, unit = ""] = /^(\d+)(?:([KMGT])(?:iB)?)?$/i.exec(text) ?? [];
  const sizeBytes = Number(digits) * 1024 ** UNITS.indexOf(unit.toUpperCase());
  if (digits === undefined || !Number.isSafeInteger(sizeBytes)) {
    throw new UsageError(
      `--${name} takes a whole number of bytes, 0 or more, such as 50000000, 50M or 1G, not "${text}"`,
    );
  }
  return sizeBytes;
}

function commandOf(words: string[], values: Values): CommandName | null {
  const name = words.join(" ");
  if (name === "" && (values.help || values.version)) return null;
  const commands = Object.entries(COMMANDS) as [CommandName, Command][];
  const names = PUBLIC_COMMANDS.map(([known]) => known);
  const command = commands.find(([known]) => known === name)?.[0];
  if (command) return command;
  if (name === "") {
    throw new UsageError(`Name a subcommand: ${names.join(", ")}. "qmpbackup help" says more`);
  }
  const ways = GROUPS.get(name);
  if (ways !== undefined) {
    throw new UsageError(`Say which one: ${ways.join(", ")}. "qmpbackup help ${name}" says more`);
  }
  throw new UsageError(
    `Unknown subcommand "${name}": did you mean "${closestString(name, names)}"?`,
  );
}

function checkFlags(name: CommandName, values: Values) {
  const command: Command = COMMANDS[name];
  const known: readonly string[] = [...GLOBAL_FLAGS, ...command.required, ...command.optional];
  for (const flag of Object.keys(values)) {
    if (!known.includes(flag)) throw new UsageError(`"${name}" takes no --${flag}`);
  }
  if (values.help || values.version) return;
  for (const flag of command.required) {
    if (values[flag] === undefined) throw new UsageError(`"${name}" needs --${flag}`);
  }
}
