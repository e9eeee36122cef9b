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
 * @param change Makes something else of what the tool sends.
 */
export function proxy(
  path: string,
  to: string,
  onSent = (_text: string) => {},
  change = (text: string) => text,
): Proxy {
  const listener = Deno.listen({ transport: "unix", path });
  const open = new Set<Deno.Conn>();
  const lines: Promise<unknown>[] = [];
  const accepting = (async () => {
    for await (const client of listener) {
      const server = await Deno.connect({ transport: "unix", path: to });
      open.add(client).add(server);
      lines.push(pipe(client, server, close, onSent, change), pipe(server, client, close));
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
  onPassed = (_text: string) => {},
  change: ((text: string) => string) | null = null,
) {
  const buffer = new Uint8Array(64 << 10);
  const encoder = new TextEncoder();
  try {
    for (let n; (n = await from.read(buffer)) !== null;) {
      const bytes = buffer.subarray(0, n);
      const sent = change ? encoder.encode(change(new TextDecoder().decode(bytes))) : bytes;
      for (let done = 0; done < sent.length;) done += await to.write(sent.subarray(done));
      onPassed(new TextDecoder().decode(sent));
    }
  } catch {
    // Cut, by us or at the other end.
  }
  close(from);
  close(to);
}
