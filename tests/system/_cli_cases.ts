/**
 * What the tool is seen to do from outside, whatever shape it is in.
 *
 * @module
 */

import {
  assert,
  assertEquals,
  assertMatch,
  assertNotMatch,
  assertStringIncludes,
} from "@std/assert";
import { formatRecord } from "../../src/repo/record.ts";
import { EXIT_CODES } from "../../src/errors.ts";
import { tempDir } from "../support/temp_dir.ts";
import { answer, greet } from "../support/fake_qmp.ts";
import { contentsOf, firstDifference, inParallel, KIB, makeLayer, names } from "./_images.ts";
import { serve, within } from "../support/fake_peer.ts";
import type { Program } from "../support/program.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";

const CHILD_MS = 60_000;

interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

async function output(command: Deno.Command | Deno.ChildProcess): Promise<Result> {
  const { code, stdout, stderr } = await within(CHILD_MS, command.output());
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, stdout: text(stdout), stderr: text(stderr) };
}

/** The tool, as a command that can be started. */
function command(
  program: Program,
  args: string[],
  env: Record<string, string> = {},
  cwd?: string,
): Deno.Command {
  const [first, ...rest] = program.argv(args, cwd);
  return new Deno.Command(first, {
    args: rest,
    env,
    ...(cwd ? { cwd } : {}),
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

type Run = (args: string[], env?: Record<string, string>, cwd?: string) => Promise<Result>;

/** One thing to be seen. */
interface Case {
  name: string;
  run(qmpbackup: Run, program: Program, t: Deno.TestContext): Promise<void>;
}

const CASES: Case[] = [];

function cli(name: string, run: Case["run"]) {
  CASES.push({ name, run });
}

/** Runs all cases on a program, as steps of a test. */
export async function cliCases(program: Program, t: Deno.TestContext): Promise<void> {
  const qmpbackup: Run = (args, env, cwd) => output(command(program, args, env, cwd));
  for (const { name, run } of CASES) await t.step(name, (t) => run(qmpbackup, program, t));
}

/** One sentence for people, and no trace of our insides. */
function assertSentence({ stdout, stderr }: Result) {
  assertEquals(stdout, "");
  assertMatch(stderr, /^Error: [^\n]+\n$/);
  assertNotMatch(stderr, /\n\s+at |bug of qmpbackup|undefined|\[object/);
}

/** Command lines that are wrong in themselves, by the words that say what is. */
const WRONG: [words: string, ...args: string[]][] = [
  ["Name a subcommand: backup, restore merge, restore rebase,"],
  ['Unknown subcommand "bakcup": did you mean "backup"', "bakcup"],
  ["Say which one: restore merge, restore rebase,", "restore"],
  ['There is no help on "failurs"', "help", "failurs"],
  ['Unknown subcommand "info now"', "info", "now"],
  ['Unknown flag "--sokcet": did you mean "--socket"', "info", "--sokcet", "/run/vm"],
  ['Unknown flag "--tagret": did you mean "--target"', "backup", "--tagret=/b"],
  ['Unknown flag "-x"', "info", "-x"],
  ['"info" takes no --level', "info", "--show", "blockdev", "--socket", "q", "-l", "full"],
  ['"backup" needs --socket', "backup", "-l", "full", "-t", "b"],
  ['"backup" needs --level', "backup", "--socket", "q", "-t", "b"],
  ['"backup" needs --target', "backup", "--socket", "q", "-l", "full"],
  ["--socket needs a value: PATH", "info", "--show", "blockdev", "--socket"],
  ["--socket needs a value: PATH", "backup", "--socket", "-l", "full", "-t", "b"],
  ["--target needs a value: DIR", "backup", "--socket", "q", "-l", "full", "--target="],
  ["--include needs a value: A,B", ...backup("-i", ",")],
  [
    "--level is one of copy, full, inc, diff, auto",
    "backup",
    "--socket",
    "q",
    "-t",
    "b",
    "-l",
    "half",
  ],
  ["--include and --exclude don't go together", ...backup("-i", "a", "-e", "b")],
  ['or 1G, not "-5"', ...backup("--speed-limit=-5")],
  ['"-5"', ...backup("--speed-limit", "-5")],
  ["--speed-limit takes a whole number of bytes, 0 or more", ...backup("--speed-limit", "1.5")],
  ['such as 50000000, 50M or 1G, not "10MB"', ...backup("--speed-limit", "10MB")],
  ['--timeout takes a whole number, 0 or more, not "10M"', ...backup("--timeout", "10M")],
  ["--timeout must be 1 or more", ...backup("--timeout", "0")],
  ["--agent-timeout must be 1 or more", ...backup("--agent-socket", "a", "--agent-timeout", "0")],
  ["--quiesce needs --agent-socket", ...backup("--quiesce")],
  [
    '--uuid takes letters, digits, ".", "_" and "-", 128 at most, not "../../x"',
    ...backup("--uuid", "../../x"),
  ],
  ['"tcp:host" is not a TCP address', "info", "--show", "blockdev", "--socket", "tcp:host"],
  ['"tcp:h:99999" is not a TCP address', "info", "--show", "bitmaps", "--socket", "tcp:h:99999"],
  ["--show is one of blockdev, bitmaps, backups", "info", "--show", "disks"],
  ["--show backups needs --dir", "info", "--show", "backups"],
  [
    '"info" needs --socket, for a VM\'s disks, or --dir, for backups; --show takes blockdev',
    "info",
  ],
  ["with --show: one of blockdev, bitmaps, backups", "info", "--socket", "q", "--dir", "d"],
  ['"list" needs --dir', "list"],
  ["does not exist", "info", "--show", "backups", "--dir", "none"],
  ["Name the VM's QMP socket with --socket", "info", "--show", "blockdev"],
  [
    '"cleanup" needs one of --prune, --protect, --unprotect, --note, --recover and --remove-bitmap',
    ...["cleanup", "--socket", "q"],
  ],
  ['"cleanup --recover" needs --socket', "cleanup", "--recover"],
  ['"cleanup --remove-bitmap" needs --socket', "cleanup", "--remove-bitmap"],
  ['"cleanup --prune" needs --target', "cleanup", "--prune", "--keep-last", "1"],
  [
    "--prune needs to know what to keep: give at least one of --keep-last, --keep-hourly, --keep-daily, " +
    "--keep-weekly, --keep-monthly, --keep-yearly and --keep-within",
    ...["cleanup", "--prune", "--target", "t"],
  ],
  [
    "These --keep flags keep nothing: give one of them a number above 0",
    ...["cleanup", "--prune", "--target", "t", "--keep-daily", "0"],
  ],
  [
    '--keep-within takes years, months, days and hours, such as 30d or 1y6m, not "2w"',
    ...["cleanup", "--prune", "--target", "t", "--keep-within", "2w"],
  ],
  [
    "--keep flags say what --prune keeps: add --prune",
    ...["cleanup", "--protect", "r", "--target", "t", "--keep-last", "1"],
  ],
  [
    "--full-every goes with --level auto or diff only",
    ...["backup", "--socket", "q", "-l", "inc", "-t", "b", "--full-every", "20"],
  ],
  [
    '--full-every takes an age (30d), a number of increments (20) or ratio:1.0, not "often"',
    ...["backup", "--socket", "q", "-l", "auto", "-t", "b", "--full-every", "often"],
  ],
  ["--note needs two values: RUN TEXT", "cleanup", "--target", "t", "--note=r"],
  ["needs either --targetfile or --target-dir", "restore", "merge", "--dir", "."],
  ["does not exist", "restore", "merge", "--dir", "none", "--targetfile", "out"],
  ["There are no backups in", "restore", "merge", "--dir", ".", "--targetfile", "out"],
  ["holds no records of runs", "restore", "merge", "--dir", ".", "--target-dir", "out"],
  ["--format is one of qcow2, raw", "restore", "merge", "--dir", ".", "--format", "vmdk"],
];

function backup(...more: string[]): string[] {
  return ["backup", "--socket", "q", "-l", "full", "-t", "b", ...more];
}

cli(
  "ends with 2 and a sentence on a wrong command line, and makes nothing",
  async (qmpbackup, _program, t) => {
    await using dir = await tempDir();
    const results = await inParallel(WRONG, ([, ...args]) => qmpbackup(args, {}, dir.path));
    for (const [index, result] of results.entries()) {
      const [words, ...args] = WRONG[index] as [string, ...string[]];
      await t.step(`qmpbackup ${args.join(" ")}`, () => {
        assertSentence(result);
        assertStringIncludes(result.stderr, words);
        assertEquals(result.code, 2);
      });
    }
    assertEquals(await names(dir.path), []);
  },
);

cli(
  "ends with 2 on a directory that is not for backups, and leaves it",
  async (qmpbackup, _program, t) => {
    await using dir = await tempDir();
    await using peer = serve(dir.join("qmp"), async (peer) => {
      await greet(peer);
      await peer.untilClosed();
    });
    assert(peer.address.transport === "unix");
    await Deno.mkdir(dir.join("photos", "2026"), { recursive: true });
    await Deno.writeTextFile(dir.join("file"), "mine");
    await makeLayer(dir.join("photos", "FULL-1-d"), 64 * KIB, []);
    const start = ["backup", "--socket", peer.address.path, "-l", "auto", "-t"];
    const restore = ["restore", "merge", "--dir", dir.join("photos"), "--targetfile"];
    const cases: [words: string, ...args: string[]][] = [
      ['holds "', ...start, dir.join("photos")],
      [`"${dir.join("file")}" is not a directory`, ...start, dir.join("file")],
      ["is not a directory", ...start, dir.join("file", "below")],
      ["is not a directory", "info", "--show", "backups", "--dir", dir.join("file")],
      ["is not a directory", "restore", "merge", "--dir", dir.join("file"), "--targetfile", "out"],
      ["exists already, and is not overwritten", ...restore, dir.join("file")],
      [dir.join("file"), ...restore, dir.join("file", "below")],
      ["--until", ...restore, dir.join("out"), "--until", "yesterday"],
    ];
    const results = await inParallel(cases, ([, ...args]) => qmpbackup(args, {}, dir.path));
    for (const [index, result] of results.entries()) {
      const [words, ...args] = cases[index] as [string, ...string[]];
      await t.step(`qmpbackup ${args.join(" ").replaceAll(dir.path, "DIR")}`, () => {
        assertSentence(result);
        assertStringIncludes(result.stderr, words);
        assertEquals(result.code, 2);
      });
    }
    assertEquals(await names(dir.path), ["file", "photos", "qmp"]);
    assertEquals(await names(dir.join("photos")), ["2026", "FULL-1-d"]);
    assertEquals(await Deno.readTextFile(dir.join("file")), "mine");
  },
);

cli("ends with 1 and a sentence if the VM can't be reached", async (qmpbackup, _program, t) => {
  await using dir = await tempDir();
  await using held = serve(dir.join("held"), (peer) => peer.untilClosed());
  await using web = serve(dir.join("web"), async (peer) => {
    await peer.send("HTTP/1.1 400 Bad Request\r\n\r\n");
    await peer.untilClosed();
  });
  assert(held.address.transport === "unix" && web.address.transport === "unix");
  const info = ["info", "--show", "blockdev", "--timeout", "1", "--socket"];
  const start = ["backup", "-l", "auto", "-t", dir.join("target"), "--timeout", "1", "--socket"];
  const cleanup = ["cleanup", "--remove-bitmap", "--timeout", "1", "--socket"];
  const cases: [words: string, ...args: string[]][] = [
    [`"${dir.join("none")}" does not exist`, ...start, dir.join("none")],
    [`"${dir.join("none")}" does not exist`, ...info, dir.join("none")],
    [`"${dir.join("none")}" does not exist`, "info", "--socket", dir.join("none")],
    [`"${dir.join("none")}" does not exist`, ...cleanup, dir.join("none")],
    ["another client holds this socket", ...start, held.address.path],
    [`On "${web.address.path}"`, ...info, web.address.path],
    ["can't be reached", ...info, `/${"x".repeat(300)}`],
  ];
  const results = await inParallel(cases, ([, ...args]) => qmpbackup(args));
  for (const [index, result] of results.entries()) {
    const [words, ...args] = cases[index] as [string, ...string[]];
    await t.step(`qmpbackup ${args.join(" ").replaceAll(dir.path, "DIR")}`, () => {
      assertSentence(result);
      assertStringIncludes(result.stderr, words);
      assertEquals(result.code, 1);
    });
  }
  assertEquals(await names(dir.path), ["held", "web"]);
});

cli(
  "shows no trace of its insides where the file system refuses",
  async (qmpbackup, _program, t) => {
    await using dir = await tempDir();
    await Deno.symlink("loop", dir.join("loop"));
    const long = "x".repeat(300);
    const cases = [
      ["info", "--show", "backups", "--dir", dir.join("loop")],
      ["info", "--show", "backups", "--dir", dir.join(long)],
      ["restore", "merge", "--dir", dir.join(long), "--targetfile", dir.join("out")],
      ["restore", "merge", "--dir", dir.path, "--targetfile", dir.join(long)],
    ];
    const results = await inParallel(cases, (args) => qmpbackup(args));
    for (const [index, result] of results.entries()) {
      const line = cases[index]?.join(" ").replaceAll(dir.path, "DIR").replace(long, "LONG");
      await t.step(`qmpbackup ${line}`, () => {
        assertSentence(result);
        assert(result.code === 1 || result.code === 2, `${result.code}`);
      });
    }
    assertEquals(await names(dir.path), ["loop"]);
  },
);

cli(
  "`--help` ends with 0, and lists flags, exit codes and examples",
  async (qmpbackup, _program, t) => {
    const restores = ["merge", "rebase", "commit", "snapshotrebase"].map((way) => `restore ${way}`);
    const commands = ["", "backup", ...restores, "restore", "info", "list", "cleanup", "version"];
    const lines = commands.flatMap((name) => [`${name} --help`.trim(), `-h ${name}`.trim()]);
    const results = await inParallel(lines, (line) => qmpbackup(line.split(" ")));
    for (const [index, { code, stdout, stderr }] of results.entries()) {
      const line = lines[index] as string;
      await t.step(`qmpbackup ${line}`, () => {
        assertEquals([code, stderr], [0, ""]);
        assertMatch(stdout, /^Usage: qmpbackup /m);
        assertMatch(stdout, /^Exit codes:$/m);
        for (const each of Object.keys(EXIT_CODES)) {
          assertMatch(stdout, new RegExp(`^  ${each} `, "m"));
        }
        assertMatch(stdout, /^ +--json/m);
        for (const each of stdout.split("\n")) assert(each.length <= 100, each);
        if (line === "--help" || line === "-h") {
          for (const name of commands) assertStringIncludes(stdout, name);
        } else {
          assertMatch(stdout, /^Examples:\n {2}# .+\n {2}qmpbackup /m);
        }
      });
    }
  },
);

cli("`info` shows what its other flags are about, as `--show` does", async (qmpbackup) => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("_qmpbackup/runs"), { recursive: true });
  const run = aRun([aDiskRecord("disk0")]);
  await Deno.writeTextFile(dir.join(`_qmpbackup/runs/${run.id}.json`), formatRecord(run));
  // Other tests write to this file system meanwhile.
  const withoutFree = ({ stdout, ...rest }: Awaited<ReturnType<typeof qmpbackup>>) => (
    { ...rest, stdout: stdout.replace(/^Free: .*/m, "Free: ") }
  );
  const shown = await qmpbackup(["info", "--show", "backups", "--dir", dir.path]);
  assertEquals([shown.code, shown.stderr], [0, ""]);
  assertMatch(shown.stdout, /^The VM "vm1" in ".*": 1 run, 1 done\n/);
  for (const line of ["info --dir", "list --dir"]) {
    const same = await qmpbackup([...line.split(" "), dir.path]);
    assertEquals(withoutFree(same), withoutFree(shown));
  }
});

cli("`--version` prints the version of deno.json", async (qmpbackup) => {
  const config = await Deno.readTextFile(new URL("../../deno.json", import.meta.url));
  const { version } = JSON.parse(config);
  const result = await qmpbackup(["--version"]);
  assertEquals(result, { code: 0, stdout: `qmpbackup ${version}\n`, stderr: "" });
});

cli("`--json` tells an error as one JSON object", async (qmpbackup, _program, t) => {
  await using dir = await tempDir();
  const cases: [code: number, words: string, ...args: string[]][] = [
    [2, 'Unknown flag "--sokcet"', "--json", "info", "--sokcet", "x"],
    [2, '"backup" needs --level', "backup", "--socket", "q", "-t", "b", "--json"],
    [2, "does not exist", ...[
      "restore",
      "merge",
      "--json",
      "--dir",
      "none",
      "--targetfile",
      "out",
    ]],
    [1, "does not exist", "info", "--json", "--show", "blockdev", "--socket", "none"],
  ];
  const results = await inParallel(cases, ([, , ...args]) => qmpbackup(args, {}, dir.path));
  for (const [index, result] of results.entries()) {
    const [code, words, ...args] = cases[index] as [number, string, ...string[]];
    await t.step(`qmpbackup ${args.join(" ")}`, () => {
      assertEquals([result.code, result.stderr], [code, ""]);
      assertMatch(result.stdout, /^\{.*\}\n$/);
      const { message, ...rest } = JSON.parse(result.stdout);
      assertEquals(rest, { message_type: "error", exit_code: code });
      assertStringIncludes(message, words);
    });
  }
  assertEquals(await names(dir.path), []);
});

cli("lets no name drive the terminal", async (qmpbackup) => {
  const { code, stderr } = await qmpbackup(["info", "--show", "backups", "--dir", "/\x1b[2Jx\n"]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, "\\x1b[2Jx\\x0a");
  assert(!stderr.includes("\x1b"));
});

/** A disk's folder with a full backup and an increment. */
async function backupFolder(path: string): Promise<Uint8Array> {
  await Deno.mkdir(path);
  await makeLayer(`${path}/FULL-1-d`, 128 * KIB, [[0, 64 * KIB, 0x11]]);
  await makeLayer(`${path}/INC-2-d`, 128 * KIB, [[32 * KIB, 64 * KIB, 0x22]], {
    clusterBytes: 4096,
  });
  return contentsOf(128 * KIB, [[0, 64 * KIB, 0x11], [32 * KIB, 64 * KIB, 0x22]]);
}

cli("`restore merge` restores, with relative paths and as JSON", async (qmpbackup) => {
  await using dir = await tempDir();
  const expected = await backupFolder(dir.join("disk0"));
  const line = "restore merge --dir disk0 --targetfile out --format raw --json";
  const { code, stdout } = await qmpbackup(line.split(" "), {}, dir.path);
  assertEquals(code, 0);
  const { message_type, state, disks } = JSON.parse(stdout);
  assertEquals([message_type, state], ["summary", "done"]);
  assertEquals([disks[0].targetFile, disks[0].images], [await Deno.realPath(dir.join("out")), 2]);
  assertEquals(firstDifference(await Deno.readFile(dir.join("out")), expected), null);
});

/** What may stand first in PATH instead of a qemu-img, by the words that say what is wrong. */
const NO_QEMU_IMG: [words: string, script: string | null, mode?: number][] = [
  ["qemu-img is not installed", null],
  ["qemu-img is not installed", "#!/bin/sh\n", 0o644],
  ["No such file or directory", "#!/none/such\n"],
  // Some Denos hand it to a shell.
  ["qemu-img", "no program\n"],
  ["another program", "#!/bin/sh\necho ImageMagick 7.1\n"],
  ["another program", "#!/bin/sh\n"],
  ["cannot open shared object", "#!/bin/sh\necho cannot open shared object >&2; exit 127\n"],
  ["exit code 9", "#!/bin/sh\nexit 9\n"],
  ["QEMU 4.2.1: 5.2 or newer is needed", "#!/bin/sh\necho qemu-img version 4.2.1\n"],
];

cli("says what is wrong with qemu-img, and makes nothing", async (qmpbackup, _program, t) => {
  await using dir = await tempDir();
  await backupFolder(dir.join("disk0"));
  for (const [index, [words, script, mode = 0o755]] of NO_QEMU_IMG.entries()) {
    const path = dir.join(`${index}`);
    await Deno.mkdir(path);
    if (script) await Deno.writeTextFile(`${path}/qemu-img`, script, { mode });
    for (const way of [["merge", "--targetfile", dir.join("out")], ["rebase"]]) {
      const args = ["restore", ...way, "--dir", dir.join("disk0")];
      const result = await qmpbackup(args, { PATH: path });
      await t.step(`${way[0]}: ${words}`, () => {
        assertSentence(result);
        assertStringIncludes(result.stderr, words);
        assertEquals(result.code, 1);
      });
    }
    await Deno.remove(path, { recursive: true });
  }
  assertEquals(await names(dir.path), ["disk0"]);
  assertEquals(await names(dir.join("disk0")), ["FULL-1-d", "INC-2-d"]);
});

cli("backs up nothing with a QEMU or a qemu-img that is too old", async (qmpbackup) => {
  await using dir = await tempDir();
  const script = "#!/bin/sh\necho qemu-img version 4.2.1\n";
  await Deno.writeTextFile(dir.join("qemu-img"), script, { mode: 0o755 });
  const version = (major: number) => ({ qemu: { major, minor: 1, micro: 0 }, package: "" });
  for (const major of [4, 7]) {
    await using peer = serve(dir.join(`${major}.qmp`), async (peer) => {
      await greet(peer, { QMP: { version: version(major), capabilities: [] } });
      await peer.untilClosed();
    });
    assert(peer.address.transport === "unix");
    const args = ["backup", "-l", "auto", "--socket", peer.address.path, "-t", dir.join("target")];
    const result = await qmpbackup(args, { PATH: dir.path });
    assertSentence(result);
    assertMatch(result.stderr, major === 4 ? /This is QEMU 4\.1\.0: 5\.2/ : /QEMU 4\.2\.1: 5\.2/);
    assertEquals(result.code, 1);
  }
  assert(!(await names(dir.path)).includes("target"));
});

cli("starts qemu-img whatever libraries the caller names", async (qmpbackup) => {
  await using dir = await tempDir();
  const expected = await backupFolder(dir.join("disk0"));
  // One that qemu-img could not be loaded with.
  await Deno.mkdir(dir.join("lib"));
  await Deno.writeTextFile(dir.join("lib/libglib-2.0.so.0"), "no library");
  const line = "restore merge --syslog --dir disk0 --targetfile out --format raw".split(" ");
  await Deno.writeTextFile(dir.join("logger"), "#!/bin/sh\n", { mode: 0o755 });
  const env = { LD_LIBRARY_PATH: dir.join("lib"), PATH: `${dir.path}:${Deno.env.get("PATH")}` };
  const { code, stderr } = await qmpbackup(line, env, dir.path);
  assertEquals(code, 0, stderr);
  assertEquals(firstDifference(await Deno.readFile(dir.join("out")), expected), null);
});

for (const [signal, code] of [["SIGINT", 130], ["SIGTERM", 143], ["SIGHUP", 129]] as const) {
  cli(
    `\`restore merge\` ends with ${code} on ${signal}, and leaves nothing`,
    async (_, program) => {
      await using dir = await tempDir();
      await backupFolder(dir.join("disk0"));
      // One that is still at work when the signal comes.
      const script = `#!/bin/sh
      if [ "$1" != convert ]; then exec /usr/bin/env PATH="$REAL_PATH" qemu-img "$@"; fi
      for file; do :; done
      : > "$file"
      exec /bin/sleep 60`;
      await Deno.mkdir(dir.join("bin"));
      await Deno.writeTextFile(dir.join("bin", "qemu-img"), script, { mode: 0o755 });
      await Deno.mkdir(dir.join("out"));
      using watcher = Deno.watchFs(dir.join("out"));
      const target = dir.join("out", "disk0.qcow2");
      const child = command(
        program,
        ["restore", "merge", "--dir", dir.join("disk0"), "--targetfile", target],
        {
          PATH: dir.join("bin"),
          REAL_PATH: Deno.env.get("PATH") ?? "",
        },
      ).spawn();
      const result = output(child);
      await within(CHILD_MS, watcher[Symbol.asyncIterator]().next());
      child.kill(signal);
      const { code: ended, stderr } = await result;
      assertStringIncludes(stderr, `Stopped by ${signal}`);
      assertEquals(ended, code);
      assertEquals(await names(dir.join("out")), []);
    },
  );
}

cli("takes a time-out of many days for what it is", async (qmpbackup) => {
  await using dir = await tempDir();
  await using _ = serve(dir.join("qmp"), (peer) => answer(peer, {}));
  // 2 ** 31 milliseconds are 25 days: a timer that is asked for more fires at once.
  const line = `info --show blockdev --timeout 3000000 --socket ${dir.join("qmp")}`;
  const { code, stderr } = await qmpbackup(line.split(" "));
  assertEquals(code, 1);
  assertStringIncludes(stderr, 'QEMU refused "query-block"');
});

cli("colours its log on a terminal, and not with NO_COLOR", async (_, program) => {
  // util-linux: what makes a terminal of a pipe.
  if (!await runs("script")) return;
  await using dir = await tempDir();
  await backupFolder(dir.join("disk0"));
  const [plain, coloured] = await inParallel(
    [{ NO_COLOR: "1" }, { NO_COLOR: "" }],
    async (env) => {
      const target = dir.join(`out${env.NO_COLOR}`);
      const args = [
        "restore",
        "merge",
        "--debug",
        "--dir",
        dir.join("disk0"),
        "--targetfile",
        target,
      ];
      const line = program.argv(args).map((word) => `'${word}'`).join(" ");
      const inTerminal = new Deno.Command("script", {
        args: ["-qec", line, "/dev/null"],
        env: { ...env, TERM: "xterm-256color" },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      });
      return (await output(inTerminal)).stdout;
    },
  );
  const dim = "\x1b[2m";
  for (const text of [plain, coloured]) assertStringIncludes(text ?? "", "qemu-img");
  assert(coloured?.includes(dim));
  assert(!plain?.includes(dim));
});

cli("never colours what is no terminal", async (qmpbackup) => {
  await using dir = await tempDir();
  await backupFolder(dir.join("disk0"));
  const line = "restore merge --debug --dir disk0 --targetfile out";
  const { code, stdout, stderr } = await qmpbackup(line.split(" "), {}, dir.path);
  assertEquals(code, 0);
  assertStringIncludes(stderr, "DEBUG qemu-img");
  assert(!(stdout + stderr).includes("\x1b"));
});

async function runs(program: string): Promise<boolean> {
  try {
    const command = new Deno.Command(program, { args: ["--version"], stdin: "null" });
    return (await command.output()).success;
  } catch {
    return false;
  }
}

cli("`--syslog` hands each line to logger with its priority", async (qmpbackup) => {
  await using dir = await tempDir();
  const logger = dir.join("logger");
  await Deno.writeTextFile(
    logger,
    `#!/bin/sh\necho "$@" >${dir.path}/args; cat >${dir.path}/lines\n`,
  );
  await Deno.chmod(logger, 0o755);
  await Deno.mkdir(dir.join("disk0"));
  await makeLayer(dir.join("disk0/FULL-1-d"), 64 * KIB, []);
  const line = "restore merge --syslog --dir disk0 --targetfile out".split(" ");
  const path = `${dir.path}:${Deno.env.get("PATH")}`;
  const { code, stderr } = await qmpbackup(line, { PATH: path }, dir.path);
  assertEquals(code, 0, stderr);
  assertEquals((await Deno.readTextFile(dir.join("args"))).trim(), "--tag qmpbackup --prio-prefix");
  assertMatch(await Deno.readTextFile(dir.join("lines")), /^<14>Restoring FULL-1-d from 1 images/);
});
