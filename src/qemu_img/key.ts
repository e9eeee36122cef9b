/**
 * The key of encrypted images, which is the contents of a file: every byte of it, a newline at its end too, as
 * `qemu-img --object secret,file=` takes it. So any QEMU tool opens the images with that file. QEMU's tools read the
 * file themselves: the key stands in no command line.
 *
 * Source: QEMU's manual page qemu-img(1), "--object secret"; `qcrypto_secret_lookup_as_utf8()`.
 *
 * @module
 */

import { messageOf, UsageError } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import { readBytesUpTo } from "../fs/open.ts";

/** What the key is called among QEMU's objects, in all of its tools. Overlays name it in their headers. */
export const KEY_ID = "backup-key";

/** What a QEMU tool has to be told of an encrypted image, beside its file. */
export const LUKS = { encrypt: { format: "luks", "key-secret": KEY_ID } } as const;

/**
 * How long, in milliseconds, QEMU works to make guessing a short key slow. It does so each time an image is opened:
 * in the VM's main loop, where the guest waits, and once for each image of a chain. QEMU's default of 2 seconds
 * would stop the guest for as long, and a chain of 100 images would take minutes to open (measured: 10 ms give
 * 40 000 rounds, and 40 ms to open). A random key needs none of it, and against a short passphrase 2 seconds are worth
 * no more than one or two characters: so the key is to be random, see `SHORTEST_KEY_BYTES`.
 */
const ITER_TIME_MS = 10;

/** The options of a new image that is encrypted, as `-o` takes them. */
export const NEW_LUKS = [
  "encrypt.format=luks",
  `encrypt.key-secret=${KEY_ID}`,
  `encrypt.iter-time=${ITER_TIME_MS}`,
];

/** What QEMU's LUKS header takes in each image. */
export const LUKS_HEADER_BYTES = 2 << 20;

/** Tells a QEMU tool where the key is: the file's name, not the key. */
export function keyObject(keyFile: string): string {
  // In a list of options a comma is written twice.
  return `secret,id=${KEY_ID},file=${keyFile.replaceAll(",", ",,")}`;
}

/** The shortest that a new image is made with: 16 random bytes in hexadecimal digits have 32. */
const SHORTEST_KEY_BYTES = 20;
const MAX_KEY_BYTES = 4096;

/** Made by this. */
const REMEDY = "make a key with: (umask 077; openssl rand -hex 32 >FILE)";

/**
 * What is wrong with a key, in words that go on from the file's name; null where it is good. Pure.
 *
 * @param mode The file's; null where the system has none.
 */
export function problemOfKey(bytes: Uint8Array, mode: number | null): string | null {
  if (bytes.length === 0) return `is empty: ${REMEDY}`;
  if (mode !== null && (mode & 0o007) !== 0) {
    return "can be read or written by every user of this machine: chmod o= FILE, and if others may know the key " +
      "by now, use a new one";
  }
  if (bytes.includes(0)) return `holds a zero byte, where QEMU ends a key: ${REMEDY}`;
  try {
    new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return `is not text in UTF-8, which QEMU needs: ${REMEDY}`;
  }
  if (bytes.length >= SHORTEST_KEY_BYTES) return null;
  return `holds ${bytes.length} bytes, and a key of less than ${SHORTEST_KEY_BYTES} can be guessed: ${REMEDY}`;
}

/**
 * Reads a key.
 *
 * @param keyFile Absolute. It may be a link.
 * @throws {UsageError} If it is missing, or can't be a key.
 */
export async function readKey(deadline: Deadline, keyFile: string): Promise<Uint8Array> {
  let bytes: Uint8Array | null;
  let mode: number | null;
  try {
    ({ mode } = await stat(deadline, keyFile));
    bytes = await readBytesUpTo(deadline, keyFile, MAX_KEY_BYTES);
  } catch (error) {
    throw new UsageError(`The key file "${keyFile}" can't be read: ${messageOf(error)}`, {
      cause: error,
    });
  }
  const problem = bytes === null
    ? `is not a regular file, or has more than ${MAX_KEY_BYTES} bytes`
    : problemOfKey(bytes, mode);
  if (bytes === null || problem !== null) {
    throw new UsageError(`The key file "${keyFile}" ${problem}`);
  }
  return bytes;
}

/** QEMU's words for a key that does not fit, and for one that is missing. */
const WRONG = /Invalid password, cannot unlock any keyslot/;
const MISSING = /Parameter '[\w.-]*key-secret' is required for cipher/;

/** QEMU's words about keys in plainer ones; others as they are. Pure. */
export function explainKey(words: string): string {
  if (WRONG.test(words)) {
    return `${words} (the key file does not hold the key of this image; all of its bytes count, a newline at ` +
      "the end too)";
  }
  return MISSING.test(words) ? `${words} (the image is encrypted: --key-file FILE)` : words;
}

/** Whether QEMU refused a key. */
export function isWrongKey(error: unknown): boolean {
  return WRONG.test(messageOf(error));
}
