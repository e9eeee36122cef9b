/**
 * The records of what is attached: each a file of its own beside the runs' records, which says what was
 * opened, and what has to be removed in the end.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { join } from "@std/path";
import * as v from "valibot";
import { Failure, messageOf } from "../errors.ts";
import { listFolder } from "../fs/files.ts";
import { refuseLink } from "../fs/create.ts";
import { createInside, exists, removeFile, removeFolders, writeDurably } from "../fs/durable.ts";
import { parseJson } from "../json.ts";
import { ATTACHED_FOLDER, RECORDS_FOLDER } from "./layout.ts";
import { readSmall } from "./repository.ts";

/** A path that can be removed for what it is: whole, and without a way up. */
const AbsolutePath = v.pipe(
  v.string(),
  v.check((path) => path.startsWith("/") && !/\0|(^|\/)\.\.?(\/|$)/.test(path), "is not absolute"),
);

const AttachedDisk = v.object({
  disk: v.string(),
  /** The point's image: its name. */
  point: v.string(),
  pointInTime: v.pipe(v.string(), v.isoTimestamp()),
  /** Each image that is open, relative to the folder whose record this is. */
  images: v.array(v.string()),
  virtualSizeBytes: v.number(),
  /** What to open: an overlay's path, or the URI of an NBD export. */
  open: v.string(),
});
/** One disk of an attachment. */
export type AttachedDisk = v.InferOutput<typeof AttachedDisk>;

const FORMAT = "qmpbackup-attached";

/** What `restore attach` has opened. */
export const Attachment = v.object({
  format: v.literal(FORMAT),
  version: v.literal(1),
  name: v.pipe(v.string(), v.regex(/^[0-9a-f]{8}$/, "is not an attachment's name")),
  /** Where it was made: another host can't see whether it still lives. */
  host: v.string(),
  since: v.pipe(v.string(), v.isoTimestamp()),
  /** `files` and `test` are what `restore files` and `restore test` have open while they run. */
  kind: v.picklist(["overlay", "nbd", "files", "test"]),
  disks: v.array(AttachedDisk),
  /** Files that were made for it. */
  files: v.array(AbsolutePath),
  /** Of an NBD server: its own socket, and the one that ends it. */
  sockets: v.nullable(v.object({ nbd: AbsolutePath, qmp: AbsolutePath })),
});
export type Attachment = v.InferOutput<typeof Attachment>;

export const ATTACHMENT_HEAD = { format: FORMAT, version: 1 } as const;

/**
 * Decodes a record. Pure.
 *
 * @returns Null if it is not a record of ours.
 */
export function parseAttachment(text: string): Attachment | null {
  try {
    return v.parse(Attachment, parseJson(text), { abortEarly: true });
  } catch {
    return null;
  }
}

/** The record's file. */
export function attachmentFile(place: string, name: string): string {
  return join(place, ATTACHED_FOLDER, `${name}.json`);
}

/**
 * Reads what is attached of a folder's images.
 *
 * @param place A target, or a disk's folder where there are no records.
 * @throws {Failure} If a record can't be read: what is open is not known then.
 */
export async function readAttachments(deadline: Deadline, place: string): Promise<Attachment[]> {
  const folder = join(place, ATTACHED_FOLDER);
  if (!await exists(deadline, folder)) return [];
  const attachments: Attachment[] = [];
  for (const { name } of await listFolder(deadline, folder)) {
    if (!name.endsWith(".json")) continue;
    const path = join(folder, name);
    const attachment = parseAttachment(await readSmall(deadline, path));
    if (attachment === null || `${attachment.name}.json` !== name) {
      throw new Failure(
        `"${path}" is not a record that this version of qmpbackup can read: if nothing is attached ` +
          "any more, remove it",
      );
    }
    attachments.push(attachment);
  }
  return attachments.toSorted((a, b) => a.since.localeCompare(b.since));
}

/**
 * Records what is about to be attached.
 *
 * @throws {Failure} If it can't be written, with what to do.
 */
export async function writeAttachment(
  deadline: Deadline,
  place: string,
  attachment: Attachment,
  mode?: number,
): Promise<void> {
  const path = attachmentFile(place, attachment.name);
  try {
    await createInside(deadline, join(place, RECORDS_FOLDER), mode);
    await createInside(deadline, join(place, ATTACHED_FOLDER), mode);
    await writeDurably(
      deadline,
      path,
      JSON.stringify(attachment, null, 2) + "\n",
      mode ? { mode } : {},
    );
  } catch (error) {
    throw new Failure(
      `What is attached can't be recorded in "${path}": ${messageOf(error)}. Without a record, a ` +
        "prune or a commit could change images that are in use: make the folder writable, or use " +
        "restore merge",
      { cause: error },
    );
  }
}

/** Forgets it. Folders that were made for records alone go with the last one. */
export async function removeAttachment(
  deadline: Deadline,
  place: string,
  name: string,
): Promise<void> {
  for (const folder of [RECORDS_FOLDER, ATTACHED_FOLDER]) {
    await refuseLink(deadline, join(place, folder));
  }
  await removeFile(deadline, attachmentFile(place, name));
  await removeFolders(deadline, [join(place, RECORDS_FOLDER), join(place, ATTACHED_FOLDER)]);
}
