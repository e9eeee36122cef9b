/**
 * An initramfs for Debian's kernel: busybox, the guest agent, mke2fs, and the modules they need.
 *
 * @module
 */

import { basename, join } from "@std/path";
import { decode, run } from "./deb_packages.ts";

/** These and what they depend on; those that a kernel has built in are left out. */
const MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "virtio_scsi", "sd_mod", "ext4"];

/** ext4 asks for this one by its work, not by name: no `depends=` tells of it. */
const CHECKSUMS = "crc32c_generic";

const PROGRAMS = ["qemu-ga", "mke2fs"];

/**
 * The guest's first process.
 *
 * The guest writes back only when it's told to, or freezes: so a test knows what is on a disk.
 * The agent comes back if it ends, and finds in /run whether it left the file systems frozen.
 */
const INIT = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs run /run
for module in /modules/*; do insmod $module; done
echo 0 >/proc/sys/vm/dirty_writeback_centisecs
until port=$(grep -lx org.qemu.guest_agent.0 /sys/class/virtio-ports/*/name); do sleep 0.1; done
port=\${port%/name}
while :; do
  /sbin/qemu-ga -m virtio-serial -p /dev/\${port##*/} -t /run
  echo "qemu-ga ended with $?"
  sleep 1
done
`;

/** Makes an initramfs of the files of unpacked packages. */
export async function makeInitramfs(root: string): Promise<Uint8Array<ArrayBuffer>> {
  const found = await filesByName(root);
  const files = new Map<string, Uint8Array>();
  files.set("init", new TextEncoder().encode(INIT));
  files.set("bin/busybox", await Deno.readFile(pick(found, /\/bin\/busybox$/)));
  for (const name of PROGRAMS) {
    const program = pick(found, new RegExp(`/s?bin/${name}$`));
    files.set(`sbin/${name}`, await Deno.readFile(program));
    for (const library of await librariesOf(program, root, found)) {
      files.set(`lib/x86_64-linux-gnu/${basename(library)}`, await Deno.readFile(library));
    }
  }
  files.set("lib64/ld-linux-x86-64.so.2", await Deno.readFile(pick(found, LOADER)));
  for (const [index, { name, data }] of (await modulesInOrder(found)).entries()) {
    files.set(`modules/${String(index).padStart(2, "0")}-${name}.ko`, data);
  }
  const archive = cpio(["dev", "proc", "sys", "run", "mnt", "tmp"], files);
  const packed = archive.stream().pipeThrough(new CompressionStream("gzip"));
  return new Uint8Array(await new Response(packed).arrayBuffer());
}

/** The kernel among the files of unpacked packages. */
export async function findKernel(root: string): Promise<string> {
  return pick(await filesByName(root), /\/boot\/vmlinuz-[^/]+$/);
}

/** Paths of all regular files: where each lies is another matter from release to release. */
async function filesByName(folder: string): Promise<string[]> {
  const paths: string[] = [];
  for await (const { name, isFile, isDirectory } of Deno.readDir(folder)) {
    const path = join(folder, name);
    if (isDirectory) paths.push(...await filesByName(path));
    else if (isFile) paths.push(path);
  }
  return paths;
}

function pick(paths: readonly string[], pattern: RegExp): string {
  const path = paths.find((path) => pattern.test(path));
  if (path === undefined) throw new Error(`The packages have no file like ${pattern}`);
  return path;
}

const LOADER = /\/ld-linux-x86-64\.so\.2$/;

/** The loader itself knows best which libraries a program will be given. */
async function librariesOf(program: string, root: string, found: string[]): Promise<string[]> {
  const folders = ["lib", "usr/lib"].map((lib) => join(root, lib, "x86_64-linux-gnu")).join(":");
  const args = ["--library-path", folders, "--list", program];
  const words = decode(await run(pick(found, LOADER), args));
  const libraries = [...words.matchAll(/=> (\S+) \(/g)].map(([, path]) => path ?? "");
  const stranger = libraries.find((path) => !path.startsWith(root));
  if (stranger !== undefined) throw new Error(`"${program}" would use "${stranger}"`);
  return libraries;
}

interface KernelModule {
  name: string;
  data: Uint8Array;
}

/** The modules, each after those it depends on. */
async function modulesInOrder(found: readonly string[]): Promise<KernelModule[]> {
  const paths = new Map<string, string>();
  for (const path of found) {
    const [, name] = path.match(/\/modules\/.*\/([^/]+)\.ko(?:\.xz)?$/) ?? [];
    if (name !== undefined) paths.set(underscored(name), path);
  }
  const builtIn = new Set(
    (await Deno.readTextFile(pick(found, /\/modules\.builtin$/))).split("\n")
      .map((line) => underscored(basename(line, ".ko"))),
  );
  const ordered = new Map<string, KernelModule>();

  async function add(name: string): Promise<void> {
    if (ordered.has(name) || builtIn.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) throw new Error(`The kernel has no module "${name}"`);
    const data = path.endsWith(".xz") ? await run("xz", ["-dc", path]) : await Deno.readFile(path);
    for (const dependency of dependenciesOf(data)) await add(dependency);
    ordered.set(name, { name, data });
  }
  for (const name of [CHECKSUMS, ...MODULES]) await add(name);
  return [...ordered.values()];
}

/** Reads what `modinfo` would show. */
function dependenciesOf(module: Uint8Array): string[] {
  const text = new TextDecoder("latin1").decode(module);
  const [, names = ""] = text.match(/\0depends=([^\0]*)\0/) ?? [];
  return names.split(",").filter((name) => name !== "").map(underscored);
}

/** The kernel takes both for the same. */
function underscored(name: string): string {
  return name.replaceAll("-", "_");
}

const FOLDER = 0o040755;
const EXECUTABLE = 0o100755;

/** Packs files into the `newc` format of cpio, which the kernel reads. */
function cpio(folders: readonly string[], files: ReadonlyMap<string, Uint8Array>): Blob {
  const parents = [...files.keys()].flatMap((path) => {
    const names = path.split("/").slice(0, -1);
    return names.map((_, index) => names.slice(0, index + 1).join("/"));
  });
  const parts: BlobPart[] = [];
  let inode = 0;
  const add = (path: string, mode: number, data: Uint8Array) => {
    const name = new TextEncoder().encode(path + "\0");
    const fields = [++inode, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0];
    const header = "070701" + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    parts.push(header, name, padding(header.length + name.length));
    parts.push(new Uint8Array(data), padding(data.length));
  };
  const nothing = new Uint8Array();
  for (const path of new Set([...folders, ...parents])) add(path, FOLDER, nothing);
  for (const [path, data] of files) add(path, EXECUTABLE, data);
  add("TRAILER!!!", 0, nothing);
  return new Blob(parts);
}

function padding(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array(-length & 3);
}
