/**
 * The help texts, made from the table of flags. Pure.
 *
 * @module
 */

import { EXIT_CODES } from "../errors.ts";
import {
  type Command,
  type CommandName,
  COMMANDS,
  type Flag,
  type FlagName,
  FLAGS,
  GLOBAL_FLAGS,
  PUBLIC_COMMANDS,
} from "./flags.ts";

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
    ...PUBLIC_COMMANDS.map(([name, { summary }]) => `  ${name.padEnd(INDENT - 2)}${summary}`),
    "",
    "Flags of every subcommand:",
    ...GLOBAL_FLAGS.map(flagHelp),
    "",
    ...exitCodes(),
    "",
    "qmpbackup SUBCOMMAND --help says more.",
    "",
  ].join("\n");
}

/** The text of `qmpbackup SUBCOMMAND --help`. */
export function commandHelp(name: CommandName): string {
  const { summary, required, optional, examples }: Command = COMMANDS[name];
  return [
    `qmpbackup ${name}: ${summary}`,
    "",
    `Usage: ${usageOf(name)}`,
    "",
    ...(required.length > 0 ? ["Needed:", ...required.map(flagHelp), ""] : []),
    "Flags:",
    ...[...optional, ...GLOBAL_FLAGS].map(flagHelp),
    "",
    "Examples:",
    ...examples.flatMap(({ does, line }) => [`  # ${does}`, `  ${line}`]),
    "",
    ...exitCodes(),
    "",
  ].join("\n");
}

/** "qmpbackup info --show {blockdev,bitmaps,backups} [FLAGS]". */
export function usageOf(name: CommandName): string {
  const { required }: Command = COMMANDS[name];
  return ["qmpbackup", name, ...required.map(usage), "[FLAGS]"].join(" ");
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

function flagHelp(name: FlagName): string {
  const flag: Flag = FLAGS[name];
  const left = `  ${flag.short ? `-${flag.short}, ` : "    "}${usage(name)}`;
  const [first = "", ...rest] = wrap(flag.help, WIDTH - INDENT);
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
