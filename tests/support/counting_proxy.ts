/**
 * A line between the tool and QEMU on which one message at a time goes through, so that a test can
 * stop the world after the n-th and do something there.
 *
 * @module
 */

export interface CountingProxy extends AsyncDisposable {
  /** The socket to be used instead of QEMU's. */
  path: string;
  /** Cuts all connections, and lets new ones through. */
  cut(): void;
  /** Cuts all connections, and refuses new ones. */
  close(): void;
}

/**
 * Listens on `path` and passes every connection on to `to`, both unix sockets.
 *
 * @param onMessage Called after each message, whichever way it went; nothing goes through before it
 * is done. A command counts when QEMU has carried it out, and its answer is still to be passed on: a
 * line that is cut there leaves a tool that can't know.
 */
export function countingProxy(
  path: string,
  to: string,
  onMessage: (message: string) => Promise<void>,
): CountingProxy {
  const listener = Deno.listen({ transport: "unix", path });
  const open = new Set<Deno.Conn>();
  const talks: Promise<unknown>[] = [];
  let failure: unknown = null;
  let turn = Promise.resolve();
  const hangUp = (conn: Deno.Conn) => {
    if (open.delete(conn)) conn.close();
  };
  const cut = () => [...open].forEach(hangUp);
  let isListening = true;
  const close = () => {
    if (isListening) listener.close();
    isListening = false;
    cut();
  };
  /** One after the other, over all connections. */
  const inTurn = (work: () => Promise<void>) => {
    turn = turn.then(work).catch((error) => {
      failure ??= error;
      close();
    });
  };

  async function talk(client: Deno.Conn) {
    const server = await Deno.connect({ transport: "unix", path: to });
    open.add(client).add(server);
    let isOver = false;
    let onAnswer = () => {};
    const bothEnd = () => [client, server].forEach(hangUp);
    const forward = async () => {
      for await (const line of lines(client)) {
        inTurn(async () => {
          if (isOver || !open.has(server)) return;
          const answered = new Promise<void>((resolve) => onAnswer = resolve);
          await send(server, line);
          await answered;
          await onMessage(`→ ${line}`);
        });
      }
      inTurn(async () => await bothEnd());
    };
    const back = async () => {
      for await (const line of lines(server)) {
        if (isAnswer(line)) onAnswer();
        inTurn(async () => {
          if (!open.has(client)) return;
          await send(client, line);
          await onMessage(`← ${line}`);
        });
      }
      // No answer comes any more.
      isOver = true;
      onAnswer();
      inTurn(async () => await bothEnd());
    };
    await Promise.all([forward(), back()]);
  }

  const accepting = (async () => {
    for await (const client of listener) talks.push(talk(client));
  })();
  return {
    path,
    cut,
    close,
    async [Symbol.asyncDispose]() {
      close();
      await accepting;
      await Promise.all(talks);
      await turn;
      if (failure !== null) throw failure;
    },
  };
}

/** Not an event, nor the greeting. */
function isAnswer(line: string): boolean {
  const message: Record<string, unknown> = JSON.parse(line);
  return "return" in message || "error" in message;
}

async function* lines(conn: Deno.Conn): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(64 << 10);
  let rest = "";
  while (true) {
    // Closed, by us or at the other end.
    const n = await conn.read(buffer).catch(() => null);
    if (n === null) return;
    rest += decoder.decode(buffer.subarray(0, n), { stream: true });
    const whole = rest.split("\n");
    rest = whole.pop() ?? "";
    yield* whole;
  }
}

async function send(conn: Deno.Conn, line: string) {
  const bytes = new TextEncoder().encode(line + "\n");
  try {
    for (let done = 0; done < bytes.length;) done += await conn.write(bytes.subarray(done));
  } catch {
    // It has gone away meanwhile: its reader sees that, too.
  }
}
