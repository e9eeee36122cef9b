/**
 * The manual page, made from the table of flags. Pure.
 *
 * Source: man(7), of groff and of mandoc.
 *
 * @module
 */

import { EXIT_CODES } from "../../errors.ts";
import {
  type Command,
  type Flag,
  type FlagName,
  FLAGS,
  flagsOf,
  helpOfFlag,
  PUBLIC_COMMANDS,
  PUBLIC_FLAGS,
} from "./flags.ts";
import { usage, usageOf, wrap } from "./help.ts";
import { VERSION } from "../version.ts";

/** man(7) wants a date: that of the last change of this page's own words. */
const DATE = "2026-11-23";
/** What mandoc's lint takes for a line that people can still edit. */
const WIDTH = 80;

const DESCRIPTION = [
  "qmpbackup backs up the disks of a running QEMU virtual machine, full and incremental, all at one " +
  "moment, while the guest goes on writing. The backups are plain qcow2 files, each increment linked " +
  "to the one it builds on: qemu-img convert restores the newest without this program.",
  "A backup that fails or is killed costs nothing: the next increment holds everything, and the next " +
  "run cleans up what it left in QEMU.",
];

const FILES: [path: string, what: string][] = [
  ["DIR/uuid", "the chain's id"],
  ["DIR/DISK/{FULL,INC,COPY}-TIME-NAME", "the images of a disk, named by level and unix time"],
  ["DIR/_qmpbackup/runs/RUN.json", "the record of each run; a backup counts when it says so"],
  ["/etc/qmpbackup/VM.env", "what the systemd unit qmpbackup@VM backs up, and how"],
];

/** The page in roff, for section 1. */
export function manualPage(): string {
  return [
    `.TH QMPBACKUP 1 "${DATE}" "qmpbackup ${VERSION}" "User Commands"`,
    ".SH NAME",
    "qmpbackup \\- live backups of QEMU virtual machines, as plain qcow2 files",
    ".SH SYNOPSIS",
    ".B qmpbackup",
    ".I SUBCOMMAND",
    ".RI [ FLAGS ]",
    ".SH DESCRIPTION",
    ...DESCRIPTION.flatMap((text, index) => [...(index === 0 ? [] : [".PP"]), ...lines(text)]),
    ".SH SUBCOMMANDS",
    ...PUBLIC_COMMANDS.flatMap(([name, command]) => [
      ".TP",
      `.B ${escaped(usageOf(name))}`,
      ...about(command),
    ]),
    ".SH FLAGS",
    ...PUBLIC_FLAGS.flatMap((name) => [
      ".TP",
      `.B ${escaped(spelled(name))}`,
      ...lines(FLAGS[name].help),
      ...elsewhere(name),
    ]),
    ".SH EXIT STATUS",
    ...Object.entries(EXIT_CODES).flatMap(([code, meaning]) => [
      ".TP",
      `.B ${code}`,
      ...lines(meaning),
    ]),
    ".SH FILES",
    ...FILES.flatMap(([path, what]) => [".TP", `.I ${escaped(path)}`, ...lines(what)]),
    ".SH EXAMPLES",
    ...PUBLIC_COMMANDS.flatMap(([, { examples }]) => examples).flatMap(({ does, line }) => [
      ".TP",
      `${escaped(does)}:`,
      ".nf",
      escaped(line),
      ".fi",
    ]),
    ".SH SEE ALSO",
    ".BR qemu\\-img (1),",
    ".BR systemd.timer (5)",
    "",
  ].join("\n");
}

/** What a subcommand does, and the flags that it takes besides those it needs and those that all take. */
function about({ summary, optional }: Command): string[] {
  const flags = optional.map((name) => `--${name}`).join(", ");
  return [
    `${escaped(summary)}.`,
    ...(flags === "" ? [] : [".br", ...lines(`Takes ${flags}.`)]),
  ];
}

/** What a flag does in the subcommands where it does something else, each as a line of its own. */
function elsewhere(name: FlagName): string[] {
  const texts = Map.groupBy(
    PUBLIC_COMMANDS.filter(([command]) => helpOfFlag(name, command) !== FLAGS[name].help),
    ([command]) => helpOfFlag(name, command),
  );
  const takes = [...texts].map(([text, commands]): [string, string[]] => [
    text,
    commands.filter(([, command]) => flagsOf(command).includes(name)).map(([command]) => command),
  ]);
  return takes.flatMap(([text, commands]) => [
    ".br",
    ...lines(`With ${commands.join(", ")}: ${text}`),
  ]);
}

function spelled(name: FlagName): string {
  const { short }: Flag = FLAGS[name];
  return short ? `-${short}, ${usage(name)}` : usage(name);
}

/** A text as lines of roff: each sentence starts one. */
function lines(text: string): string[] {
  return text.split(/(?<=[.:] )(?=[A-Za-z])/).flatMap((sentence) =>
    wrap(escaped(sentence.trim()), WIDTH).map((line) => line.replace(/^[.']/, "\\&$&"))
  );
}

/** Text as roff: its own characters escaped, hyphens and quotes as they are typed. */
function escaped(text: string): string {
  return text.replaceAll("\\", "\\e").replaceAll("-", "\\-").replaceAll("'", "\\(aq")
    .replaceAll("`", "\\(ga").replaceAll("~", "\\(ti").replaceAll("^", "\\(ha")
    .replaceAll('"', "\\(dq");
}
