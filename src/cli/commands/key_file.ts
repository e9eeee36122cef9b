import { join, resolve } from "@std/path";
import type { Deadline } from "../../fs/deadline.ts";
import { exists } from "../../fs/durable.ts";
import { readKey } from "../../qemu_img/key.ts";
import type { Values } from "../args/parse.ts";

/** What systemd's `LoadCredential=` is to call the key (systemd.exec(5), "$CREDENTIALS_DIRECTORY"). */
const CREDENTIAL = "qmpbackup-key";

/**
 * The file with the key of encrypted backups: that of --key-file, or of systemd.
 *
 * @returns Null where there is none.
 * @throws {UsageError} If it can't be a key.
 */
export async function keyFileOf(deadline: Deadline, values: Values): Promise<string | null> {
  const named = values["key-file"];
  const keyFile = named === undefined ? await credential(deadline) : resolve(named);
  if (keyFile !== null) await readKey(deadline, keyFile);
  return keyFile;
}

async function credential(deadline: Deadline): Promise<string | null> {
  const folder = credentialsFolder();
  if (folder === null) return null;
  const path = join(folder, CREDENTIAL);
  return await exists(deadline, path) ? path : null;
}

function credentialsFolder(): string | null {
  try {
    return Deno.env.get("CREDENTIALS_DIRECTORY") ?? null;
  } catch (error) {
    // Run from source with fewer rights: then the key is named.
    if (error instanceof Deno.errors.NotCapable) return null;
    throw error;
  }
}
