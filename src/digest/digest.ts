/**
 * Computes the digests of a file.
 *
 * @module
 */

import { createHash } from "node:crypto";
import { Failure } from "../errors.ts";
import type { Deadline } from "../fs/deadline.ts";
import { openRegular, type Range, type ReadOptions, readRange } from "../fs/read.ts";
import { partBytesFor, type PartDigests, rangeOfPart } from "./format.ts";

/**
 * Computes the digest of a range of a file.
 *
 * @param file What `openRegular()` opened.
 * @throws {Failure} If the file ends before.
 */
export async function digestRange(
  deadline: Deadline,
  file: Deno.FsFile,
  path: string,
  range: Range,
  options: ReadOptions = {},
): Promise<string> {
  const hash = createHash("sha256");
  const count = await readRange(
    deadline,
    file,
    path,
    range,
    (chunk) => void hash.update(chunk),
    options,
  );
  if (count < range.length) throw new Failure(`"${path}" ends in the middle of what is read`);
  return hash.digest("hex");
}

/**
 * Computes the digests of all parts of a file: reads it once, from the start to the end.
 *
 * @throws {Failure} If it is not a regular file, or gets shorter meanwhile.
 */
export async function digestFile(
  deadline: Deadline,
  path: string,
  options: ReadOptions = {},
): Promise<PartDigests> {
  using file = await openRegular(deadline, path);
  const { size: sizeBytes } = await deadline.ask(path, () => file.stat());
  const size = { sizeBytes, partBytes: partBytesFor(sizeBytes) };
  const parts: string[] = [];
  while (parts.length * size.partBytes < sizeBytes) {
    parts.push(await digestRange(deadline, file, path, rangeOfPart(size, parts.length), options));
  }
  return { ...size, parts };
}
