/**
 * QEMU's NBD server, through which `qemu-img` can read a node of a running VM.
 *
 * QEMU has one such server, and can't be asked whether it runs: a mark says that it is ours.
 * Source: QEMU QMP Reference Manual, "Block device exports".
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { removeFile } from "../fs/durable.ts";
import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { queryExports } from "../qmp/queries.ts";
import { readMark, removeMark, setMark } from "./marks.ts";
import { MARKS } from "./names.ts";
import { comesTrue } from "./wait.ts";

/** unix(7): a socket's path has 108 bytes, with a NUL at the end. */
const MAX_SOCKET_BYTES = 107;

/**
 * Starts the server (`nbd-server-start`).
 *
 * @param path Of its socket, absolute.
 * @throws {Failure} If another program's runs already, or the path is too long.
 */
export async function startNbdServer(qmp: QmpClient, path: string): Promise<void> {
  if (new TextEncoder().encode(path).length > MAX_SOCKET_BYTES) {
    throw new Failure(
      `The socket "${path}" has too long a name: give a shorter folder with --fleece-dir`,
    );
  }
  await setMark(qmp, MARKS.nbdServer, path);
  try {
    await qmp.execute("nbd-server-start", { addr: { type: "unix", data: { path } } });
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    await removeMark(qmp, MARKS.nbdServer);
    throw new Failure(
      `QEMU can't serve the disk for the comparison: ${error.desc}. It has one NBD server, which ` +
        "another program may be using: try again later, or leave out --on-lost-bitmap compare and --verify",
      { cause: error },
    );
  }
}

/**
 * The path of our server's socket; null where QEMU has none of ours.
 *
 * @param marks The names of all marks there are.
 */
export async function findNbdServer(qmp: QmpClient, marks: string[]): Promise<string | null> {
  return marks.includes(MARKS.nbdServer) ? await readMark(qmp, MARKS.nbdServer) : null;
}

/** Stops the server and all its exports (`nbd-server-stop`), if it is ours. */
export async function stopNbdServer(deadline: Deadline, qmp: QmpClient): Promise<void> {
  const path = await readMark(qmp, MARKS.nbdServer);
  if (path === null) return;
  // It may not run: the run died before it was started, or QEMU refused to start it.
  await qmp.execute("nbd-server-stop").catch((error) => {
    if (!(error instanceof QmpCommandError)) throw error;
  });
  await removeFile(deadline, path);
  await removeMark(qmp, MARKS.nbdServer);
}

/** Lets NBD clients read a node (`block-export-add`), under its own name. */
export async function addExport(qmp: QmpClient, id: string, node: string): Promise<void> {
  await qmp.execute("block-export-add", { type: "nbd", id, "node-name": node, name: node });
}

const REMOVAL_TIMEOUT_MS = 30_000;

/** Removes an export, if it is there, with the clients it may have (`block-export-del`). */
export async function removeExport(qmp: QmpClient, id: string): Promise<void> {
  const isGone = async () => !(await queryExports(qmp)).includes(id);
  if (await isGone()) return;
  await qmp.execute("block-export-del", { id, mode: "hard" });
  if (!await comesTrue(isGone, REMOVAL_TIMEOUT_MS)) {
    throw new Failure(`The export "${id}" does not end`);
  }
}

/**
 * QEMU 7.2 answers wrongly, from the disk as it is now, to a request for a snapshot that begins in a part
 * which the fleece keeps and goes beyond it. No request is larger than the least that is kept at once.
 */
const MAX_REQUEST_BYTES = 65536;

/** How `qemu-img` reaches an export, as an image of format "raw": block driver options as a name. */
export function exportName(socketPath: string, node: string): string {
  const server = { type: "unix", path: socketPath };
  const image = { driver: "nbd", server, export: node };
  // It injects nothing, but cuts requests: no other driver can be told to.
  const cut = { driver: "blkdebug", "max-transfer": MAX_REQUEST_BYTES, image };
  // A snapshot's export calls "neither data nor zeroes" what lies in a backing file of the disk, which
  // `qemu-img compare` takes for zeroes. A quorum, even of one, calls all data that is not zeroes.
  const file = { driver: "quorum", "read-pattern": "fifo", "vote-threshold": 1, children: [cut] };
  return `json:${JSON.stringify({ driver: "raw", file })}`;
}
