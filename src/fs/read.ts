/**
 * Reads large files, piece by piece.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import type { Deadline } from "./deadline.ts";
import { openSame } from "./open.ts";

/** A part of a file. */
export interface Range {
  offset: number;
  length: number;
}

export interface ReadOptions {
  signal?: AbortSignal;
  /** Gets how many bytes have been read since the last call. */
  onBytes?: (bytes: number) => void;
}

/**
 * Opens a file to read it: a regular one, not through a link. It may have several names (hard links).
 *
 * @throws {Failure} If it is something else.
 * @throws {Deno.errors.NotFound} If there is nothing.
 */
export async function openRegular(deadline: Deadline, path: string): Promise<Deno.FsFile> {
  const seen = await deadline.ask(path, () => Deno.lstat(path));
  if (!seen.isFile) {
    throw new Failure(`"${path}" is not a regular file (a link, a folder, a pipe)`);
  }
  return await openSame(deadline, path, seen, { read: true });
}

const CHUNK_BYTES = 1 << 20;

/**
 * Reads a range of a file. While one piece is worked on, the next is being read.
 *
 * @param file What `openRegular()` opened.
 * @param onChunk Gets the pieces, in order; they are overwritten when it has returned.
 * @returns How many bytes there were: fewer where the file ends before the range does.
 */
export async function readRange(
  deadline: Deadline,
  file: Deno.FsFile,
  path: string,
  range: Range,
  onChunk: (chunk: Uint8Array) => void,
  options: ReadOptions = {},
): Promise<number> {
  return await deadline.runLong(path, range.length, () => read(file, range, onChunk, options));
}

async function read(
  file: Deno.FsFile,
  { offset, length }: Range,
  onChunk: (chunk: Uint8Array) => void,
  { signal, onBytes }: ReadOptions,
): Promise<number> {
  const buffers = [0, 1].map(() => new Uint8Array(Math.min(CHUNK_BYTES, length)));
  const readInto = async (index: number, left: number) => {
    const buffer = buffers[index % 2]?.subarray(0, left) as Uint8Array;
    const count = left === 0 ? null : await file.read(buffer);
    return buffer.subarray(0, count ?? 0);
  };
  await file.seek(offset, Deno.SeekMode.Start);
  let done = 0;
  let chunk = await readInto(0, length);
  for (let index = 1; chunk.length > 0; index++) {
    signal?.throwIfAborted();
    done += chunk.length;
    const next = readInto(index, length - done);
    onChunk(chunk);
    onBytes?.(chunk.length);
    chunk = await next;
  }
  return done;
}
