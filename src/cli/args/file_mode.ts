/**
 * The mode of new files. Pure.
 *
 * @module
 */

import { OWNER_ONLY } from "../../fs/create.ts";
import { UsageError } from "../../errors.ts";

/**
 * Reads `--mode`.
 *
 * @throws {UsageError} If it is not the mode of a file that its owner can write.
 */
export function fileMode(text: string | undefined): number {
  if (text === undefined) return OWNER_ONLY;
  if (/^0?6[0246]{2}$/.test(text)) return parseInt(text, 8);
  throw new UsageError(
    `--mode takes an octal mode such as 0600 or 0660, not "${text}": the owner must be able to ` +
      "read and write, and nobody may execute",
  );
}
