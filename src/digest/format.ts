/**
 * The digests of an image, as a file keeps them: one for each part of the image, so that damage is named by
 * where it lies. Pure.
 *
 * The file checks itself: it ends in a digest of all that stands before. So does no bit of it change unseen.
 *
 * @module
 */

import { createHash } from "node:crypto";
import * as v from "valibot";
import { brief, Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { Fingerprint } from "../repo/fingerprint.ts";

const FORMAT = "qmpbackup-digests";
const VERSION = 1;

/** A file of digests that can't be believed. */
export class DigestError extends Failure {
  override name = "DigestError";
}

const SHA256 = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "is not a digest"));
const bytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

/** The digests of the parts of a file, in their order. */
export interface PartDigests {
  sizeBytes: number;
  /** Of each part but the last one, which is as long as what is left. */
  partBytes: number;
  /** SHA-256 in hexadecimal digits. */
  parts: string[];
}

const ImageDigests = v.pipe(
  v.object({
    format: v.literal(FORMAT),
    version: v.literal(VERSION),
    /** The image, relative to the folder that `_qmpbackup` lies in. */
    image: v.string(),
    /** UTC. */
    recorded: v.pipe(v.string(), v.isoTimestamp()),
    /** Which state of the image they are of; null for a raw image, which has none. */
    fingerprint: v.nullable(Fingerprint),
    sizeBytes: bytes,
    partBytes: v.pipe(bytes, v.minValue(1)),
    parts: v.array(SHA256),
  }),
  v.check(
    ({ sizeBytes, partBytes, parts }) => parts.length === Math.ceil(sizeBytes / partBytes),
    "has not as many parts as the image",
  ),
);
/** What is kept of an image. */
export type ImageDigests = v.InferOutput<typeof ImageDigests>;

/** What new digests start from. */
export const DIGESTS_HEAD = { format: FORMAT, version: VERSION } as const;

const LEAST_PART_BYTES = 16 << 20;
/** At 67 bytes each they are 2 MiB of text. */
const MOST_PARTS = 1 << 15;

/** More than the largest file of digests has. */
export const MAX_DIGESTS_BYTES = 4 << 20;

/** How long the parts of a file are: 16 MiB, and longer where the file is larger than 512 GiB. */
export function partBytesFor(sizeBytes: number): number {
  let partBytes = LEAST_PART_BYTES;
  while (sizeBytes / partBytes > MOST_PARTS) partBytes *= 2;
  return partBytes;
}

/** What stands at the end, behind all that is digested. */
const END = /^,\n "sha256": "([0-9a-f]{64})"\n\}\n$/;
const endOf = (head: string) => `,\n "sha256": "${sha256(head)}"\n}\n`;
const END_LENGTH = endOf("").length;

/** The text of a file of digests. */
export function formatDigests(digests: ImageDigests): string {
  const head = JSON.stringify(digests, null, 1).slice(0, -"\n}".length);
  return head + endOf(head);
}

/**
 * Decodes a file of digests.
 *
 * @param name The file's name, for the message.
 * @param image Whose digests they must be.
 * @throws {DigestError} If it was changed, is another image's, or a newer program's.
 */
export function parseDigests(name: string, text: string, image: string): ImageDigests {
  const head = text.slice(0, -END_LENGTH);
  const [, digest] = END.exec(text.slice(-END_LENGTH)) ?? [];
  if (digest === undefined || digest !== sha256(head)) {
    throw new DigestError(`The file of digests "${name}" is damaged`);
  }
  let json: unknown;
  try {
    json = parseJson(text);
  } catch {
    throw new DigestError(`The file of digests "${name}" is not JSON`);
  }
  const known = v.safeParse(ImageDigests, json, { abortEarly: true });
  if (!known.success) {
    const { success } = v.safeParse(v.object({ version: v.pipe(v.number(), v.gtValue(1)) }), json);
    throw new DigestError(
      success
        ? `The file of digests "${name}" was written by a newer qmpbackup: use that one here`
        : `The file of digests "${name}" is not one of ours: ${brief(known.issues[0].message)}`,
    );
  }
  if (known.output.image !== image) {
    throw new DigestError(
      `The file of digests "${name}" belongs to another image, "${brief(known.output.image)}"`,
    );
  }
  return known.output;
}

function sha256(text: string): string {
  return createHash("sha256").update(text).digest("hex");
}

/** Where a part lies in its file. */
export function rangeOfPart(
  { sizeBytes, partBytes }: Omit<PartDigests, "parts">,
  index: number,
): { offset: number; length: number } {
  const offset = index * partBytes;
  return { offset, length: Math.max(Math.min(partBytes, sizeBytes - offset), 0) };
}
