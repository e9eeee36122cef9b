/**
 * Other releases of QEMU, beside the system's: unpacked from Debian's packages into a folder, with all
 * the libraries they need, and run from there. Nothing is installed.
 *
 * @module
 */

import { fromFileUrl, join } from "@std/path";
import { exists } from "../../src/fs/durable.ts";
import { deadline } from "./deadline.ts";
import { takeTurn } from "./turn.ts";

/** Debian's suites, and the QEMU in each. */
export const SUITES = { bullseye: "5.2", bookworm: "7.2", trixie: "10.0", forky: "11.1" } as const;
export type Suite = keyof typeof SUITES;

const PROGRAMS = ["qemu-system-x86_64", "qemu-img", "qemu-io"];
const CACHE = fromFileUrl(new URL("../../.build/qemu", import.meta.url));

/**
 * Makes a release of QEMU ready; needs apt, and a Debian mirror.
 *
 * @returns A folder with its programs, to be put first in PATH.
 */
export async function qemuOf(suite: Suite): Promise<string> {
  const root = join(CACHE, suite);
  const bin = join(root, "bin");
  const isReady = () => exists(deadline, join(bin, "ready"));
  if (await isReady()) return bin;
  using _turn = await takeTurn(join(CACHE, `${suite}.lock`));
  if (await isReady()) return bin;
  await Deno.remove(root, { recursive: true }).catch(() => {});
  await download(root, suite);
  await unpack(root);
  await Deno.mkdir(bin);
  for (const program of PROGRAMS) await writeWrapper(root, program);
  await run(join(bin, "qemu-img"), "--version");
  await Deno.writeTextFile(join(bin, "ready"), "");
  return bin;
}

/** Has programs of this name started from `folder` first, until disposed. */
export function useFirst(folder: string): Disposable {
  const path = Deno.env.get("PATH") ?? "";
  Deno.env.set("PATH", `${folder}:${path}`);
  return { [Symbol.dispose]: () => Deno.env.set("PATH", path) };
}

/** With lists and an empty status of its own, apt fetches every package that is needed. */
async function download(root: string, suite: Suite) {
  const apt = join(root, "apt");
  for (const folder of ["lists/partial", "cache/archives/partial"]) {
    await Deno.mkdir(join(apt, folder), { recursive: true });
  }
  await Deno.writeTextFile(join(apt, "status"), "");
  const sources = `deb [trusted=yes] ${await mirror()} ${suite} main\n`;
  await Deno.writeTextFile(join(apt, "sources.list"), sources);
  const options = Object.entries({
    "Dir::Etc::sourcelist": join(apt, "sources.list"),
    "Dir::Etc::sourceparts": "/dev/null",
    "Dir::State::lists": join(apt, "lists"),
    "Dir::State::status": join(apt, "status"),
    "Dir::Cache": join(apt, "cache"),
    "APT::Sandbox::User": "root",
  }).flatMap(([name, value]) => ["-o", `${name}=${value}`]);
  await run("apt-get", ...options, "update");
  await run(
    ...["apt-get", ...options, "install", "-y", "--no-install-recommends"] as const,
    ...["--download-only", "qemu-system-x86", "qemu-utils"],
  );
}

/** The mirror that this machine takes its own packages from. */
async function mirror(): Promise<string> {
  const texts = [await Deno.readTextFile("/etc/apt/sources.list").catch(() => "")];
  for await (const { name } of Deno.readDir("/etc/apt/sources.list.d")) {
    texts.push(await Deno.readTextFile(join("/etc/apt/sources.list.d", name)));
  }
  const url = /^(?:deb |URIs:).*?(https?:\/\/\S+debian\/?)(?=\s|$)/m.exec(texts.join("\n"))?.[1];
  return url ?? "http://deb.debian.org/debian";
}

async function unpack(root: string) {
  const files = join(root, "fs");
  await Deno.mkdir(files);
  const archives = join(root, "apt/cache/archives");
  const script =
    'for deb in "$1"/*.deb; do dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink -C "$2"; done';
  await run("sh", "-ec", script, "sh", archives, files);
  await Deno.remove(join(root, "apt"), { recursive: true });
}

/** A program runs with the loader and the libraries of its own release. */
async function writeWrapper(root: string, program: string) {
  const files = join(root, "fs");
  const libraries = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map((folder) =>
    join(files, folder)
  );
  const data = program.startsWith("qemu-system")
    ? ["qemu", "seabios"].map((folder) => `-L ${join(files, "usr/share", folder)}`).join(" ")
    : "";
  const text = [
    "#!/bin/sh",
    `export QEMU_MODULE_DIR=${join(files, "usr/lib/x86_64-linux-gnu/qemu")}`,
    `exec ${await loader(libraries)} --library-path ${libraries.join(":")} \\`,
    `  ${join(files, "usr/bin", program)} ${data} "$@"`,
    "",
  ].join("\n");
  await Deno.writeTextFile(join(root, "bin", program), text, { mode: 0o755 });
}

async function loader(libraries: string[]): Promise<string> {
  for (const folder of libraries) {
    const path = join(folder, "ld-linux-x86-64.so.2");
    if (await exists(deadline, path)) return await Deno.realPath(path);
  }
  throw new Error(`There is no loader in ${libraries.join(" or ")}`);
}

async function run(program: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(program, { args }).output();
  if (!success) throw new Error(`${program} failed: ${new TextDecoder().decode(stderr)}`);
}
