/**
 * A file that is only ever added to: a log.
 *
 * @module
 */

import { dirname } from "@std/path";
import { Failure } from "../errors.ts";
import { createFile, OWNER_ONLY } from "./create.ts";
import { type Deadline, endsWithin } from "./deadline.ts";
import { makeFolders, stat } from "./files.ts";
import { findSharedFolder } from "./folder.ts";
import { openItself } from "./open.ts";

/** Takes one text after the other, and never makes its caller wait. */
export interface Appender extends AsyncDisposable {
  append(text: string): void;
}

/**
 * Opens a file to append to; it is made, with its folder, where it is missing.
 *
 * @param what What it is to be, for the message: "the log".
 * @param onError Called once, if it can't be written any more: what it is for goes on.
 */
export async function openAppending(
  deadline: Deadline,
  path: string,
  what: string,
  onError: (error: unknown) => void,
): Promise<Appender> {
  await makeFolders(deadline, dirname(path));
  // Where nobody else could have put a link or a device there, it is the admin's.
  const isOwn = await findSharedFolder(deadline, dirname(path)) === null;
  return appending(
    isOwn ? await openOwn(deadline, path) : await openInShared(deadline, path, what),
    onError,
  );
}

/**
 * A link may be followed here. What is not a regular file is refused: to open a pipe waits for its reader, and
 * to write to it, or to some device, may wait for ever.
 */
async function openOwn(deadline: Deadline, path: string): Promise<Deno.FsFile> {
  const info = await stat(deadline, path).catch((error) => {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  });
  if (info && !info.isFile && path !== "/dev/null") {
    throw new Failure("it exists, but is not a regular file");
  }
  return await deadline.run(
    path,
    () => Deno.open(path, { append: true, create: true, mode: OWNER_ONLY }),
  );
}

/** In a folder to which others may write as well nothing is opened but the file itself. */
async function openInShared(deadline: Deadline, path: string, what: string): Promise<Deno.FsFile> {
  try {
    return await openItself(deadline, path, what, { append: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    await createFile(deadline, path, OWNER_ONLY);
    return await openItself(deadline, path, what, { append: true });
  }
}

/** A file system that hangs gets this long for the last texts. */
const CLOSE_TIMEOUT_MS = 5_000;

/** Writes in the background: if the file system hangs, nothing waits for it. */
function appending(file: Deno.FsFile, onError: (error: unknown) => void): Appender {
  let last = Promise.resolve(), isTold = false;
  const write = async (text: string) => {
    const bytes = new TextEncoder().encode(text);
    try {
      for (let done = 0; done < bytes.length;) done += await file.write(bytes.subarray(done));
    } catch (error) {
      if (!isTold) onError(error);
      isTold = true;
    }
  };
  return {
    append: (text) => void (last = last.then(() => write(text))),
    async [Symbol.asyncDispose]() {
      // Closing a file that hangs would hang as well.
      if (await endsWithin(last, CLOSE_TIMEOUT_MS)) file.close();
    },
  };
}
