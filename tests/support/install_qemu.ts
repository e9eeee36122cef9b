/**
 * Makes sure that the tests find a QEMU.
 *
 * Where it is there, this does nothing and says nothing; on a bare Debian or Ubuntu it installs it.
 */

const PROGRAMS = ["qemu-system-x86_64", "qemu-img", "qemu-io"];
const PACKAGES = ["qemu-system-x86", "qemu-utils"];

/**
 * Installs QEMU's packages unless its programs are there.
 *
 * @throws {Error} If that is not for us to do, or does not work.
 */
export async function ensureQemu(): Promise<void> {
  await ensurePrograms(PROGRAMS, PACKAGES);
}

/**
 * Installs packages unless their programs are there.
 *
 * @throws {Error} If that is not for us to do, or does not work.
 */
export async function ensurePrograms(
  programs: readonly string[],
  packageNames: readonly string[],
): Promise<void> {
  const missing = [];
  for (const program of programs) if (!await runs(program)) missing.push(program);
  if (missing.length === 0) return;

  const packages = packageNames.join(" ");
  if (Deno.uid() !== 0 || !await runs("apt-get")) {
    throw new Error(
      `The tests need ${missing.join(", ")}: install ${packages} (or what your system calls them)`,
    );
  }
  say(`Installing ${packages} with apt-get, for the tests`);
  await aptGet("update");
  await aptGet("install", "-y", "--no-install-recommends", ...packageNames);
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
