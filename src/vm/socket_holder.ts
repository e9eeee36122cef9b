/**
 * Who has the VM's QMP socket. QEMU serves one client on each: the next one is let in and not greeted, and
 * can't ask QEMU who the other one is. So a run that was greeted says on a socket of its own who it is.
 *
 * That socket is in the abstract namespace (unix(7)): it needs no folder that this user may write to, any
 * other user may ask, and it goes with its process. Its name is made of the QMP socket's device and inode,
 * whatever path leads there. It can't be seen from a container with a network of its own. What it says
 * explains a connection that failed, and nothing more: it is not a lock.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { type Deadline, endsWithin } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import { describeHolder, type Holder, parseHolder } from "../fs/flock.ts";
import { LockedError, messageOf } from "../errors.ts";
import { QmpClient, type QmpOptions } from "../qmp/client.ts";
import {
  type Address,
  BusyError,
  connect,
  formatAddress,
  isUnixSocketNetwork,
} from "../wire/address.ts";

const log = getLogger(["qmpbackup", "vm"]);

const ANSWER_TIMEOUT_MS = 2_000;
const MAX_ANSWER_BYTES = 4096;

/**
 * Connects to the VM.
 *
 * @throws {LockedError} If another run of ours holds the socket.
 * @throws {BusyError} If another client does, or it can't be told.
 * @throws {ConnectionError} If the socket can't be reached.
 */
export async function connectVm(
  deadline: Deadline,
  address: Address,
  options: QmpOptions,
): Promise<QmpClient> {
  try {
    return await QmpClient.connect(address, options);
  } catch (error) {
    const holder = error instanceof BusyError ? await askHolder(deadline, address) : null;
    if (holder === null) throw error;
    throw new LockedError(
      `Another run holds the QMP socket "${formatAddress(address)}": ${describeHolder(holder)}`,
      { cause: error },
    );
  }
}

/** Tells anybody who asks that this run holds the VM's socket, until disposed; where that can't be done, it goes on without. */
export async function nameHolder(
  deadline: Deadline,
  address: Address,
  holder: Holder,
): Promise<AsyncDisposable> {
  try {
    const path = await nameOf(deadline, address);
    const listener = Deno.listen({ transport: "unix", path });
    const answering = answer(listener, JSON.stringify(holder));
    return {
      async [Symbol.asyncDispose]() {
        listener.close();
        await answering;
      },
    };
  } catch (error) {
    log.debug("Others can't be told who holds the socket: {words}", { words: messageOf(error) });
    return { [Symbol.asyncDispose]: () => Promise.resolve() };
  }
}

async function answer(listener: Deno.UnixListener, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  try {
    for await (const conn of listener) {
      // It fits into the socket's buffer: nobody who does not read it is waited for.
      await conn.write(bytes).catch(() => {});
      conn.close();
    }
  } catch (error) {
    log.debug("Others can no longer be told who holds the socket: {words}", {
      words: messageOf(error),
    });
  }
}

/** Who holds the socket; null if that is not a run of ours, or it can't be told. */
async function askHolder(deadline: Deadline, address: Address): Promise<Holder | null> {
  try {
    const path = await nameOf(deadline, address);
    using conn = await connect({ transport: "unix", path }, "other run", ANSWER_TIMEOUT_MS);
    const answering = readAll(conn);
    return await endsWithin(answering, ANSWER_TIMEOUT_MS) ? parseHolder(await answering) : null;
  } catch (error) {
    log.debug("It can't be told who holds the socket: {words}", { words: messageOf(error) });
    return null;
  }
}

async function readAll(conn: Deno.Conn): Promise<string> {
  const buffer = new Uint8Array(MAX_ANSWER_BYTES);
  let size = 0;
  try {
    for (let n; size < buffer.length && (n = await conn.read(buffer.subarray(size))) !== null;) {
      size += n;
    }
  } catch {
    // It was given up; what is not whole is not an answer.
  }
  return new TextDecoder().decode(buffer.subarray(0, size));
}

/** The name of the socket that says who holds this one. */
async function nameOf(deadline: Deadline, address: Address): Promise<string> {
  await refusePrompt();
  // sun_path has 108 bytes.
  if (address.transport !== "unix") return `\0qmpbackup/${formatAddress(address)}`.slice(0, 100);
  const { dev, ino } = await stat(deadline, address.path);
  return `\0qmpbackup/${dev}/${ino}`;
}

/** Where a right is missing, Deno may ask the user for it: this is not worth a question. */
async function refusePrompt(): Promise<void> {
  const names = isUnixSocketNetwork ? ["net"] as const : ["read", "write"] as const;
  for (const name of names) {
    const { state } = await Deno.permissions.query({ name });
    if (state !== "granted") throw new Deno.errors.NotCapable(`--allow-${name} is not given`);
  }
}
