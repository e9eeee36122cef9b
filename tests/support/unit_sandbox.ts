/**
 * What systemd makes of `qmpbackup@.service`, without systemd as the first process: its command line,
 * its view of the file system and its capabilities.
 *
 * @module
 */

import { UNITS } from "../../src/cli/units.ts";
import { run } from "./run.ts";
import type { ToolResult } from "./tool.ts";

const SERVICE = UNITS[0]?.text ?? "";

/** The values of a setting of the service, in their order. */
function settings(key: string): string[] {
  return [...SERVICE.matchAll(new RegExp(`^${key}=(.*)$`, "gm"))].map(([, value = ""]) => value);
}

/** The words of `ExecStart=` as systemd.service(5) says: `${X}` is one word, `$X` is split at spaces. */
export function unitCommand(environment: Record<string, string>): string[] {
  return settings("ExecStart").join("").split(" ").flatMap((word) => {
    const split = /^\$(\w+)$/.exec(word)?.[1];
    if (split !== undefined) return (environment[split] ?? "").split(/\s+/).filter(Boolean);
    return [word.replace(/\$\{(\w+)\}/g, (_, name) => environment[name] ?? "")];
  });
}

/** Mounts all read-only but what is named, hides all of /proc but processes, drops capabilities. */
const ENTER = `
set -e
capabilities=$1
shift
while [ "$1" != -- ]; do
  mount --bind "$1" "$1"
  shift
done
shift
mount -o remount,bind,ro /
mount -t proc -o ro,subset=pid,hidepid=invisible proc /proc
exec setpriv --bounding-set="$capabilities" --inh-caps="$capabilities" --no-new-privs -- "$@"
`;

/**
 * Runs a command as the unit would, but for `SystemCallFilter=` and the like.
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
  const args = ["-c", ENTER, "sh", capabilities, ...writable, "--", ...command];
  return await run("unshare", ["--mount", "--", "sh", ...args], { env });
}
