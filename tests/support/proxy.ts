/**
 * A line between the tool and QEMU that can be cut.
 *
 * @module
 */

export interface Proxy extends AsyncDisposable {
  /** The socket to be used instead of QEMU's. */
  path: string;
  /** Cuts all connections, and lets new ones through. */
  cut(): void;
}

/**
 * Listens on `path` and passes every connection on to `to`, both unix sockets.
 *
 * @param onSent Gets what the tool sent, when it was passed on.
 */
export function proxy(path: string, to: string, onSent = (_text: string) => {}): Proxy {
  const listener = Deno.listen({ transport: "unix", path });
  const open = new Set<Deno.Conn>();
  const lines: Promise<unknown>[] = [];
  const accepting = (async () => {
    for await (const client of listener) {
      const server = await Deno.connect({ transport: "unix", path: to });
      open.add(client).add(server);
      lines.push(pipe(client, server, close, onSent), pipe(server, client, close, () => {}));
    }
  })();
  function close(conn: Deno.Conn) {
    if (open.delete(conn)) conn.close();
  }
  const cut = () => [...open].forEach(close);
  return {
    path,
    cut,
    async [Symbol.asyncDispose]() {
      listener.close();
      cut();
      await accepting;
      await Promise.all(lines);
    },
  };
}

async function pipe(
  from: Deno.Conn,
  to: Deno.Conn,
  close: (conn: Deno.Conn) => void,
  onPassed: (text: string) => void,
) {
  const buffer = new Uint8Array(64 << 10);
  try {
    for (let n; (n = await from.read(buffer)) !== null;) {
      for (let done = 0; done < n;) done += await to.write(buffer.subarray(done, n));
      onPassed(new TextDecoder().decode(buffer.subarray(0, n)));
    }
  } catch {
    // Cut, by us or at the other end.
  }
  close(from);
  close(to);
}
