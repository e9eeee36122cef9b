/**
 * What systemd makes of `qmpbackup@.service`, without systemd as the first process: its command line,
 * its view of the file system, its umask, its capabilities and its system calls.
 *
 * @module
 */

import { UNITS } from "../../src/cli/systemd.ts";
import { ensurePrograms } from "./install_qemu.ts";
import { run } from "./run.ts";
import type { ToolResult } from "./tool.ts";

const SERVICE = UNITS[0]?.text ?? "";

/** The service that verifies, which is confined like the other one. */
export const VERIFY_SERVICE = UNITS[3]?.text ?? "";

/** The values of a setting of a service, in their order. */
function settings(key: string, service = SERVICE): string[] {
  return [...service.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value = ""]) => value);
}

/** The words of `ExecStart=` as systemd.service(5) says: `${X}` is one word, `$X` is split at spaces. */
export function unitCommand(environment: Record<string, string>, service = SERVICE): string[] {
  return settings("ExecStart", service).join("").split(" ").flatMap((word) => {
    const split = /^\$(\w+)$/.exec(word)?.[1];
    if (split !== undefined) return (environment[split] ?? "").split(/\s+/).filter(Boolean);
    return [word.replace(/\$\{(\w+)\}/g, (_, name) => environment[name] ?? "")];
  });
}

/** Mounts all read-only but what is named, hides all of /proc but processes, drops capabilities. */
const ENTER = `
set -e
capabilities=$1
umask "$2"
shift 2
places="/ $(awk '$1 == "qmpbackup-tests" { print $2 }' /proc/self/mounts)"
while [ "$1" != -- ]; do
  mount --bind "$1" "$1"
  shift
done
shift
for place in $places; do
  mount -o remount,bind,ro "$place"
done
mount -t proc -o ro,subset=pid,hidepid=invisible proc /proc
exec setpriv --bounding-set="$capabilities" --inh-caps="$capabilities" --no-new-privs -- "$@"
`;

/** Refuses all system calls but those of a filter, which systemd itself makes a list of. */
const FILTER = `
import errno, os, seccomp, subprocess, sys
groups, group = {}, None
for line in subprocess.check_output(["systemd-analyze", "syscall-filter"], text=True).splitlines():
    word = line.strip()
    if line.startswith("@"):
        group = groups.setdefault(word, [])
    elif line.startswith(" ") and not word.startswith("#"):
        group.append(word)
def calls(name):
    return {call for word in groups[name] for call in calls(word)} if name in groups else {name}
wanted, command = sys.argv[1].split(), sys.argv[2:]
allowed = set()
for word in wanted:
    if word.startswith("~"):
        allowed -= calls(word[1:])
    else:
        allowed |= calls(word)
rules = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
for call in allowed:
    try:
        rules.add_rule(seccomp.ALLOW, call)
    except (RuntimeError, ValueError):
        pass  # Of another architecture.
rules.load()
os.execvp(command[0], command)
`;

const PYTHON = "/usr/bin/python3";

/**
 * Runs a command as the unit would.
 *
 * @param writable Folders in the place of those that `ReadWritePaths=` names.
 */
export async function runAsUnit(
  command: string[],
  writable: string[],
  env: Record<string, string>,
): Promise<ToolResult> {
  const kept = settings("CapabilityBoundingSet").join(" ").split(" ")
    .map((name) => `+${name.replace("CAP_", "").toLowerCase()}`);
  const capabilities = ["-all", ...kept].join(",");
  const umask = settings("UMask").join("") || "0022";
  const filter = [PYTHON, "-c", FILTER, settings("SystemCallFilter").join(" ")];
  const args = ["-c", ENTER, "sh", capabilities, umask, ...writable, "--", ...filter, ...command];
  await ensurePrograms({
    [PYTHON]: "python3",
    "/usr/share/doc/python3-seccomp": "python3-seccomp",
    "systemd-analyze": "systemd",
  });
  return await run("unshare", ["--mount", "--", "sh", ...args], { env });
}
