/**
 * How a finished image is told from one that was changed: by its size, and by a digest of the places that a
 * write into it changes. It survives copying the folder, and costs some kilobytes to read.
 *
 * Our images are sealed besides: random bits in the header's field for features that a program must clear
 * when it opens an image for writing and does not know them (docs/interop/qcow2.txt, "autoclear_features").
 * QEMU 5.2 to 11.1 clear them at once, even if nothing is written then, and leave them when they only read.
 * So a VM that was started on an image is seen, and no two images have the same seal.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { createHash } from "node:crypto";
import { join } from "@std/path";
import * as v from "valibot";
import { Failure } from "../errors.ts";
import { type NotTheFile, type Opened, withFile, withFiles } from "../fs/open.ts";
import {
  AUTOCLEAR_OFFSET,
  firstCluster,
  HEADER_BYTES,
  parseHeader,
  type Qcow2Header,
} from "../qcow2/header.ts";

/** What a record keeps of an image. */
export const Fingerprint = v.object({
  sizeBytes: v.pipe(v.number(), v.safeInteger(), v.minValue(0)),
  /** SHA-256 in hexadecimal digits. */
  digest: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "is not a digest")),
});
export type Fingerprint = v.InferOutput<typeof Fingerprint>;

/** An image that can't be built on or restored. */
export interface ImageFault {
  state: "missing" | "changed" | "unreadable";
  /** Goes on from its name: "is missing". */
  reason: string;
}

export const MISSING: ImageFault = { state: "missing", reason: "is missing" };

/** What was seen of an image. */
export interface ImageLook {
  fingerprint: Fingerprint;
  /** The times at which it was written and changed last: another one in its place, even for a while, shows. */
  stamp: string;
  virtualSizeBytes: number;
  clusterSizeBytes: number;
  /** The parent as it stands in the header, or null. */
  backing: string | null;
  isEncrypted: boolean;
}

/** The reserved bits 16 to 63: the others may get a meaning one day. */
const SEAL_BYTES = 6;

const PIECE_BYTES = 4096;
/** Of the table of tables: enough for a disk of 1 TiB at clusters of 64 KiB. */
const L1_BYTES = 16384;
/** QEMU takes no longer name. */
const MAX_BACKING_BYTES = 1023;

/**
 * Looks at an image: reads at most 45 KiB, of a regular file only.
 *
 * @param path Absolute.
 * @param recorded What its record says of it, if it says so.
 * @returns What is wrong with it, or what was seen.
 * @throws {HangingError} If its file system does not answer.
 */
export async function lookAtImage(
  deadline: Deadline,
  path: string,
  recorded?: Fingerprint,
): Promise<ImageLook | ImageFault> {
  try {
    return await withFile(deadline, path, { read: true }, (file) => look(file, recorded));
  } catch (error) {
    return faultOf(error);
  }
}

function faultOf(error: unknown): ImageFault {
  const { NotFound, NotADirectory, PermissionDenied } = Deno.errors;
  if (error instanceof NotFound || error instanceof NotADirectory) return MISSING;
  if (error instanceof PermissionDenied) {
    return { state: "unreadable", reason: `can't be read: ${error.message}` };
  }
  throw error;
}

/** Whether there is something wrong with an image. */
export function isFault(seen: ImageLook | ImageFault): seen is ImageFault {
  return "state" in seen;
}

const IN_ITS_PLACE: Record<NotTheFile, string> = {
  link: "is a symbolic link: put the image itself in its place",
  "not a file": "is not a regular file",
  replaced: "was just replaced",
};

async function look(
  opened: Opened | NotTheFile,
  recorded?: Fingerprint,
): Promise<ImageLook | ImageFault> {
  if (typeof opened === "string") return changed(IN_ITS_PLACE[opened]);
  const { file, info } = opened;
  const { size } = info;
  if (recorded && size !== recorded.sizeBytes) {
    return changed(
      `was changed: it has ${size} bytes, and had ${recorded.sizeBytes} when it was finished`,
    );
  }
  const read = (offset: number, length: number) => readPiece(file, size, offset, length);
  const head = await read(0, PIECE_BYTES);
  const header = parseHeader(head);
  if (!header) return changed("was changed: it is not a qcow2 image");
  if (header.isCorrupt) return changed("is marked as corrupt by QEMU");
  if (header.hasDataFile) {
    return changed("keeps its data in another file, which no backup of ours does");
  }
  const digest = digestOf([head, ...await piecesOf(header, size, read)]);
  if (recorded && digest !== recorded.digest) {
    return changed(
      "was changed: a VM was started on it, another program wrote to it, or another version of it " +
        "was put in its place",
    );
  }
  const { offset, length } = header.backing;
  const name = await read(offset, Math.min(length, MAX_BACKING_BYTES));
  return {
    fingerprint: { sizeBytes: size, digest },
    stamp: `${info.mtime?.getTime()} ${info.ctime?.getTime()}`,
    virtualSizeBytes: header.virtualSizeBytes,
    clusterSizeBytes: header.clusterSizeBytes,
    isEncrypted: header.isEncrypted,
    backing: length === 0 ? null : new TextDecoder().decode(name),
  };
}

const changed = (reason: string): ImageFault => ({ state: "changed", reason });

type Read = (offset: number, length: number) => Promise<Uint8Array>;

/** What a write changes: the tables, what they name first, and where the file ends. */
async function piecesOf({ l1, refcountTableOffset }: Qcow2Header, size: number, read: Read) {
  const refcounts = await read(refcountTableOffset, PIECE_BYTES);
  const counts = await read(firstCluster(refcounts), PIECE_BYTES);
  const tables = await read(l1.offset, Math.min(l1.entries * 8, L1_BYTES));
  const table = await read(firstCluster(tables), PIECE_BYTES);
  const data = await read(firstCluster(table), PIECE_BYTES);
  const end = await read(Math.max(size - PIECE_BYTES, 0), PIECE_BYTES);
  return [refcounts, counts, tables, table, data, end];
}

function digestOf(pieces: Uint8Array[]): string {
  const hash = createHash("sha256");
  // With their lengths, so that what one piece ends with can't be the beginning of the next.
  hash.update(`${pieces.map(({ length }) => length).join(" ")}\n`);
  for (const piece of pieces) hash.update(piece);
  return hash.digest("hex");
}

/** Of an open file this asks no storage (lseek(2)), so that there is nothing to wait for. */
function seek(file: Deno.FsFile, offset: number): void {
  file.seekSync(offset, Deno.SeekMode.Start);
}

/** Reads a piece as far as the file goes. */
async function readPiece(
  file: Deno.FsFile,
  size: number,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(Math.max(Math.min(length, size - offset), 0));
  if (bytes.length === 0) return bytes;
  seek(file, offset);
  let at = 0;
  while (at < bytes.length) {
    const count = await file.read(bytes.subarray(at));
    if (count === null) break;
    at += count;
  }
  return bytes.subarray(0, at);
}

/**
 * Seals a finished image, and flushes it. What is not a qcow2 image of version 3 has no place for a seal.
 *
 * @throws {Failure} If something else is in its place.
 */
export async function sealImage(deadline: Deadline, path: string): Promise<void> {
  await withFile(deadline, path, { read: true, write: true }, async (opened) => {
    if (typeof opened === "string") throw new Failure(`"${path}" was replaced by another program`);
    const { file } = opened;
    if (parseHeader(await readPiece(file, HEADER_BYTES, 0, HEADER_BYTES))?.version !== 3) return;
    const seal = crypto.getRandomValues(new Uint8Array(SEAL_BYTES));
    await file.seek(AUTOCLEAR_OFFSET, Deno.SeekMode.Start);
    for (let at = 0; at < seal.length;) at += await file.write(seal.subarray(at));
    await file.sync();
  });
}

/**
 * Looks at many images.
 *
 * @param folder The target; absolute.
 * @param expected What is recorded of each, by its path in the target.
 * @returns What was seen of each.
 */
export async function lookAtImages(
  deadline: Deadline,
  folder: string,
  expected: Map<string, Fingerprint | undefined>,
): Promise<Map<string, ImageLook | ImageFault>> {
  const seen = new Map<string, ImageLook | ImageFault>();
  const files = [...expected];
  const paths = files.map(([file]) => join(folder, file));
  const looks = withFiles(
    deadline,
    paths,
    { read: true },
    (opened, i) => look(opened, files[i]?.[1]),
  );
  for await (const result of looks) {
    const [file = ""] = files[seen.size] ?? [];
    seen.set(file, result.status === "fulfilled" ? result.value : faultOf(result.reason));
  }
  return seen;
}
