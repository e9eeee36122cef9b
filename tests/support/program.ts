/**
 * The tool in each of its shapes: from source, as a binary, and as a binary in an all but empty root.
 *
 * @module
 */

import { fromFileUrl, join } from "@std/path";
import { tempDir } from "./temp_dir.ts";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

/** A program to be started, and where it is at home. */
export interface Program {
  name: string;
  /** The whole command line. */
  argv(args: readonly string[], cwd?: string): [string, ...string[]];
}

/** By the Deno that runs the tests, with all rights. */
export const fromSource: Program = {
  name: "main",
  argv: (args) => [Deno.execPath(), "run", "-A", join(ROOT, "main.ts"), ...args],
};

/** The flag for the rights of the binary; Deno 2.4 knows no sets of rights. */
export const BINARY_RIGHTS = Deno.version.deno.startsWith("2.4.") ? "-A" : "-P";

/** The same with the rights of the binary: a binary made by this Deno can do no more. */
export const asBinary: Program = {
  name: "main with the rights of the binary",
  argv: (args) => [
    ...[Deno.execPath(), "run", "--no-prompt", "--quiet", BINARY_RIGHTS] as const,
    ...[join(ROOT, "main.ts"), ...args],
  ],
};

/**
 * Runs `deno task compile`, with the runtime from npm unless the environment names another: that is the
 * one that is tested.
 *
 * @param folder Where the binary is put.
 * @param root Of the repository, or of a copy.
 */
export async function compileTo(folder: string, root = ROOT, env = {}): Promise<void> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", join(root, ".ci/compile.ts"), `--to=${folder}`],
    env: { QMPBACKUP_DENORT: Deno.env.get("QMPBACKUP_DENORT") ?? "npm", ...env },
    stdin: "null",
  }).output();
  if (success) return;
  throw new Error(`The binary can't be made: ${new TextDecoder().decode(stderr)}`);
}

/** Names the folder in which `tests/run.ts` has made the binary, once for all test files. */
export const BINARY_FOLDER = "QMPBACKUP_TEST_BINARY_FOLDER";

const made = Deno.env.get(BINARY_FOLDER);
let making: Promise<void> | null = null;

/** Makes the binary that is tested, if nobody has yet. */
export async function compileBinary(): Promise<void> {
  if (made === undefined) await (making ??= compileTo(ROOT));
}

/** What {@linkcode compileBinary} has made. */
export const BINARY = join(made ?? ROOT, "qmpbackup");

export const binary: Program = { name: "binary", argv: (args) => [BINARY, ...args] };

export interface BareRootOptions {
  /** The programs in it besides the binary, absolute; each with its libraries. */
  programs: readonly string[];
  /** Folders of the host that are there under their own names, to be written to. */
  shared: readonly string[];
  /** Whose the process is: "UID:GID"; root's, if it isn't said. */
  userspec?: string;
}

/**
 * A root directory with glibc, the binary and some programs in it, and nothing else: no Deno, no HOME,
 * no /etc. It can't be written to. Needs root.
 *
 * All mounts are in a namespace of each process, and go with it: none is left to be unmounted, or to be
 * emptied with the directory.
 */
export async function bareRoot(
  { programs, shared, userspec = "0:0" }: BareRootOptions,
): Promise<Program & AsyncDisposable> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  await Deno.chmod(dir.path, 0o755);
  const files = new Set<string>([...programs]);
  for (const program of [BINARY, ...programs]) {
    for (const library of await librariesOf(program)) files.add(library);
  }
  await run("cp", "--dereference", "--parents", "--reflink=auto", ...files, dir.path);
  await run("cp", "--reflink=auto", BINARY, dir.join("qmpbackup"));
  for (const folder of ["proc", "dev", ...shared]) {
    await Deno.mkdir(dir.join(folder), { recursive: true });
  }
  await Deno.writeTextFile(dir.join("dev/null"), "");
  const mounts = [
    `--bind ${dir.path} ${dir.path}`,
    `-o remount,bind,ro ${dir.path}`,
    ...["/proc", "/dev/null"].map((path) => `--bind ${path} ${dir.join(path)}`),
    // With what is mounted in them: the tests' own folders may be.
    ...shared.map((path) => `--rbind ${path} ${dir.join(path)}`),
  ];
  const script = mounts.map((words) => `/usr/bin/mount ${words} && `).join("") + 'exec "$@"';
  const left = stack.move();
  return {
    name: "binary in a bare root",
    argv: (args, cwd) => [
      ...["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script] as const,
      ...["sh", "/usr/sbin/chroot", `--userspec=${userspec}`, dir.path],
      // The binary itself where there is no folder to change to.
      ...cwd === undefined ? [] : ["/usr/bin/env", "-C", cwd],
      "/qmpbackup",
      ...args,
    ],
    [Symbol.asyncDispose]: () => left.disposeAsync(),
  };
}

/** The libraries and the loader of a program, absolute. */
async function librariesOf(program: string): Promise<string[]> {
  const text = await run("ldd", program);
  return [...text.matchAll(/(\/\S+) \(0x/g)].map((match) => match[1] as string);
}

async function run(program: string, ...args: string[]): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(program, { args }).output();
  if (success) return new TextDecoder().decode(stdout);
  throw new Error(`${program} failed: ${new TextDecoder().decode(stderr)}`);
}
