import { assert, assertEquals } from "@std/assert";
import { ensurePrograms } from "../support/install_qemu.ts";
import { mustRun, run } from "../support/run.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { succeed } from "../support/tool.ts";

await ensurePrograms({ bash: "bash", zsh: "zsh", fish: "fish" });

type Shell = "bash" | "zsh" | "fish";
const SHELLS: Shell[] = ["bash", "zsh", "fish"];

/** Runs bash's function as readline would: it makes words at "=", too. */
const BASH = `
source "$1"
shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
_qmpbackup
printf '%s\\n' "\${COMPREPLY[@]}"
`;

/** An interactive zsh on a terminal of its own, into which each line is typed, and a tab; then it is erased. */
const ZSH = `
zmodload zsh/zpty
dir=$1
shift
zpty z zsh -f -i
zpty -w z "PS1= PS2=; fpath=($dir \\$fpath); source $dir/setup.zsh"
zpty -r -m z answer '*READY*'
for line in "$@"; do
  zpty -w -n z "$line"$'\\t'
  zpty -r -m z answer '*DONE*'
  print -r -- "$answer"
  print -r -- "=END="
  zpty -w -n z $'\\C-u'
done
zpty -d z
`;

/** In that zsh: shows what is offered. */
const ZSH_SETUP = `
autoload -U compinit
compinit -D -u
compadd() {
  if [[ "\${@[1,(i)(-|--)]}" == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
  local -a hits
  builtin compadd -A hits "$@"
  local hit
  for hit in $hits; do print -r -- "<$hit>"; done
  builtin compadd "$@"
}
offer() { _main_complete; print DO''NE }
zle -C offer complete-word offer
bindkey '^I' offer
print REA''DY
`;

/** The scripts, each under the name that its shell looks for. */
async function install(dir: TempDir): Promise<void> {
  const names = { bash: "qmpbackup.bash", zsh: "_qmpbackup", fish: "qmpbackup.fish" };
  for (const shell of SHELLS) {
    const { stdout } = await succeed(["completions", shell]);
    await Deno.writeTextFile(dir.join(names[shell]), stdout);
  }
  await Deno.writeTextFile(dir.join("setup.zsh"), ZSH_SETUP);
}

/** What a shell offers at the end of each line. */
async function offered(shell: Shell, dir: TempDir, lines: string[]): Promise<string[][]> {
  if (shell === "bash") return await Promise.all(lines.map((line) => offeredByBash(dir, line)));
  if (shell === "fish") return await Promise.all(lines.map((line) => offeredByFish(dir, line)));
  const args = ["-f", "-c", ZSH, "zsh", dir.path, ...lines];
  const stdout = await mustRun("timeout", ["120", "zsh", ...args]);
  return stdout.split("=END=").slice(0, -1).map((answer) =>
    [...answer.matchAll(/<([^>]*)>/g)].map(([, word = ""]) => word)
  );
}

async function offeredByBash(dir: TempDir, line: string): Promise<string[]> {
  const words = line.split(" ").flatMap((word) => word.split(/(?==)|(?<==)/));
  const args = ["-c", BASH, "bash", dir.join("qmpbackup.bash"), ...words];
  return (await run("bash", args)).stdout.split("\n");
}

async function offeredByFish(dir: TempDir, line: string): Promise<string[]> {
  const args = ["-c", `source $argv[1]; complete -C $argv[2]`, dir.join("qmpbackup.fish"), line];
  const env = { HOME: dir.path, XDG_CONFIG_HOME: dir.path, XDG_DATA_HOME: dir.path };
  const stdout = await mustRun("fish", ["--no-config", ...args], { env });
  return stdout.split("\n").map((row) => row.replace(/\t.*/, ""));
}

/** Without what shells spell each in their own way: folders before a name, `--flag=` before a value. */
function bare(words: string[]): string[] {
  const names = words.map((word) => word.replace(/\/$/, "").replace(/^.*[/=]/, ""));
  return [...new Set(names.filter((word) => word !== ""))].sort();
}

const RESTORES = [
  "attach",
  "commit",
  "files",
  "finish",
  "merge",
  "rebase",
  "rollback",
  "snapshotrebase",
  "test",
  "verify",
  "vm",
];

const CASES: [line: string, ...expected: string[]][] = [
  [
    "qmpbackup ",
    ...["backup", "cleanup", "completions", "help", "info", "list", "manual", "restore", "units"],
    "version",
  ],
  ["qmpbackup re", "restore"],
  // Hidden: not for people.
  ["qmpbackup gu"],
  ["qmpbackup restore ", ...RESTORES],
  ["qmpbackup --socket /x -L y restore re", "rebase"],
  ["qmpbackup --syslog completions ", "bash", "fish", "zsh"],
  ["qmpbackup help ba", "backup"],
  ["qmpbackup help fa", "failures"],
  ["qmpbackup help restore ", ...RESTORES],
  ["qmpbackup --lo", "--logfile"],
  ["qmpbackup cleanup --re", "--recover", "--remove-bitmap"],
  ["qmpbackup backup --re", "--remove-delay"],
  ["qmpbackup backup --level ", "auto", "copy", "diff", "full", "inc"],
  ["qmpbackup backup -l ", "auto", "copy", "diff", "full", "inc"],
  ["qmpbackup --socket=/x backup --level=f", "full"],
  ["qmpbackup backup --quiesce=", "require", "try"],
  // Without "=" it has no value.
  ["qmpbackup backup --quiesce --agent-s", "--agent-socket"],
  ["qmpbackup --quiesce=try ba", "backup"],
  ["qmpbackup backup --speed-limit "],
  ["qmpbackup backup --target FILES/", "afolder"],
  ["qmpbackup backup --target=FILES/", "afolder"],
  ["qmpbackup backup --before FILES/", "afile", "afolder"],
  ["qmpbackup backup -L FILES/af", "afile", "afolder"],
];

for (const shell of SHELLS) {
  Deno.test(`completions of a real ${shell}`, async (t) => {
    await using dir = await tempDir();
    await install(dir);
    await Deno.mkdir(dir.join("files/afolder"), { recursive: true });
    await Deno.writeTextFile(dir.join("files/afile"), "");
    const lines = CASES.map(([line]) => line.replace("FILES", dir.join("files")));
    const answers = await offered(shell, dir, lines);
    assertEquals(answers.length, lines.length);
    for (const [index, [line, ...expected]] of CASES.entries()) {
      await t.step(line, () => assertEquals(bare(answers[index] ?? []), expected));
    }
  });

  Deno.test(`completions are what ${shell} can read`, async () => {
    const { stdout } = await succeed(["completions", shell]);
    const { code, stderr } = await run(shell, ["-n"], { stdin: stdout });
    assertEquals([code, stderr], [0, ""]);
  });
}

Deno.test("completions of fish tell each flag's help", async () => {
  await using dir = await tempDir();
  await install(dir);
  const stdout = await mustRun("fish", [
    "--no-config",
    "-c",
    `source $argv[1]; complete -C "qmpbackup cleanup --agent-s"`,
    dir.join("qmpbackup.fish"),
  ]);
  assert(stdout.startsWith("--agent-socket\tthe guest agent's socket, to thaw a guest"), stdout);
});
