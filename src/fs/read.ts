/**
 * Reads large files, piece by piece.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { lookAt } from "./create.ts";
import type { Deadline } from "./deadline.ts";

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
 * Opens a regular file to read it: not through a link, and nothing that was put in its place meanwhile. It may
 * have several names (hard links).
 *
 * @throws {Failure} If it is something else.
 * @throws {Deno.errors.NotFound} If there is nothing.
 */
export async function openRegular(deadline: Deadline, path: string): Promise<Deno.FsFile> {
  const seen = await lookAt(deadline, path);
  if (seen && !seen.isFile) {
    throw new Failure(`"${path}" is not a regular file (a link, a folder, a pipe)`);
  }
  const file = await deadline.run(path, () => Deno.open(path, { read: true }));
  try {
    const { dev, ino } = await deadline.run(path, () => file.stat());
    if (seen && (dev !== seen.dev || ino !== seen.ino)) {
      throw new Failure(`"${path}" was replaced while it was opened: run again`);
    }
  } catch (error) {
    file.close();
    throw error;
  }
  return file;
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
