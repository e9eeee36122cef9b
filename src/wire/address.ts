/**
 * Where a socket is, as users write it.
 *
 * @module
 */

import { resolve } from "@std/path";
import { Failure, messageOf, UsageError } from "../errors.ts";

/** Up to 2.4, Deno asks for no right to the network for a unix socket. */
export const isUnixSocketNetwork = !/^2\.[0-4]\./.test(Deno.version.deno);

export type Address =
  | { transport: "unix"; path: string }
  | { transport: "tcp"; hostname: string; port: number }
  | { transport: "vsock"; cid: number; port: number };

/**
 * Parses `PATH` or `tcp:HOST:PORT` (an IPv6 host may stand in brackets).
 *
 * @throws {UsageError} If it is neither.
 */
export function parseAddress(text: string): Address {
  if (text === "") throw new UsageError("The socket's name is empty");
  if (!text.startsWith("tcp:")) return { transport: "unix", path: resolve(text) };
  const match = /^tcp:(?:\[([^[\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65535) {
    throw new UsageError(`"${text}" is not a TCP address: write tcp:HOST:PORT`);
  }
  return { transport: "tcp", hostname: (match[1] ?? match[2]) as string, port };
}

/** What `vsock(7)` knows no machine by. */
const NO_CID = 0xffff_ffff;

/**
 * Parses what `parseAddress()` takes, or `vsock:CID:PORT`, where a guest's agent listens on a socket of the
 * machine's own (`qemu-ga --method vsock-listen`).
 *
 * @throws {UsageError} If it is none of these.
 */
export function parseAgentAddress(text: string): Address {
  if (!text.startsWith("vsock:")) return parseAddress(text);
  const match = /^vsock:(\d{1,10}):(\d{1,10})$/.exec(text);
  const [cid, port] = [Number(match?.[1]), Number(match?.[2])];
  if (!match || cid >= NO_CID || port >= NO_CID) {
    throw new UsageError(
      `"${text}" is not a VSOCK address: write vsock:CID:PORT, with the numbers of the VM and of the agent`,
    );
  }
  return { transport: "vsock", cid, port };
}

/** The address as the user wrote it, for messages. */
export function formatAddress(address: Address): string {
  if (address.transport === "unix") return address.path;
  if (address.transport === "vsock") return `vsock:${address.cid}:${address.port}`;
  const { hostname, port } = address;
  return `tcp:${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

/** The peer could not be reached, or the connection to it is gone. */
export class ConnectionError extends Failure {
  override name = "ConnectionError";
}

/** Another client holds the socket. */
export class BusyError extends ConnectionError {
  override name = "BusyError";
}

/**
 * Connects to an address.
 *
 * @param what The peer's name in messages, such as "QMP socket".
 * @throws {BusyError} If other clients wait there already.
 * @throws {ConnectionError} If nobody answers within `timeoutMs`, with what to do about it.
 */
export async function connect(
  address: Address,
  what: string,
  timeoutMs: number,
): Promise<Deno.Conn> {
  const name = `${what} "${formatAddress(address)}"`;
  const pending = open(address);
  const { promise: late, reject } = Promise.withResolvers<never>();
  const timer = setTimeout(() => {
    reject(new ConnectionError(`The ${name} did not answer within ${timeoutMs / 1000} s`));
    pending.then((conn) => conn.close(), () => {});
  }, timeoutMs);
  try {
    return await Promise.race([pending, late]);
  } catch (error) {
    throw error instanceof ConnectionError ? error : explain(error, name);
  } finally {
    clearTimeout(timer);
  }
}

function open(address: Address): Promise<Deno.Conn> {
  switch (address.transport) {
    case "unix":
      return Deno.connect({ transport: "unix", path: address.path });
    case "tcp":
      return Deno.connect({ transport: "tcp", hostname: address.hostname, port: address.port });
    case "vsock":
      return Deno.connect({ transport: "vsock", cid: address.cid, port: address.port });
  }
}

function explain(error: unknown, name: string): ConnectionError {
  const options = { cause: error };
  if (error instanceof Deno.errors.NotFound) {
    return new ConnectionError(
      `The ${name} does not exist. Check whether the VM runs, and was started with this path`,
      options,
    );
  }
  if (error instanceof Deno.errors.ConnectionRefused) {
    return new ConnectionError(
      `Nobody listens on the ${name}. Check whether the VM still runs`,
      options,
    );
  }
  // unix(7): EAGAIN, the listener's queue is full; QEMU's has room for one or two.
  if (error instanceof Error && "code" in error && error.code === "EAGAIN") {
    return new BusyError(
      `The ${name} takes no more clients: another client holds it, and others wait for it already. ` +
        "End the other client, or give the VM a second socket for its backups",
      options,
    );
  }
  if (error instanceof Deno.errors.PermissionDenied) {
    return new ConnectionError(
      `The ${name} may not be opened by this user: run as its owner or as root`,
      options,
    );
  }
  return new ConnectionError(`The ${name} can't be reached: ${messageOf(error)}`, options);
}
