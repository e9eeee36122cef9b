/**
 * Scripted peers on a socket: what a real QEMU or agent would not do, on purpose.
 *
 * @module
 */

import type { Address } from "../../src/wire/address.ts";

/** What a client sends. */
export interface Command {
  execute: string;
  arguments?: Record<string, unknown>;
  id?: unknown;
}

/** One client's connection, from the peer's side. */
export class Peer {
  readonly #decoder = new TextDecoder();
  #rest = "";
  #isOpen = true;

  constructor(readonly conn: Deno.Conn) {}

  /** Sends bytes or text as they are, anything else as a line of JSON. */
  async send(message: string | Uint8Array | Record<string, unknown>): Promise<void> {
    const bytes = message instanceof Uint8Array ? message : new TextEncoder().encode(
      typeof message === "string" ? message : JSON.stringify(message) + "\n",
    );
    for (let done = 0; done < bytes.length;) done += await this.conn.write(bytes.subarray(done));
  }

  /** The next line of the client; null at the end. What is no UTF-8 becomes U+FFFD. */
  async receiveLine(): Promise<string | null> {
    const buffer = new Uint8Array(64 << 10);
    while (!this.#rest.includes("\n")) {
      const n = await this.conn.read(buffer);
      if (n === null) return null;
      this.#rest += this.#decoder.decode(buffer.subarray(0, n), { stream: true });
    }
    const end = this.#rest.indexOf("\n");
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return line;
  }

  /** The next command; null when the client has closed. */
  async receive(): Promise<Command | null> {
    const line = await this.receiveLine();
    return line === null ? null : JSON.parse(line);
  }

  /** Hangs up. */
  hangUp() {
    this.#isOpen = false;
    this.conn.close();
  }

  /** Whether the connection is this side's to close. */
  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** Waits until the client closes. */
  async untilClosed(): Promise<void> {
    while (await this.receiveLine() !== null);
  }
}

/** A listening peer. */
export interface FakePeer extends AsyncDisposable {
  readonly address: Address;
}

const IS_GONE = [
  Deno.errors.BrokenPipe,
  Deno.errors.ConnectionReset,
  Deno.errors.ConnectionAborted,
  Deno.errors.NotConnected,
  // After `hangUp()`.
  Deno.errors.BadResource,
  Deno.errors.Interrupted,
];

/**
 * Plays `script` for each client, and closes its connection when the script ends.
 *
 * @param where A unix socket's path, or "tcp" for a free port.
 */
export function serve(where: string, script: (peer: Peer) => Promise<void>): FakePeer {
  const listener = where === "tcp"
    ? Deno.listen({ transport: "tcp", hostname: "127.0.0.1", port: 0 })
    : Deno.listen({ transport: "unix", path: where });
  const talks: Promise<void>[] = [];
  const talk = async (conn: Deno.Conn) => {
    const peer = new Peer(conn);
    try {
      await script(peer);
    } catch (error) {
      // That clients leave is part of the play; anything else is the script's mistake.
      if (!IS_GONE.some((gone) => error instanceof gone)) throw error;
    } finally {
      if (peer.isOpen) peer.hangUp();
    }
  };
  const listening = (async () => {
    for await (const conn of listener) talks.push(talk(conn));
  })();
  const { addr } = listener;
  return {
    address: addr.transport === "tcp"
      ? { transport: "tcp", hostname: addr.hostname, port: addr.port }
      : { transport: "unix", path: where },
    async [Symbol.asyncDispose]() {
      listener.close();
      await listening;
      await Promise.all(talks);
    },
  };
}

/**
 * Fails what takes longer than it may.
 *
 * @throws {Error} If `promise` is not settled after `limitMs`.
 */
export async function within<T>(limitMs: number, promise: Promise<T>): Promise<T> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`Not done within ${limitMs} ms`)), limitMs);
  try {
    return await Promise.race([promise, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
