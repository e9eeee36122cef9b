/**
 * Debian packages to take files from, by way of apt: nothing is installed, and nobody has to be root.
 *
 * apt reads the machine's own sources, but keeps lists, cache and status in a folder of ours. Its
 * status is empty there, so a package's dependencies are all fetched, installed here or not.
 *
 * @module
 */

import { join } from "@std/path";

/** Where apt keeps its state for us; the folder is made when it's needed. */
export interface DebPackages {
  /** Names of packages; dependencies are found. */
  names: readonly string[];
  stateDir: string;
}

/** Fetches the lists of what there is. */
export async function updateLists({ stateDir }: DebPackages): Promise<void> {
  await Deno.mkdir(join(stateDir, "lists/partial"), { recursive: true });
  await Deno.mkdir(join(stateDir, "cache/archives/partial"), { recursive: true });
  await Deno.writeTextFile(join(stateDir, "status"), "");
  await run("apt-get", [...options(stateDir), "update"]);
}

/** The newest versions in the lists, in the order of the names; undefined if one isn't there. */
export async function newestVersions(packages: DebPackages): Promise<string[] | undefined> {
  const { names, stateDir } = packages;
  if (!await isThere(join(stateDir, "lists"))) return undefined;
  const policy = decode(await run("apt-cache", [...options(stateDir), "policy", ...names]));
  const versions = names.map((name) => {
    const [, version] = policy.match(new RegExp(`^${name}:\n.*\n +Candidate: (\\S+)`, "m")) ?? [];
    return version;
  });
  return versions.every((version) => version !== undefined && version !== "(none)")
    ? versions as string[]
    : undefined;
}

/** Fetches the packages and all they depend on, and unpacks them into one folder. */
export async function unpackPackages(packages: DebPackages, into: string): Promise<void> {
  const { names, stateDir } = packages;
  const clean = () => run("apt-get", [...options(stateDir), "clean"]);
  // What a run that was killed has left may be older.
  await clean();
  await run("apt-get", [...options(stateDir), "install", "-y", "--download-only", ...names]);
  const archives = join(stateDir, "cache/archives");
  for await (const { name } of Deno.readDir(archives)) {
    if (!name.endsWith(".deb")) continue;
    await run("dpkg-deb", ["--extract", join(archives, name), into]);
  }
  await clean();
}

function options(stateDir: string): string[] {
  return Object.entries({
    "Dir::State": stateDir,
    "Dir::State::status": join(stateDir, "status"),
    "Dir::Cache": join(stateDir, "cache"),
    // Some systems turn it off to save space; without it each look at the lists takes a second.
    "Dir::Cache::pkgcache": "pkgcache.bin",
    "APT::Install-Recommends": "false",
    "Acquire::Languages": "none",
    // apt's own user may not be able to write here.
    "APT::Sandbox::User": "root",
  }).flatMap(([key, value]) => ["-o", `${key}=${value}`]);
}

/**
 * Runs a program and returns what it prints.
 *
 * @throws {Error} If it can't be started, or ends with anything but 0.
 */
export async function run(program: string, args: readonly string[]): Promise<Uint8Array> {
  const { success, stdout, stderr } = await new Deno.Command(program, {
    args: [...args],
    env: { LC_ALL: "C" },
    stdin: "null",
  }).output();
  if (success) return stdout;
  throw new Error(`"${program} ${args.join(" ")}" failed: ${decode(stderr).trim()}`);
}

/** Bytes as text. */
export function decode(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

async function isThere(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
