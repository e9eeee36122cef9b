/**
 * Who else may change what a folder holds. Somebody who may could put a link in the place of a file that we
 * have just made, and QEMU or `qemu-img`, which open it by its name, would write to what the link stands for.
 *
 * Source: unlink(2) and rename(2) need the right to write to the folder only; in one with the sticky bit, to
 * the file's owner or the folder's.
 *
 * @module
 */

import { dirname, join, resolve } from "@std/path";
import { shellText } from "../shell.ts";
import { type Deadline, HangingError } from "./deadline.ts";
import { readLink, remove } from "./files.ts";
import { lookAt, OWNER_ONLY } from "./create.ts";

const ROOT = 0;
const STICKY = 0o1000, GROUP_WRITES = 0o020, ALL_WRITE = 0o002;

/** What is known of a folder; null where the system has no such thing. */
export type Owned = Pick<Deno.FileInfo, "uid" | "gid" | "mode">;

/** Whom we trust with our files. */
export interface Trust {
  /** The users who may have a folder: root, ourselves. */
  users: number[];
  /** The mode of our files: whom it lets write may write to folders, too. */
  fileMode: number;
}

/**
 * Says whose folder it is, where others than root, ourselves and those whom the mode of our files lets write
 * may write to it; null where that is not so. Pure.
 *
 * A group that has the number of a user whom we trust is taken for that user's own.
 */
export function problemOfFolder(
  path: string,
  { uid, gid, mode }: Owned,
  { users, fileMode }: Trust,
): string | null {
  if (uid === null || mode === null) return null;
  if (!users.includes(uid)) {
    return `"${path}" belongs to the user ${uid}, who could replace what is written there by a ` +
      `link: run as that user, name a folder of your own, or take it over ` +
      `(${shellText(["chown", String(users.at(-1) ?? ROOT), path])})`;
  }
  // Names in it belong to their owners.
  if (mode & STICKY) return null;
  const isOwnGroup = gid !== null && users.includes(gid);
  const who = [
    ...(mode & GROUP_WRITES & ~fileMode && !isOwnGroup ? [`the group ${gid}`] : []),
    ...(mode & ALL_WRITE & ~fileMode ? ["every user"] : []),
  ];
  if (who.length === 0) return null;
  const isGroup = who.length === 1 && who[0] !== "every user";
  return `${who.join(" and ")} may write to "${path}", and could replace what is written there ` +
    `by a link: take that right away (${shellText(["chmod", "go-w", path])}; where that changes ` +
    `nothing, mount it with other modes)${
      isGroup ? ", or, if the group may, back up with --mode 0660" : ""
    }`;
}

/**
 * Looks at a folder and at all folders on the way to it, through links: in each of them the next one could be
 * exchanged. What is not there yet, or may not be looked at, is left out; access lists (ACLs) are not read.
 *
 * @param fileMode Of our files in it.
 * @returns What is wrong, with the remedy; null where nothing is.
 */
export async function findSharedFolder(
  deadline: Deadline,
  path: string,
  fileMode = OWNER_ONLY,
): Promise<string | null> {
  const problemFor = (folder: string, info: Owned, users: number[]) =>
    problemOfFolder(folder, info, { users, fileMode });
  const known = new Map<number, number | null>();
  // The last one first: there we are going to make files anyway, so that is where we ask who we are.
  for (const [folder, info] of (await foldersTo(deadline, path)).toReversed()) {
    if (!info?.isDirectory || problemFor(folder, info, [ROOT]) === null) continue;
    // No matter who we are, this can't be ours alone.
    const hopeless = problemFor(folder, info, [ROOT, info.uid ?? ROOT, info.gid ?? ROOT]);
    if (hopeless !== null) return hopeless;
    const user = known.get(info.dev) ?? await userThere(deadline, folder);
    known.set(info.dev, user);
    const problem = problemFor(folder, info, user === null ? [ROOT] : [ROOT, user]);
    if (problem !== null) return problem;
  }
  return null;
}

/**
 * Who we are on a folder's file system: whose a file is that we make there. A server may take us for another
 * user (NFS with "squash"). Null where we can't make one.
 */
async function userThere(deadline: Deadline, folder: string): Promise<number | null> {
  const path = join(folder, `.qmpbackup-${crypto.randomUUID()}`);
  try {
    using file = await deadline.run(
      path,
      () => Deno.open(path, { write: true, createNew: true, mode: OWNER_ONLY }),
    );
    const { uid } = await deadline.ask(path, () => file.stat());
    await remove(deadline, path);
    return uid;
  } catch (error) {
    if (error instanceof HangingError) throw error;
    return null;
  }
}

/** As the kernel does: more links than this are a circle. */
const MAX_LINKS = 40;

/**
 * The folders that are looked into on the way to a path, and the path itself, the topmost first, each with what
 * was seen of it.
 */
async function foldersTo(
  deadline: Deadline,
  path: string,
): Promise<[string, Deno.FileInfo | null][]> {
  const folders = new Map([["/", await lookAtAllowed(deadline, "/")]]);
  const rest = resolve(path).split("/").filter((name) => name !== "");
  let folder = "/";
  for (let links = 0; rest.length > 0;) {
    const next = join(folder, rest.shift() as string);
    const info = folders.get(next) ?? await lookAtAllowed(deadline, next);
    if (info?.isSymlink && links++ < MAX_LINKS) {
      const to = resolve(dirname(next), await readLink(deadline, next));
      rest.unshift(...to.split("/").filter((name) => name !== ""));
      folder = "/";
    } else {
      folder = next;
      folders.set(folder, info);
    }
  }
  return [...folders];
}

async function lookAtAllowed(deadline: Deadline, path: string): Promise<Deno.FileInfo | null> {
  try {
    return await lookAt(deadline, path);
  } catch (error) {
    const { NotCapable, PermissionDenied } = Deno.errors;
    if (error instanceof NotCapable || error instanceof PermissionDenied) return null;
    throw error;
  }
}
