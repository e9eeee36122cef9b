/**
 * The completion scripts, made from the table of flags. Pure.
 *
 * Each finds the subcommand among the words before the cursor, since flags may stand before it, and
 * passes over the flags' values. It may have two words: `restore merge`.
 *
 * @module
 */

import {
  type CommandName,
  type Flag,
  type FlagName,
  FLAGS,
  flagsOf,
  GLOBAL_FLAGS,
  helpOfFlag,
  PUBLIC_COMMANDS,
  PUBLIC_FLAGS,
} from "./flags.ts";
import { titleOf, TOPICS } from "./topics.ts";
import { VERSION } from "../version.ts";

/** What can stand after some words of a command line. */
export interface Context {
  /** The subcommand so far: "" at first, "restore", "restore merge". */
  words: string;
  /** The next word of a subcommand, with what it does. */
  next: [word: string, does: string][];
  flags: readonly FlagName[];
  /** Whose flags these are, once that is known. */
  command: CommandName | null;
}

/** All there is to complete. */
export function contexts(): Context[] {
  const complete = PUBLIC_COMMANDS.filter(([words]) => words !== "help").map((
    [words, command],
  ): Context => ({
    words,
    next: [],
    flags: flagsOf(command),
    command: words,
  }));
  const begun = new Map<string, Map<string, string>>([["", new Map()]]);
  for (const [name, { summary }] of PUBLIC_COMMANDS) {
    const [first, second] = name.split(" ") as [string, string?];
    if (second === undefined) {
      begun.get("")?.set(first, summary);
      continue;
    }
    const seconds = begun.get(first) ?? new Map<string, string>();
    begun.set(first, seconds.set(second, summary));
    begun.get("")?.set(first, [...seconds.keys()].join(", "));
  }
  const topics = [...TOPICS.keys()].map((name): [string, string] => [name, titleOf(name)]);
  // After `help` stands what could stand without it, or a topic.
  const started = [...begun].flatMap(([words, next]) =>
    [words, `help ${words}`.trimEnd()].map((words): Context => ({
      words,
      next: words === "help" ? [...next, ...topics] : [...next],
      flags: GLOBAL_FLAGS,
      command: null,
    }))
  );
  return [...started, ...complete];
}

type Value = "none" | "choice" | "file" | "folder" | "text";

function valueOf({ kind, value }: Flag): Value {
  if (kind === "switch") return "none";
  if (kind === "choice") return "choice";
  if (value === "DIR") return "folder";
  return value === "PATH" || value === "FILE" ? "file" : "text";
}

/** "--level", "-l". */
function spellings(name: FlagName): string[] {
  const { short }: Flag = FLAGS[name];
  return [`--${name}`, ...(short ? [`-${short}`] : [])];
}

/** The flags whose value is the next word; those with an implied value take it after a "=" only. */
function takingAWord(): string[] {
  const taking = (flag: Flag) => valueOf(flag) !== "none" && flag.implied === undefined;
  return PUBLIC_FLAGS.filter((name) => taking(FLAGS[name])).flatMap(spellings);
}

function choicesOf(name: FlagName): readonly string[] {
  const { choices = [] }: Flag = FLAGS[name];
  return choices;
}

const HEADER = `# Completions of qmpbackup ${VERSION}, made by \`qmpbackup completions\`.`;

/** The script for bash 4.4 or newer. */
export function bashCompletions(): string {
  // bash makes three words of "--level=full".
  const values = PUBLIC_FLAGS.flatMap((name) => {
    const flag: Flag = FLAGS[name];
    const value = valueOf(flag);
    if (value === "none") return [];
    const after = flag.implied === undefined ? spellings(name) : [];
    const pattern = [...after, `--${name}=`].join(" | ");
    return [`    ${pattern})\n      ${bashValue(name, value)}\n      return\n      ;;`];
  });
  const words = contexts().map(({ words, next, flags }) => {
    const known = flags.map((name) => `--${name}`).join(" ");
    const list = next.map(([word]) => word).join(" ");
    return `    "${words}") flags="${known}" next="${list}" ;;`;
  });
  return `${HEADER}
_qmpbackup() {
  local cur=\${COMP_WORDS[COMP_CWORD]} flag=\${COMP_WORDS[COMP_CWORD - 1]}
  local command="" flags="" next="" i
  if [[ $cur == "=" ]]; then
    cur="" flag=$flag=
  elif [[ $flag == "=" ]]; then
    flag=\${COMP_WORDS[COMP_CWORD - 2]}=
  fi
  COMPREPLY=()
  case $flag in
${values.join("\n")}
  esac
  for ((i = 1; i < COMP_CWORD; i++)); do
    case \${COMP_WORDS[i]} in
      ${takingAWord().join(" | ")})
        [[ \${COMP_WORDS[i + 1]} == "=" ]] && ((i++))
        ((i++))
        ;;
      -*) [[ \${COMP_WORDS[i + 1]} == "=" ]] && ((i += 2)) ;;
      *) command+="\${command:+ }\${COMP_WORDS[i]}" ;;
    esac
  done
  case $command in
${words.join("\n")}
  esac
  if [[ $cur == -* ]]; then next=$flags; fi
  mapfile -t COMPREPLY < <(compgen -W "$next" -- "$cur")
}
complete -F _qmpbackup qmpbackup
`;
}

function bashValue(name: FlagName, value: Value): string {
  if (value === "text") return ":";
  if (value === "choice") {
    return `mapfile -t COMPREPLY < <(compgen -W "${choicesOf(name).join(" ")}" -- "$cur")`;
  }
  const kind = value === "folder" ? "-d" : "-f";
  // Lets readline quote the names and end a folder's with a slash.
  return `compopt -o filenames\n      mapfile -t COMPREPLY < <(compgen ${kind} -- "$cur")`;
}

/** The script for zsh (`_arguments` has a variable `next` of its own), to be found in `fpath` as `_qmpbackup`. */
export function zshCompletions(): string {
  const cases = contexts().map(({ words, next, flags, command }) => {
    const specs = flags.flatMap((name) => zshFlag(name, helpOfFlag(name, command)))
      .map((spec) => `        ${spec}`).join("\n");
    const list = next.map(([word, does]) => `        ${quoted(`${word}:${does}`)}`).join("\n");
    const nextWords = list ? `\n      subcommands=(\n${list}\n      )` : "";
    return `    (${quoted(words)})\n      flags=(\n${specs}\n      )${nextWords}\n      ;;`;
  });
  return `#compdef qmpbackup
${HEADER}
_qmpbackup() {
  local command="" i
  local -a flags subcommands
  for ((i = 2; i < CURRENT; i++)); do
    case $words[i] in
      (${takingAWord().join("|")}) ((i++)) ;;
      (-*) ;;
      (*) command+="\${command:+ }$words[i]" ;;
    esac
  done
  case $command in
${cases.join("\n")}
  esac
  _arguments -S : $flags '*: :{(( $#subcommands )) && _describe -t commands subcommand subcommands}'
}
if [[ $funcstack[1] == _qmpbackup ]]; then
  _qmpbackup "$@"
else
  compdef _qmpbackup qmpbackup
fi
`;
}

/** `_arguments` reads colons and brackets in a flag's text. */
function zshFlag(name: FlagName, does: string): string[] {
  const flag: Flag = FLAGS[name];
  const help = does.replace(/[[\]\\:]/g, "\\$&");
  const action = {
    none: "",
    choice: `:value:(${choicesOf(name).join(" ")})`,
    file: ":file:_files",
    folder: ":folder:_files -/",
    text: `:${(flag.value ?? "").toLowerCase()}: `,
  }[valueOf(flag)];
  const form = (spelling: string) => {
    if (action === "") return spelling;
    if (flag.implied !== undefined) return `${spelling}=-`;
    return spelling.startsWith("--") ? `${spelling}=` : `${spelling}+`;
  };
  const optional = flag.implied === undefined ? "" : ":";
  const isRepeated = flag.kind === "list" || flag.kind === "files" ? "*" : "";
  return spellings(name).map((spelling) =>
    quoted(`${isRepeated}${form(spelling)}[${help}]${action && optional + action}`)
  );
}

/** The script for fish 3.1 or newer. */
export function fishCompletions(): string {
  const lines = contexts().flatMap(({ words, next, flags, command }) => {
    const when = `complete -c qmpbackup -n ${quoted(`__qmpbackup_is "${words}"`)}`;
    return [
      ...next.map(([word, does]) => `${when} -a ${word} -d ${quoted(does)}`),
      ...flags.map((name) => `${when} ${fishFlag(name, helpOfFlag(name, command))}`),
    ];
  });
  return `${HEADER}
function __qmpbackup_is --description "Whether the subcommand on the command line is this one so far"
    set -l words
    set -l isValue 0
    set -l before (commandline -opc)
    set -e before[1]
    for word in $before
        if test $isValue = 1
            set isValue 0
            continue
        end
        switch $word
            case ${takingAWord().join(" ")}
                set isValue 1
            case '-*'
            case '*'
                set words $words $word
        end
    end
    test "$words" = "$argv[1]"
end
complete -c qmpbackup -f
${lines.join("\n")}
`;
}

function fishFlag(name: FlagName, help: string): string {
  const flag: Flag = FLAGS[name];
  const { short = "" } = flag;
  const choices = quoted(choicesOf(name).join(" "));
  const value = {
    none: "",
    choice: flag.implied === undefined ? ` -x -a ${choices}` : ` -a ${choices}`,
    file: " -r -F",
    folder: " -x -a '(__fish_complete_directories)'",
    text: " -x",
  }[valueOf(flag)];
  return `-l ${name}${short && ` -s ${short}`}${value} -d ${quoted(help)}`;
}

/** In quotes, as all three shells read them. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'"'"'`)}'`;
}
