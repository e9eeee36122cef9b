/**
 * The help texts, made from the table of flags. Pure.
 *
 * @module
 */

import { EXIT_CODES } from "../../errors.ts";
import {
  type Command,
  type CommandName,
  COMMANDS,
  type Flag,
  type FlagName,
  FLAGS,
  GLOBAL_FLAGS,
  GROUPS,
  helpOfFlag,
  PUBLIC_COMMANDS,
} from "./flags.ts";
import { titleOf, TOPICS } from "./topics.ts";

const WIDTH = 100;
const INDENT = 28;

/** The text of `qmpbackup --help`. */
export function programHelp(): string {
  return [
    "qmpbackup: live backups of QEMU virtual machines, as plain qcow2 files",
    "",
    "Usage: qmpbackup SUBCOMMAND [FLAGS]",
    "",
    "Subcommands:",
    ...PUBLIC_COMMANDS.map(([name]) => summaryLine(name)),
    "",
    "Topics:",
    ...[...TOPICS.keys()].map((name) => `  ${name.padEnd(INDENT - 2)}${titleOf(name)}`),
    "",
    ...globalFlags(),
    "",
    ...exitCodes(),
    "",
    "qmpbackup help SUBCOMMAND, or TOPIC, says more.",
    "",
  ].join("\n");
}

/** The text of `qmpbackup restore --help`: all subcommands that begin with this word. */
export function groupHelp(first: string): string {
  const names = GROUPS.get(first) ?? [];
  return [
    `Usage: qmpbackup ${first} SUBCOMMAND [FLAGS]`,
    "",
    "Subcommands:",
    ...names.map(summaryLine),
    "",
    ...globalFlags(),
    "",
    "Examples:",
    ...names.flatMap((name) => exampleLines(COMMANDS[name])),
    "",
    ...exitCodes(),
    "",
    `qmpbackup help ${names[0]} says more, as for the others.`,
    "",
  ].join("\n");
}

function summaryLine(name: CommandName): string {
  return `  ${name.padEnd(INDENT - 2)}${COMMANDS[name].summary}`;
}

function globalFlags(): string[] {
  return ["Flags of every subcommand:", ...GLOBAL_FLAGS.map((name) => flagLines(name, null))];
}

function exampleLines({ examples }: Command): string[] {
  return examples.flatMap(({ does, line }) => [`  # ${does}`, `  ${line}`]);
}

/** The text of `qmpbackup SUBCOMMAND --help`. */
export function commandHelp(name: CommandName): string {
  const command: Command = COMMANDS[name];
  const { summary, required, optional } = command;
  const lines = (flag: FlagName) => flagLines(flag, name);
  return [
    `qmpbackup ${name}: ${summary}`,
    "",
    `Usage: ${usageOf(name)}`,
    "",
    ...(required.length > 0 ? ["Needed:", ...required.map(lines), ""] : []),
    "Flags:",
    ...[...optional, ...GLOBAL_FLAGS].map(lines),
    "",
    "Examples:",
    ...exampleLines(command),
    "",
    ...exitCodes(),
    "",
  ].join("\n");
}

/** "qmpbackup restore merge --dir DIR [FLAGS]". */
export function usageOf(name: CommandName): string {
  const { required }: Command = COMMANDS[name];
  const words = name === "help" ? ["[SUBCOMMAND | TOPIC]"] : [];
  return ["qmpbackup", name, ...words, ...required.map(usage), "[FLAGS]"].join(" ");
}

function exitCodes(): string[] {
  return [
    "Exit codes:",
    ...Object.entries(EXIT_CODES).map(([code, meaning]) => `  ${code.padEnd(6)}${meaning}`),
  ];
}

/** "--target DIR". */
export function usage(name: FlagName): string {
  const value = valueName(FLAGS[name]);
  return value ? `--${name} ${value}` : `--${name}`;
}

function valueName({ value, choices }: Flag): string {
  return value ?? (choices ? `{${choices.join(",")}}` : "");
}

function flagLines(name: FlagName, command: CommandName | null): string {
  const flag: Flag = FLAGS[name];
  const left = `  ${flag.short ? `-${flag.short}, ` : "    "}${usage(name)}`;
  const [first = "", ...rest] = wrap(helpOfFlag(name, command), WIDTH - INDENT);
  const head = left.length < INDENT - 1
    ? [left.padEnd(INDENT) + first]
    : [left, " ".repeat(INDENT) + first];
  return [...head, ...rest.map((line) => " ".repeat(INDENT) + line)].join("\n");
}

/** Breaks a text into lines at spaces. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line !== "" && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
