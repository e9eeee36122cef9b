/**
 * Tar archives of a few small files. Pure.
 *
 * Source: POSIX, pax(1), "ustar Interchange Format".
 *
 * @module
 */

export interface TarFile {
  /** As the archive has it: "./state/a". */
  name: string;
  contents: Uint8Array;
}

const BLOCK_BYTES = 512;
const MAX_NAME_BYTES = 100;
const NAME = { at: 0, length: MAX_NAME_BYTES };
const MODE = { at: 100, length: 8 };
const SIZE = { at: 124, length: 12 };
const CHECKSUM = { at: 148, length: 8 };
const TYPE = { at: 156, length: 1 };
const MAGIC = { at: 257, length: 8 };
const PREFIX = { at: 345, length: 155 };

/** Whether a name has room in an archive of ours. */
export function fitsTar(name: string): boolean {
  return new TextEncoder().encode(name).length <= MAX_NAME_BYTES;
}

/** Makes an archive, for its owner alone and without times: the same files are the same archive. */
export function makeTar(files: readonly TarFile[]): Uint8Array {
  const blocks = (bytes: number) => Math.ceil(bytes / BLOCK_BYTES) * BLOCK_BYTES;
  const sizeBytes = files.reduce(
    (sum, { contents }) => sum + BLOCK_BYTES + blocks(contents.length),
    2 * BLOCK_BYTES,
  );
  const tar = new Uint8Array(sizeBytes);
  let at = 0;
  for (const { name, contents } of files) {
    const header = tar.subarray(at, at + BLOCK_BYTES);
    const put = (field: { at: number }, text: string) =>
      header.set(new TextEncoder().encode(text), field.at);
    const octal = (value: number, { length }: { length: number }) =>
      value.toString(8).padStart(length - 1, "0");
    put(NAME, name);
    put(MODE, octal(0o600, MODE));
    put(SIZE, octal(contents.length, SIZE));
    put(TYPE, "0");
    put(MAGIC, "ustar\x0000");
    put(CHECKSUM, `${octal(checksum(header), { length: 7 })}\0 `);
    tar.set(contents, at + BLOCK_BYTES);
    at += BLOCK_BYTES + blocks(contents.length);
  }
  return tar;
}

/** The regular files in an archive; null if it is not one, or is damaged. */
export function filesOfTar(tar: Uint8Array): TarFile[] | null {
  const files: TarFile[] = [];
  for (let at = 0; at + BLOCK_BYTES <= tar.length;) {
    const header = tar.subarray(at, at + BLOCK_BYTES);
    if (header.every((byte) => byte === 0)) return at === 0 ? null : files;
    const sizeBytes = numberIn(header, SIZE);
    if (sizeBytes === null || numberIn(header, CHECKSUM) !== checksum(header)) return null;
    const from = at + BLOCK_BYTES, to = from + sizeBytes;
    if (to > tar.length) return null;
    if (["0", ""].includes(textIn(header, TYPE))) {
      const prefix = textIn(header, MAGIC) === "ustar" ? textIn(header, PREFIX) : "";
      const name = (prefix === "" ? "" : `${prefix}/`) + textIn(header, NAME);
      files.push({ name, contents: tar.slice(from, to) });
    }
    at = from + Math.ceil(sizeBytes / BLOCK_BYTES) * BLOCK_BYTES;
  }
  return files.length === 0 ? null : files;
}

/** The sum of a header's bytes, as if its own field held spaces. */
function checksum(header: Uint8Array): number {
  const { at, length } = CHECKSUM;
  return header.reduce((sum, byte, i) => sum + (i >= at && i < at + length ? 32 : byte), 0);
}

function textIn(header: Uint8Array, { at, length }: { at: number; length: number }): string {
  const bytes = header.subarray(at, at + length);
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end)).trimEnd();
}

function numberIn(header: Uint8Array, field: { at: number; length: number }): number | null {
  const text = textIn(header, field).trim();
  return /^[0-7]+$/.test(text) ? parseInt(text, 8) : null;
}
