/**
 * Makes a file of what comes in piece by piece.
 *
 * @module
 */

import { createFile } from "./create.ts";
import type { Deadline } from "./deadline.ts";
import { remove } from "./files.ts";
import { openItself } from "./open.ts";

/**
 * Makes a file of what `produce` writes; if that fails, there is none.
 *
 * @returns How many bytes it has.
 * @throws {Deno.errors.AlreadyExists} If there is anything of that name.
 */
export async function createFileOf(
  deadline: Deadline,
  path: string,
  mode: number,
  produce: (write: (bytes: Uint8Array) => Promise<void>) => Promise<void>,
): Promise<number> {
  await createFile(deadline, path, mode);
  let sizeBytes = 0;
  try {
    using file = await openItself(deadline, path, "a copy", { write: true });
    await produce(async (bytes) => {
      for (let done = 0; done < bytes.length;) {
        done += await deadline.ask(path, () => file.write(bytes.subarray(done)));
      }
      sizeBytes += bytes.length;
    });
    await deadline.run(path, () => file.sync());
  } catch (error) {
    await remove(deadline, path).catch(() => {});
    throw error;
  }
  return sizeBytes;
}
