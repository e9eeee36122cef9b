/**
 * `start.sh`: the command that starts a restored VM, as a script. Pure.
 *
 * @module
 */

import { shellText } from "../shell.ts";

/**
 * Writes the script.
 *
 * @param about What it starts, in a line.
 * @param first What is started before it, if anything.
 * @param folder Where the command's relative paths are looked for. Absolute.
 */
export function startScript(
  about: string,
  folder: string,
  argv: string[],
  notes: string[],
  first: string[] | null = null,
): string {
  const comment = (text: string) => `# ${text.replace(/\s+/g, " ")}`;
  return [
    "#!/bin/sh",
    comment(about),
    ...notes.map(comment),
    `cd ${shellText([folder])} || exit`,
    ...(first === null ? [] : [`${shellText(first)} || exit`]),
    `exec ${grouped(argv).map((group) => shellText(group)).join(" \\\n  ")} "$@"`,
    "",
  ].join("\n");
}

/** The program, then each option with its values. */
function grouped(argv: string[]): string[][] {
  const groups: string[][] = [];
  for (const arg of argv) {
    if (groups.length === 0 || /^--?[a-z]/i.test(arg)) groups.push([arg]);
    else groups.at(-1)?.push(arg);
  }
  return groups;
}

/**
 * The files and folders of the host that a command needs, besides the restored disks.
 *
 * @param made What was restored.
 */
export function neededPaths(
  argv: string[],
  made: string[],
): { files: string[]; folders: string[] } {
  const files = new Set<string>(), folders = new Set<string>();
  const add = (isFile: boolean, path: string) => {
    if (made.includes(path) || path.startsWith("/dev/") || path.startsWith(LIBVIRTS)) return;
    if (isFile) files.add(path);
    else folders.add(path.slice(0, path.lastIndexOf("/")) || "/");
  };
  for (const [i, arg] of argv.entries()) {
    if (arg.startsWith("/")) add(!WRITTEN.includes(argv[i - 1] ?? ""), arg);
    for (const [, key = "", , path = ""] of arg.matchAll(/([\w.]+)(=|":\s*"|:)(\/[^,"]+)/g)) {
      add(/(^|\.)(file|filename)$/.test(key) && !arg.includes(`${key}:/`), path);
    }
  }
  return { files: [...files], folders: [...folders] };
}

/** Folders that libvirt makes when it starts a VM. */
const LIBVIRTS = "/var/lib/libvirt/qemu/domain-";

/** Options whose file QEMU makes. */
const WRITTEN = ["-pidfile", "-D"];
