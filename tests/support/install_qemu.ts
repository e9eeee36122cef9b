/**
 * Makes sure that the tests find a QEMU.
 *
 * Where it is there, this does nothing and says nothing; on a bare Debian or Ubuntu it installs it.
 */

import { fromFileUrl } from "@std/path";
import { takeTurn } from "./turn.ts";

const LOCK = fromFileUrl(new URL("../../.build/apt.lock", import.meta.url));
const PROGRAMS = ["qemu-system-x86_64", "qemu-img", "qemu-io"];
const PACKAGES = ["qemu-system-x86", "qemu-utils"];

/**
 * Installs QEMU's packages unless its programs are there.
 *
 * @throws {Error} If that is not for us to do, or does not work.
 */
export async function ensureQemu(): Promise<void> {
  const missing = [];
  for (const program of PROGRAMS) if (!await runs(program)) missing.push(program);
  if (missing.length === 0) return;

  await install(PACKAGES, missing);
}

async function install(packages: string[], programs: string[]): Promise<void> {
  const names = packages.join(" ");
  if (Deno.uid() !== 0 || !await runs("apt-get")) {
    throw new Error(
      `The tests need ${programs.join(", ")}: install ${names} (or what your system calls them)`,
    );
  }
  say(`Installing ${names} with apt-get, for the tests`);
  await aptGet("update");
  await aptGet("install", "-y", "--no-install-recommends", ...packages);
}

/**
 * Installs the packages of the programs that are not there, for the tests that need more than QEMU.
 *
 * @param packages Debian's package of each program, or of a file of another kind by its path.
 * @throws {Error} If that is not for us to do, or does not work.
 */
export async function ensurePrograms(packages: Record<string, string>): Promise<void> {
  if ((await missingOf(packages)).length === 0) return;
  // Two that run `apt-get update` at one time disturb each other.
  using _turn = await takeTurn(LOCK);
  const missing = await missingOf(packages);
  if (missing.length > 0) await install(missing, Object.keys(packages));
}

async function missingOf(packages: Record<string, string>): Promise<string[]> {
  const folders = (Deno.env.get("PATH") ?? "").split(":");
  const isThere = (path: string) => Deno.stat(path).then(() => true, () => false);
  const missing: string[] = [];
  for (const [program, name] of Object.entries(packages)) {
    const found = await Promise.all(
      (program.startsWith("/") ? [""] : folders.map((folder) => `${folder}/`))
        .map((folder) => isThere(folder + program)),
    );
    if (!found.includes(true)) missing.push(name);
  }
  return missing;
}

/** Whether a program can be started at all. */
async function runs(program: string): Promise<boolean> {
  try {
    const command = new Deno.Command(program, { args: ["--version"], stdin: "null" });
    return (await command.output()).success;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function aptGet(...args: string[]): Promise<void> {
  const { success, stdout, stderr } = await new Deno.Command("apt-get", {
    args: ["-q", "-o", "DPkg::Lock::Timeout=120", ...args],
    env: { DEBIAN_FRONTEND: "noninteractive" },
    stdin: "null",
  }).output();
  if (success) return;
  const words = new TextDecoder().decode(stderr.length > 0 ? stderr : stdout).trim();
  throw new Error(`"apt-get ${args.join(" ")}" failed: ${words}`);
}

function say(line: string): void {
  Deno.stderr.writeSync(new TextEncoder().encode(line + "\n"));
}

if (import.meta.main) {
  try {
    await ensureQemu();
  } catch (error) {
    say(error instanceof Error ? error.message : String(error));
    Deno.exit(1);
  }
}
