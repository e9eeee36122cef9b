/**
 * Runs test files side by side, each in a process of its own: signals, the working directory and
 * `PATH` belong to a process, so that files in threads of one process disturb each other.
 *
 * Temporary folders lie in memory where this user may mount one, since what takes long in these tests is
 * the syncing. `QMPBACKUP_TEST_ON_DISK=1` leaves them on the disk; `QMPBACKUP_TEST_JOBS` says how many
 * files run at a time: more than there are processors, since most wait for half of their time.
 *
 * ```sh
 * deno run -A tests/run.ts tests/vm [tests/system/create_test.ts …] [-- --filter word]
 * ```
 *
 * @module
 */

import { basename, fromFileUrl, join } from "@std/path";
import { workFolder } from "../.ci/step.ts";
import { BINARY_FOLDER, compileTo } from "./support/program.ts";
import { command } from "./support/tmpfs.ts";

/** Those that take longest begin first: else the last one would run alone at the end. */
const LONGEST = [
  "storage_test.ts",
  "cuts_test.ts",
  "restore_in_place_test.ts",
  "restore_vm_test.ts",
  "life_test.ts",
  "prune_test.ts",
  "world_test.ts",
  "recovery_test.ts",
  "run_state_test.ts",
  "lost_write_test.ts",
  "hostile_test.ts",
  "failure_test.ts",
  "cli_test.ts",
  "one_storage_test.ts",
  "changed_image_test.ts",
  "rights_test.ts",
  "direct_test.ts",
];

/** No file takes so long, on a slow machine either: one that does is held by something. */
const FILE_TIMEOUT_MS = 25 * 60_000;
const BUILD = fromFileUrl(new URL("../.build", import.meta.url));
const MEMORY_BYTES = 8 * 2 ** 30;
const TEST_ENV = { DENO_TEST_SANITIZE_OPS: "1", DENO_TEST_SANITIZE_RESOURCES: "1" };

async function filesOf(path: string): Promise<string[]> {
  if ((await Deno.stat(path)).isFile) return [path];
  const entries = await Array.fromAsync(Deno.readDir(path));
  return entries.map(({ name }) => name).filter((name) => name.endsWith("_test.ts")).sort()
    .map((name) => join(path, name));
}

function byLength(a: string, b: string): number {
  const rank = (path: string) => {
    const place = LONGEST.indexOf(basename(path));
    return place < 0 ? LONGEST.length : place;
  };
  return rank(a) - rank(b);
}

/** A folder in memory; null where it can't be had. */
async function mountMemory(): Promise<AsyncDisposable & { path: string } | null> {
  const { available } = Deno.systemMemoryInfo();
  if (Deno.env.has("QMPBACKUP_TEST_ON_DISK") || available < 2 * MEMORY_BYTES) return null;
  const path = await Deno.makeTempDir({ prefix: "qmpb-" });
  try {
    const options = `size=${MEMORY_BYTES},mode=1777`;
    await command("mount", "-t", "tmpfs", "-o", options, "qmpbackup-tests", path);
  } catch {
    await Deno.remove(path);
    return null;
  }
  return {
    path,
    async [Symbol.asyncDispose]() {
      await command("umount", "--lazy", path);
      await Deno.remove(path);
    },
  };
}

/**
 * The words before a command that give it mounts of its own, where this user may have them: what one file mounts is
 * not seen by the programs of another, which would hold it, and goes with the file's process.
 */
async function ownMounts(): Promise<string[]> {
  try {
    await command("unshare", "--mount", "true");
    return ["unshare", "--mount"];
  } catch {
    return [];
  }
}

/** Makes the binary once for all files, if one of them asks for it. */
async function makeBinary(folder: string, paths: string[]): Promise<Record<string, string>> {
  const texts = await Promise.all(paths.map((path) => Deno.readTextFile(path)));
  if (!texts.some((text) => text.includes("compileBinary()"))) return {};
  await compileTo(folder);
  return { [BINARY_FOLDER]: folder };
}

/** Runs one file, shows what it printed when it is over, and returns whether all passed. */
async function runFile(
  path: string,
  args: string[],
  { before, env }: { before: string[]; env: Record<string, string> },
): Promise<boolean> {
  const started = Date.now();
  const words = [...before, Deno.execPath(), "test", "-A", "--no-check", path, ...args];
  const [program = "", ...rest] = words;
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: rest,
    env: { ...TEST_ENV, ...env },
    stdin: "null",
    signal: AbortSignal.timeout(FILE_TIMEOUT_MS),
  }).output();
  const seconds = Math.round((Date.now() - started) / 1000);
  for (const bytes of [stderr, stdout]) await Deno.stdout.write(bytes);
  console.log(`== ${path}: ${success ? "passed" : "FAILED"} in ${seconds} s`);
  return success;
}

const split = Deno.args.indexOf("--");
const paths = split < 0 ? Deno.args : Deno.args.slice(0, split);
const testArgs = split < 0 ? [] : Deno.args.slice(split + 1);
const jobs = Number(Deno.env.get("QMPBACKUP_TEST_JOBS") ?? 2 * navigator.hardwareConcurrency + 1);

const started = Date.now();
const failed: string[] = [];
{
  await using memory = await mountMemory();
  const queue = (await Promise.all(paths.map(filesOf))).flat().sort(byLength);
  await using binary = await workFolder(BUILD);
  const env = {
    ...await makeBinary(binary.path, queue),
    ...(memory ? { TMPDIR: memory.path } : {}),
  };
  const before = await ownMounts();
  const work = async () => {
    for (let path; (path = queue.shift()) !== undefined;) {
      if (!await runFile(path, testArgs, { before, env })) failed.push(path);
    }
  };
  await Promise.all(Array.from({ length: jobs }, work));
}
console.log(`== ${paths.join(" ")} took ${Math.round((Date.now() - started) / 1000)} s`);
for (const path of failed) console.log(`== failed: ${path}`);
Deno.exit(failed.length === 0 ? 0 : 1);
