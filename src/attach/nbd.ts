/**
 * A read-only NBD server in the background: `qemu-storage-daemon`, on two unix sockets. It is ended over the
 * second one, by QMP: no process is ever looked for by its number, which may be another's by then.
 *
 * Source: QEMU's manual page qemu-storage-daemon(1); the NBD project's "The NBD Uniform Resource Indicator
 * (URI) specification".
 *
 * @module
 */

import { brief, Failure } from "../errors.ts";
import { runProgram } from "../process/run.ts";
import { keyObject } from "../qemu_img/key.ts";
import { QmpClient } from "../qmp/client.ts";
import { BusyError, connect, ConnectionError } from "../wire/address.ts";

const PROGRAM = "qemu-storage-daemon";
const INSTALL = "Debian: qemu-system-common";

/** A disk that is served: an image, whose backing links are followed. */
export interface ServedDisk {
  /** The export's name. */
  disk: string;
  path: string;
  format: "qcow2" | "raw";
  /** It is shown as this file, by FUSE, and not by NBD: what is put on top of it may write. */
  file?: string;
}

export interface Sockets {
  nbd: string;
  qmp: string;
}

/** A unix socket's path ends here (unix(7)). */
const MAX_SOCKET_BYTES = 107;

/** @throws {Failure} If a socket's path would be too long. */
export function refuseLongSockets(sockets: Sockets): void {
  for (const path of Object.values(sockets)) {
    if (new TextEncoder().encode(path).length <= MAX_SOCKET_BYTES) continue;
    throw new Failure(
      `"${path}" is too long for a socket (${MAX_SOCKET_BYTES} bytes): name a shorter --target-dir`,
    );
  }
}

function exportOf(index: number, name: string, file: string | undefined) {
  const common = { id: `export${index}`, "node-name": `disk${index}`, writable: false };
  return file === undefined
    ? { type: "nbd", ...common, name }
    : { type: "fuse", ...common, mountpoint: file };
}

/**
 * The server's arguments. Pure.
 *
 * @param keyFile The file with the key of encrypted images; null where none is.
 */
export function serverArgs(
  disks: readonly ServedDisk[],
  { nbd, qmp }: Sockets,
  keyFile: string | null = null,
): string[] {
  return [
    ...(keyFile === null ? [] : ["--object", keyObject(keyFile)]),
    ...disks.flatMap(({ path, format, file }, i) => [
      "--blockdev",
      JSON.stringify({
        driver: format,
        "node-name": `disk${i}`,
        "read-only": file === undefined,
        file: { driver: "file", filename: path, "read-only": file === undefined },
      }),
    ]),
    ...["--nbd-server", JSON.stringify({ addr: { type: "unix", path: nbd } })],
    ...disks.flatMap(({ disk, file }, i) => ["--export", JSON.stringify(exportOf(i, disk, file))]),
    // In a list of options a comma is written twice.
    ...["--chardev", `socket,id=qmp,path=${qmp.replaceAll(",", ",,")},server=on,wait=off`],
    ...["--monitor", "chardev=qmp", "--daemonize"],
  ];
}

/** The URI of an export. Pure. */
export function nbdUri(socket: string, disk: string): string {
  const path = encodeURIComponent(socket).replaceAll("%2F", "/");
  return `nbd+unix:///${encodeURIComponent(disk)}?socket=${path}`;
}

/**
 * Starts a server, and waits until it serves.
 *
 * @throws {Failure} If it is not installed or fails; nothing runs then.
 */
export async function startServer(
  disks: readonly ServedDisk[],
  sockets: Sockets,
  keyFile: string | null = null,
): Promise<void> {
  const args = serverArgs(disks, sockets, keyFile);
  const { code, stderr } = await runProgram(PROGRAM, args, { install: INSTALL });
  if (code === 0) return;
  const words = brief(stderr.trim().replace(/^qemu-storage-daemon: /gm, "")) || `exit code ${code}`;
  const needs = disks.some(({ file }) => file !== undefined)
    ? "it needs QEMU 6.0 or newer with FUSE and, if not run as root, fusermount3; Debian: fuse3"
    : "it needs QEMU 6.0 or newer";
  throw new Failure(`${PROGRAM} can't serve the disks (${needs}): ${words}`);
}

const ANSWER_TIMEOUT_MS = 10_000;

/** Whether a server lives. Where that can't be told, it may. Its QMP socket takes one client at a time only. */
export async function isServing({ nbd }: Sockets): Promise<boolean> {
  try {
    const conn = await connect({ transport: "unix", path: nbd }, "socket", ANSWER_TIMEOUT_MS);
    conn.close();
    return true;
  } catch (error) {
    if (!(error instanceof ConnectionError) || error instanceof BusyError) return true;
    const { NotFound, ConnectionRefused } = Deno.errors;
    return !(error.cause instanceof NotFound || error.cause instanceof ConnectionRefused);
  }
}

/**
 * Ends a server, also while something reads from it.
 *
 * @throws {Failure} If it does not end.
 */
export async function stopServer(sockets: Sockets): Promise<void> {
  try {
    await quit(sockets.qmp);
  } catch (error) {
    // It was ending by itself.
    if (error instanceof ConnectionError && !await isServing(sockets)) return;
    throw error;
  }
}

async function quit(path: string): Promise<void> {
  await using client = await QmpClient.connect({ transport: "unix", path }, {
    timeoutMs: ANSWER_TIMEOUT_MS,
  });
  await client.execute("quit");
  // It closes the images first.
  await client.closed;
}
