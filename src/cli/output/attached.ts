/**
 * What `restore attach` says. Pure.
 *
 * @module
 */

import type { Attached } from "../../attach/detach.ts";
import type { Instruction } from "../../attach/instructions.ts";
import type { Attachment } from "../../repo/attachment.ts";
import { shellText } from "../../shell.ts";
import { localTime } from "../../time.ts";
import { printable, size, table } from "./text.ts";

/** What was attached, and what can be done with it. */
export function attachedText(
  { name, disks }: Attachment,
  dir: string,
  instructions: readonly Instruction[],
): string {
  const rows = disks.map(({ disk, pointInTime, images, virtualSizeBytes, open }) => [
    disk,
    localTime(new Date(pointInTime)),
    String(images.length),
    size(virtualSizeBytes),
    open,
  ]);
  return [
    `Attached as ${name}. The backups are only read.\n`,
    table([["DISK", "POINT IN TIME", "IMAGES", "SIZE", "OPEN"], ...rows]),
    ...instructions.map(({ does, line }) => `# ${does}\n${printable(line)}\n`),
    "# Detach it\n",
    shellText(["qmpbackup", "restore", "attach", "--dir", dir, "--detach", name]) + "\n",
  ].join("");
}

/** What is attached. */
export function attachedListText(all: readonly Attached[]): string {
  if (all.length === 0) return "Nothing is attached\n";
  const rows = all.flatMap(({ attachment: { name, since, kind, disks, host }, state }) =>
    disks.map(({ disk, pointInTime, open }) => [
      ...[name, kind, state, host, localTime(new Date(since)), disk],
      ...[localTime(new Date(pointInTime)), open],
    ])
  );
  return table([
    ["NAME", "KIND", "STATE", "HOST", "SINCE", "DISK", "POINT IN TIME", "OPEN"],
    ...rows,
  ]);
}

/** An attachment as `--json` tells it. */
export function attachedJson({ name, host, since, kind, disks }: Attachment) {
  return { name, host, since, kind, disks };
}
