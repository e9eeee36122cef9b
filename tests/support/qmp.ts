/** What QEMU says by itself. */
export interface QmpEvent {
  event: string;
  data: Record<string, unknown>;
  /** When, by QEMU's clock. */
  seconds: number;
}

/** A tiny QMP connection, on purpose not the one under test. */
export interface Qmp extends AsyncDisposable {
  /** All events so far, in order. */
  readonly events: QmpEvent[];
  /**
   * Runs a command and returns its `return`.
   *
   * @throws {Error} If QEMU answers with an error, is gone, or says nothing for three minutes.
   */
  execute(command: string, args?: Record<string, unknown>): Promise<unknown>;
}

interface Message {
  event?: string;
  data?: Record<string, unknown>;
  timestamp?: { seconds: number; microseconds: number };
  return?: unknown;
  error?: { class: string; desc: string };
}

const PATIENCE_MS = 180_000;

/** Connects and negotiates. QEMU answers in the order of the commands, so ids are not needed. */
export async function connectQmp(path: string): Promise<Qmp> {
  const connection = await Deno.connect({ transport: "unix", path });
  const events: QmpEvent[] = [];
  const waiting: PromiseWithResolvers<Message>[] = [];
  let gone = false;

  const reading = (async () => {
    try {
      for await (const message of messages(connection)) {
        const { event, data = {}, timestamp } = message;
        const seconds = (timestamp?.seconds ?? 0) + (timestamp?.microseconds ?? 0) / 1e6;
        if (event) events.push({ event, data, seconds });
        else if ("return" in message || "error" in message) waiting.shift()?.resolve(message);
      }
    } catch {
      // Closed, by QEMU or by ourselves: all who still wait hear of it below.
    }
    gone = true;
    for (const { reject } of waiting) reject(new Error("QEMU is gone"));
  })();

  const qmp: Qmp = {
    events,
    async execute(command, args = {}) {
      if (gone) throw new Error("QEMU is gone");
      const answer = Promise.withResolvers<Message>();
      waiting.push(answer);
      const tooLong = setTimeout(
        () => answer.reject(new Error(`QEMU does not answer "${command}"`)),
        PATIENCE_MS,
      );
      answer.promise.finally(() => clearTimeout(tooLong)).catch(() => {});
      // If this fails then so does reading, which tells those who wait.
      await writeAll(connection, JSON.stringify({ execute: command, arguments: args }) + "\n")
        .catch(() => {});
      const { return: value, error } = await answer.promise;
      if (error) throw new Error(`QMP "${command}" failed: ${error.desc}`);
      return value;
    },
    async [Symbol.asyncDispose]() {
      connection.close();
      await reading;
    },
  };
  try {
    await qmp.execute("qmp_capabilities");
  } catch (error) {
    await qmp[Symbol.asyncDispose]();
    throw error;
  }
  return qmp;
}

async function* messages(connection: Deno.Conn): AsyncGenerator<Message> {
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(1 << 16);
  let rest = "";
  for (let n; (n = await connection.read(buffer)) !== null;) {
    const lines = (rest + decoder.decode(buffer.subarray(0, n), { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) yield JSON.parse(line);
  }
}

async function writeAll(connection: Deno.Conn, text: string): Promise<void> {
  let bytes = new TextEncoder().encode(text);
  while (bytes.length > 0) bytes = bytes.subarray(await connection.write(bytes));
}
