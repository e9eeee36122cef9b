/**
 * What is attached, whether it still lives, and how it is let go.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { dirname, join, relative } from "@std/path";
import { Failure, messageOf } from "../errors.ts";
import { listFolder } from "../fs/files.ts";
import { lookAt } from "../fs/create.ts";
import { exists, removeFile, removeFolders } from "../fs/durable.ts";
import { imageFacts } from "../qemu_img/qemu_img.ts";
import { type Attachment, readAttachments, removeAttachment } from "../repo/attachment.ts";
import { isFault, lookAtImage } from "../repo/fingerprint.ts";
import { ATTACHED_FOLDER } from "../repo/layout.ts";
import { shellText } from "../shell.ts";
import { isServing, stopServer } from "./nbd.ts";

const log = getLogger(["qmpbackup", "attach"]);

const DETACH = ["qmpbackup", "restore", "attach", "--dir"];

/** How it stands with an attachment. Of one that another host made nothing is known. */
export type AttachedState = "attached" | "dead" | "on another host";

export interface Attached {
  /** The folder whose records name it. */
  place: string;
  attachment: Attachment;
  state: AttachedState;
}

/**
 * Lists what is attached of the images in a folder.
 *
 * @param dir A target, a folder of targets, or a disk's folder. Absolute.
 */
export async function listAttached(
  deadline: Deadline,
  dir: string,
  host: string,
): Promise<Attached[]> {
  const folders = await exists(deadline, dir) ? await listFolder(deadline, dir) : [];
  const places = [
    ...[dir, dirname(dir)],
    ...folders.filter(({ isDirectory }) => isDirectory).map(({ name }) => join(dir, name)),
  ];
  const found: Attached[] = [];
  for (const place of places) {
    if (!await exists(deadline, join(place, ATTACHED_FOLDER))) continue;
    for (const attachment of await readAttachments(deadline, place)) {
      found.push({ place, attachment, state: await stateOf(deadline, attachment, host) });
    }
  }
  return found;
}

async function stateOf(
  deadline: Deadline,
  attachment: Attachment,
  host: string,
): Promise<AttachedState> {
  if (attachment.host !== host) return "on another host";
  const { files, sockets, disks } = attachment;
  if (sockets) return await isServing(sockets) ? "attached" : "dead";
  // The overlays of `restore vm --instant` are the VM's own, and not ours to remove.
  for (const file of [...files, ...disks.map(({ open }) => open)]) {
    if (await exists(deadline, file)) return "attached";
  }
  return "dead";
}

/**
 * Lets an attachment go: ends its server, removes its files and its record.
 *
 * @throws {Failure} If a VM runs or stands on it, or another host made it.
 */
export async function detach(
  deadline: Deadline,
  { place, attachment, state }: Attached,
): Promise<void> {
  if (state === "on another host") {
    throw new Failure(
      `"${attachment.name}" was attached on the host "${attachment.host}": detach it there. If that ` +
        `host does not exist any more, remove "${
          join(place, ATTACHED_FOLDER, attachment.name)
        }.json"`,
    );
  }
  if (attachment.kind === "overlay") {
    await refuseInUse(deadline, attachment);
    await refuseOfVm(deadline, attachment);
  }
  await undo(deadline, place, attachment);
}

/** QEMU locks what it writes to, and `qemu-img` respects that. */
async function refuseInUse(deadline: Deadline, { name, disks }: Attachment) {
  for (const { open } of disks) {
    if (isFault(await lookAtImage(deadline, open))) continue;
    await imageFacts(deadline, open).catch((error) => {
      throw new Failure(
        `"${name}" can't be detached: "${open}" is in use. End the VM (or qemu-nbd --disconnect) ` +
          `and run again (${messageOf(error)})`,
        { cause: error },
      );
    });
  }
}

/** Forgotten, its backups would be pruned under a VM that stands on them. */
async function refuseOfVm(deadline: Deadline, { name, disks, files }: Attachment) {
  for (const { open } of disks) {
    if (files.includes(open) || !await exists(deadline, open)) continue;
    throw new Failure(
      `"${name}" can't be detached: "${open}" is a disk of a VM made by "restore vm --instant", ` +
        'and still needs these backups. Start the VM and run "qmpbackup restore finish", or ' +
        "remove the disk if nobody needs it",
    );
  }
}

/** Removes all that there is of an attachment, its record last. */
export async function undo(
  deadline: Deadline,
  place: string,
  attachment: Attachment,
): Promise<void> {
  const { name, kind, sockets, files } = attachment;
  if (sockets) {
    if (await isServing(sockets)) await stopServer(sockets);
    for (const path of Object.values(sockets)) {
      if ((await lookAt(deadline, path))?.isSocket) await removeFile(deadline, path);
    }
  }
  for (const path of files.toReversed()) {
    const isOurs = await isOverlayOf(deadline, path, place, attachment);
    if (isOurs) await removeFile(deadline, path);
    else if (isOurs === false) {
      log.warn("{path} is not an overlay of this backup any more, and is left where it is", {
        path,
      });
    }
  }
  // The folder was made for it alone.
  if (kind === "files" || kind === "test") {
    await removeFolders(deadline, [...new Set(files.map((path) => dirname(path)))]);
  }
  await removeAttachment(deadline, place, name);
}

/**
 * Whether a file is the overlay that we made: a record that came with a backup from elsewhere may name any
 * file. Null where there is nothing.
 */
async function isOverlayOf(
  deadline: Deadline,
  path: string,
  place: string,
  { disks, files }: Attachment,
): Promise<boolean | null> {
  const info = await lookAt(deadline, path).catch((error) => {
    throw leftMounted(path, error);
  });
  if (info === null) return null;
  // We were stopped before it was made.
  if (info.isFile && info.size === 0) return true;
  const seen = await lookAtImage(deadline, path);
  if (isFault(seen) || seen.backing === null) return false;
  const below = [...disks.flatMap(({ images }) => images.map((one) => join(place, one))), ...files];
  const { backing } = seen;
  return below.some((one) => backing === one || backing.includes(JSON.stringify(one)));
}

/** A server that was killed leaves what it showed as a file mounted, and nothing can be done with that. */
function leftMounted(path: string, error: unknown): unknown {
  if (!(error instanceof Error) || !("code" in error) || error.code !== "ENOTCONN") return error;
  return new Failure(
    `"${path}" was left mounted by a server that was killed: unmount it ` +
      `(${shellText(["fusermount3", "-u", path])}, or umount -l as root), and run again`,
    { cause: error },
  );
}

/**
 * Refuses to change images that are open, and forgets what is dead.
 *
 * @param place Where the records are: see `placeOf()`.
 * @param paths The images, absolute.
 * @throws {Failure} If one of them is attached, with what to do.
 */
export async function refuseAttached(
  deadline: Deadline,
  place: string,
  paths: readonly string[],
  host: string,
): Promise<void> {
  const attached = await attachedImages(deadline, place, host);
  for (const path of paths) {
    const name = attached.get(relative(place, path));
    if (name === undefined) continue;
    throw new Failure(
      `"${path}" is attached as "${name}", and something may be reading it: detach it first ` +
        `(${shellText([...DETACH, place, "--detach", name])})`,
    );
  }
}

/** What is attached and not dead: of what another host has attached nothing is known. Changes nothing. */
export async function liveAttachments(
  deadline: Deadline,
  place: string,
  host: string,
): Promise<Attachment[]> {
  const live: Attachment[] = [];
  for (const attachment of await readAttachments(deadline, place)) {
    if (await stateOf(deadline, attachment, host) !== "dead") live.push(attachment);
  }
  return live;
}

/**
 * The images that are attached, each with the attachment's name. What is dead is swept.
 *
 * @returns By their paths, relative to the place.
 */
export async function attachedImages(
  deadline: Deadline,
  place: string,
  host: string,
): Promise<Map<string, string>> {
  const images = new Map<string, string>();
  for (const attachment of await readAttachments(deadline, place)) {
    if (await stateOf(deadline, attachment, host) === "dead") {
      log.info("The attachment {name} is dead: clearing it away", { name: attachment.name });
      await undo(deadline, place, attachment);
      continue;
    }
    for (const { images: files } of attachment.disks) {
      for (const file of files) images.set(file, attachment.name);
    }
  }
  return images;
}
