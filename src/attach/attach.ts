/**
 * Opens points in time without copying them: thin overlays, or an NBD server. The images of the backup are
 * only read. What is opened is recorded first, so that whatever ends us half way, it can be undone.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { dirname, join, relative, resolve } from "@std/path";
import { messageOf, UsageError } from "../errors.ts";
import { createFile, OWNER_ONLY } from "../fs/create.ts";
import { createFolders, exists, removeFolders } from "../fs/durable.ts";
import { createQcow2, requireQemuImg } from "../qemu_img/qemu_img.ts";
import { type Attachment, ATTACHMENT_HEAD, writeAttachment } from "../repo/attachment.ts";
import { refuseSharedFolder } from "../repo/repository.ts";
import { requireRawImage } from "../restore/check_images.ts";
import { refuseChanged, refuseOtherLink } from "../restore/merge.ts";
import type { Layer, RestorePoint } from "../restore/points.ts";
import { requireKeyOf } from "../restore/encryption.ts";
import { requireImage } from "../restore/require_image.ts";
import { undo } from "./detach.ts";
import { nbdUri, refuseLongSockets, startServer } from "./nbd.ts";
import { type Overlay, planOverlays } from "./overlay.ts";

const log = getLogger(["qmpbackup", "attach"]);

export interface AttachOptions {
  kind: Attachment["kind"];
  /** Where overlays and sockets go. Absolute. */
  folder: string;
  /** Of the new files. */
  mode?: number;
  /** The overlays are a VM's from now on: they stay when they are detached. */
  keepsFiles?: boolean;
  /** This host's name. */
  host: string;
  /** The file with the key of encrypted images; null where none is given. */
  keyFile: string | null;
  deadline: Deadline;
  signal: AbortSignal;
}

/** A chain that was looked at. */
interface Chain {
  point: RestorePoint;
  layers: Layer[];
  isLinked: boolean;
  virtualSizeBytes: number;
  overlays: Overlay[];
  /** What the disk, and one of its partitions, is shown as. */
  files: string[];
}

/** The folder whose records say what is attached of a point: its target, or its own where there is none. */
export function placeOf({ target, layers }: RestorePoint): string {
  return target ?? dirname((layers()[0] as Layer).path);
}

/**
 * Attaches points.
 *
 * @param points Of disks of one target.
 * @throws {Failure} If an image is missing, was changed or is linked to another one, or a program fails.
 * @throws {UsageError} If a file is there already.
 */
export async function attach(
  points: readonly RestorePoint[],
  { kind, folder, mode = OWNER_ONLY, keepsFiles = false, host, keyFile, deadline, signal }:
    AttachOptions,
): Promise<Attachment> {
  await requireQemuImg();
  for (const point of points) await requireKeyOf(deadline, point.layers(), keyFile, signal);
  const place = placeOf(points[0] as RestorePoint);
  const name = crypto.randomUUID().slice(0, 8);
  const nameOf = (disk: string) => kind === "overlay" ? disk : `${name}-${disk}`;
  const chains: Chain[] = [];
  for (const point of points) {
    chains.push(await lookAtChain(deadline, point, kind, join(folder, nameOf(point.disk))));
  }
  const sockets = kind === "overlay" ? null : socketsOf(kind, join(folder, name));
  if (sockets) refuseLongSockets(sockets);
  const attachment: Attachment = {
    ...ATTACHMENT_HEAD,
    ...{ name, host, since: new Date().toISOString(), kind },
    disks: chains.map(({ point, layers, overlays, virtualSizeBytes }) => ({
      disk: point.disk,
      point: point.name,
      pointInTime: new Date(point.timeMs).toISOString(),
      images: layers.map(({ path }) => relative(place, path)),
      virtualSizeBytes,
      open: isServed(kind) && sockets
        ? nbdUri(sockets.nbd, point.disk)
        : overlays.at(-1)?.path ?? "",
    })),
    files: chains.flatMap(({ overlays, files }) => [...overlays.map(({ path }) => path), ...files]),
    sockets,
  };
  for (const path of attachment.files) await refuseExisting(deadline, path);
  const made: string[] = [];
  try {
    await makeFolder(deadline, folder, mode, made);
    await refuseSharedFolder(deadline, folder, mode);
    await refuseSharedFolder(deadline, place, mode);
    await writeAttachment(deadline, place, attachment, mode).catch((error) => {
      if (!isShort(kind) || !isUnwritable(error)) throw error;
      log.warn('"{place}" can only be read here, so that what is open is not recorded there', {
        place,
      });
    });
  } catch (error) {
    await removeFolders(deadline, made);
    throw error;
  }
  try {
    for (const chain of chains) await makeFiles(deadline, chain, mode, signal);
    // Not stopped half way: what has gone into the background by then could not be found any more.
    if (isServed(kind) && sockets) {
      const hasKey = chains.some(({ layers }) => layers.some(({ isEncrypted }) => isEncrypted));
      await startServer(chains.map(servedOf), sockets, hasKey ? keyFile : null);
    }
    signal.throwIfAborted();
    // A prune or a commit that began before the record was there.
    for (const { point, layers } of chains) await refuseChanged(point, layers);
    if (keepsFiles) await writeAttachment(deadline, place, { ...attachment, files: [] }, mode);
  } catch (error) {
    await undo(deadline, place, attachment).catch((left) =>
      log.warn("{words}", { words: messageOf(left) })
    );
    await removeFolders(deadline, made);
    throw error;
  }
  return attachment;
}

/** What is over when the command is: a prune on another host is all that could disturb it. */
const isShort = (kind: Attachment["kind"]) => kind === "files" || kind === "test";

/** A backup that was mounted read-only, or belongs to somebody else. */
function isUnwritable({ cause }: { cause?: unknown }): boolean {
  return cause instanceof Deno.errors.PermissionDenied ||
    cause instanceof Error && "code" in cause && cause.code === "EROFS";
}

const isServed = (kind: Attachment["kind"]) => kind === "nbd" || kind === "files";

/** The caller's VM has one socket, which tells whether it lives, and ends it. */
function socketsOf(kind: Attachment["kind"], base: string): { nbd: string; qmp: string } {
  const qmp = `${base}.qmp`;
  return { nbd: kind === "test" ? qmp : `${base}.nbd`, qmp };
}

/** Looks whether all images are there, and what their links say; costs some kilobytes of each. */
async function lookAtChain(
  deadline: Deadline,
  point: RestorePoint,
  kind: Attachment["kind"],
  base: string,
): Promise<Chain> {
  const layers = point.layers();
  let isLinked = true;
  let virtualSizeBytes = 0;
  for (const [i, layer] of layers.entries()) {
    if (layer.isRaw) {
      virtualSizeBytes = (await requireRawImage(deadline, layer.path)).size;
      continue;
    }
    const seen = await requireImage(deadline, layer.path, layer.fingerprint);
    refuseOtherLink(layers.slice(0, i), layer, seen.backing, point.target !== null);
    const link = seen.backing === null ? null : resolve(dirname(layer.path), seen.backing);
    // What stands in a header of the backup does not name the key.
    isLinked &&= link === layer.parent && !layer.isEncrypted;
    virtualSizeBytes = seen.virtualSizeBytes;
  }
  // An NBD server opens an image that is linked by itself.
  const overlays = kind === "nbd" && isLinked ? [] : planOverlays(
    layers,
    isLinked,
    (below) => below === 0 ? `${base}.qcow2` : `${base}.below-${below}.qcow2`,
  );
  const files = kind === "files" ? [`${base}.raw`, `${base}.part.raw`] : [];
  return { point, layers, isLinked, virtualSizeBytes, overlays, files };
}

function servedOf({ point, layers, overlays, files: [file] }: Chain) {
  const newest = layers.at(-1) as Layer;
  const path = overlays.at(-1)?.path ?? newest.path;
  const format = overlays.length === 0 && newest.isRaw ? "raw" as const : "qcow2" as const;
  return { disk: point.disk, path, format, ...(file === undefined ? {} : { file }) };
}

async function refuseExisting(deadline: Deadline, path: string) {
  if (!await exists(deadline, path)) return;
  throw new UsageError(
    `"${path}" exists already, and is not overwritten: name another --target-dir`,
  );
}

async function makeFolder(deadline: Deadline, path: string, mode: number, made: string[]) {
  try {
    await createFolders(deadline, path, mode, made);
  } catch (error) {
    throw new UsageError(
      `The folder "${path}" can't be made: ${
        messageOf(error)
      }. Name one of your own with --target-dir`,
      { cause: error },
    );
  }
}

async function makeFiles(
  deadline: Deadline,
  { overlays, files, virtualSizeBytes }: Chain,
  mode: number,
  signal: AbortSignal,
) {
  for (const { path, backing, backingFormat } of overlays) {
    await createFile(deadline, path, mode);
    await createQcow2(deadline, path, { virtualSizeBytes, backing, backingFormat }, { signal });
  }
  for (const path of files) await createFile(deadline, path, mode);
}
