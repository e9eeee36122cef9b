/**
 * Whether the images of a run are encrypted. A target that holds encrypted backups goes on so: nobody wants a night
 * in clear among them because a flag was forgotten. Pure.
 *
 * @module
 */

import { UsageError } from "../errors.ts";
import { restorePoints } from "../repo/chains.ts";
import type { RunRecord } from "../repo/record.ts";
import type { BackupRequest } from "./request.ts";

/** The request as it is carried out, and what a user has to know of that. */
export interface DecidedEncryption {
  request: BackupRequest;
  warnings: string[];
}

/**
 * Decides.
 *
 * @param runs Of the target, with `--monthly` of those before it, too.
 * @throws {UsageError} If the key is missing, or what was asked for can't be had with encryption.
 */
export function decideEncryption(
  asked: BackupRequest,
  runs: readonly RunRecord[],
): DecidedEncryption {
  const before = restorePoints([...runs]).findLast(({ disk }) => disk.encrypted);
  if (!asked.encrypt && !before) return notEncrypted(asked);
  if (asked.keyFile === null) {
    throw new UsageError(
      before
        ? `The target "${asked.target}" holds encrypted backups, and new ones are encrypted as well: name the ` +
          "file with their key (--key-file FILE). For backups that are not encrypted name another target"
        : "--encrypt needs the file with the key: --key-file FILE",
    );
  }
  if (asked.compress !== null) {
    throw new UsageError(
      "--compress does not go together with encryption: QEMU would write the compressed data without " +
        "encrypting it. Leave it out",
    );
  }
  const request = { ...asked, encrypt: true };
  if (asked.onLostBitmap !== "compare") return { request, warnings: [] };
  return {
    request: { ...request, onLostBitmap: "full" },
    warnings: [
      "--on-lost-bitmap compare was left out, since the backups are encrypted: a disk whose bitmap was lost " +
      "gets a full backup",
    ],
  };
}

function notEncrypted(asked: BackupRequest): DecidedEncryption {
  const words = "The backups are not encrypted, though there is a key: --encrypt encrypts them";
  return {
    request: { ...asked, keyFile: null },
    warnings: asked.keyFile === null ? [] : [words],
  };
}

/**
 * The images that a key is tried on before anything is changed: what increments build on, and the newest.
 *
 * @returns Relative to the target.
 */
export function imagesToTry(
  { encrypt }: Pick<BackupRequest, "encrypt">,
  parents: readonly (string | null)[],
  runs: readonly RunRecord[],
): string[] {
  if (!encrypt) return [];
  const newest = restorePoints([...runs]).findLast(({ disk }) => disk.encrypted);
  const files = [...parents, newest?.disk.file ?? null].filter((file) => file !== null);
  return [...new Set(files)];
}
