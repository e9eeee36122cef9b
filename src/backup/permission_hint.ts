/**
 * What to do where QEMU can't open a file that we made. Pure.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { QmpCommandError } from "../qmp/client.ts";
import { shellText } from "../shell.ts";

/** What QEMU refused, with the remedies. */
export function explainOpen(error: unknown, path: string, remedy: string): unknown {
  if (!(error instanceof QmpCommandError)) return error;
  return new Failure(
    `QEMU can't open "${path}": ${error.desc}. If QEMU runs as another user, ${remedy}, and use ` +
      "--mode 0660; or run qmpbackup as QEMU's user. If QEMU sees other folders than we do (a " +
      "container), name one that both see",
    { cause: error },
  );
}

/** The commands that let a group make files in folders, which then belong to the group too. */
export function shareCommands(...folders: string[]): string {
  const commands = [["chgrp", "GROUP", ...folders], ["chmod", "2770", ...folders]];
  return `(${commands.map(shellText).join("; ")})`;
}
