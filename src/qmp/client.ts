/**
 * The QMP client: one connection to QEMU's monitor.
 *
 * Guarantees: every call ends within its time-out, whatever the peer does; a peer that closes or
 * talks nonsense fails all that is pending with a sentence; unknown events and fields are ignored.
 * Source: QEMU's "QEMU Machine Protocol Specification" (docs/interop/qmp-spec).
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import { brief, Failure } from "../errors.ts";
import {
  type Address,
  BusyError,
  connect,
  ConnectionError,
  formatAddress,
} from "../wire/address.ts";
import { JsonStream, ProtocolError } from "../wire/json_stream.ts";

const log = getLogger(["qmpbackup", "qmp"]);

/** A command's arguments, as JSON. */
export type QmpArguments = Record<string, unknown>;

export interface QmpEvent {
  event: string;
  data: Record<string, unknown>;
}

/** So much of QEMU's words goes into a message: they name files, and may repeat what others said. */
const MAX_WORDS_LENGTH = 800;

/** QEMU refused a command. Don't match `message`: QEMU's words differ between releases. */
export class QmpCommandError extends Failure {
  override name = "QmpCommandError";

  constructor(readonly command: string, readonly errorClass: string, readonly desc: string) {
    super(`QEMU refused "${command}": ${brief(desc, MAX_WORDS_LENGTH)}`);
  }
}

/** QEMU did not answer in time; whether it did what it was told is not known. */
export class QmpTimeoutError extends Failure {
  override name = "QmpTimeoutError";
}

/** The socket is there and says nothing: another client holds it, or QEMU hangs. */
export class NotGreetedError extends BusyError {
  override name = "NotGreetedError";
}

const Greeting = v.object({
  QMP: v.object({
    version: v.object({
      qemu: v.object({ major: v.number(), minor: v.number(), micro: v.number() }),
    }),
  }),
});
const Message = v.object({
  id: v.optional(v.unknown()),
  return: v.optional(v.unknown()),
  error: v.optional(v.object({ class: v.string(), desc: v.string() })),
  event: v.optional(v.string()),
  data: v.optional(v.record(v.string(), v.unknown())),
});

/**
 * How long a QEMU that has just let a command time out gets for the next one: what must be put back is
 * many commands, and a QEMU that hangs answers none of them.
 */
const IMPATIENT_TIMEOUT_MS = 2_000;

/** `query-qmp-schema` is 0.3 MB; nothing QEMU says comes near this. */
const MAX_MESSAGE_BYTES = 64 << 20;

export interface QmpOptions {
  /** How long a command may take. */
  timeoutMs: number;
  /** How long QEMU may take to greet a new client. */
  greetingTimeoutMs?: number;
}

interface Pending {
  command: string;
  resolve(value: unknown): void;
  reject(error: Error): void;
  timer: ReturnType<typeof setTimeout>;
}

/** The rest of an answer to a dead client goes to the first client that connects after it. */
const CONNECT_ATTEMPTS = 3;

export class QmpClient implements AsyncDisposable {
  readonly #stream = new JsonStream({ maxMessageBytes: MAX_MESSAGE_BYTES, lenient: false });
  readonly #pending = new Map<number, Pending>();
  readonly #listeners = new Set<(event: QmpEvent) => void>();
  readonly #greeting = Promise.withResolvers<v.InferOutput<typeof Greeting>>();
  readonly #closed = Promise.withResolvers<Error>();
  readonly #reading: Promise<void>;
  #writing: Promise<unknown> = Promise.resolve();
  // Not another client's: what QEMU answers to one that has died, the next one may get.
  #nextId = Math.floor(Math.random() * 2 ** 32) * 2 ** 16;
  #end: Error | null = null;
  #version = "";
  /** A command timed out, and QEMU has said nothing since. */
  #isSilent = false;

  private constructor(
    readonly conn: Deno.Conn,
    readonly name: string,
    readonly options: QmpOptions,
  ) {
    this.#greeting.promise.catch(() => {});
    this.#reading = this.#read();
  }

  /**
   * Connects, waits for the greeting and negotiates capabilities (`qmp_capabilities`).
   *
   * @throws {NotGreetedError} If another client holds the socket: QMP serves one client at a time, the
   * next one is let in but not greeted.
   * @throws {ConnectionError} If the socket can't be reached.
   * @throws {ProtocolError} If the peer does not speak QMP.
   */
  static async connect(address: Address, options: QmpOptions): Promise<QmpClient> {
    for (let attempt = 1;; attempt++) {
      try {
        return await QmpClient.#connectOnce(address, options);
      } catch (error) {
        // QEMU may give us the rest of what it had to say to a client that has just died.
        if (!(error instanceof ProtocolError) || attempt === CONNECT_ATTEMPTS) throw error;
        log.debug("Connecting again: {words}", { words: error.message });
      }
    }
  }

  static async #connectOnce(address: Address, options: QmpOptions): Promise<QmpClient> {
    const conn = await connect(address, "QMP socket", options.timeoutMs);
    const client = new QmpClient(conn, formatAddress(address), options);
    try {
      await client.#negotiate();
      return client;
    } catch (error) {
      await client[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** QEMU's version, "major.minor.micro", for records and messages. */
  get version(): string {
    return this.#version;
  }

  /** Resolves, with the reason, when the connection is gone. Never rejects. */
  get closed(): Promise<Error> {
    return this.#closed.promise;
  }

  /** Whether the connection still stands. */
  get isOpen(): boolean {
    return this.#end === null;
  }

  /**
   * Sends a command and waits for its answer.
   *
   * @param options `isSecret` keeps the arguments out of the log.
   * @returns What stands under `return`, still to be decoded.
   * @throws {QmpCommandError} If QEMU refuses.
   * @throws {QmpTimeoutError} If there is no answer in time. The connection stays open: undoing
   * what the command may have done is still worth a try.
   * @throws {ConnectionError | ProtocolError} If the connection is gone.
   */
  execute(
    command: string,
    args?: QmpArguments,
    options?: { timeoutMs?: number; isSecret?: boolean },
  ): Promise<unknown> {
    if (this.#end) return Promise.reject(this.#end);
    const id = this.#nextId++;
    const patienceMs = this.#isSilent ? IMPATIENT_TIMEOUT_MS : Infinity;
    const timeoutMs = Math.min(options?.timeoutMs ?? this.options.timeoutMs, patienceMs);
    const answer = Promise.withResolvers<unknown>();
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      this.#isSilent = true;
      answer.reject(
        new QmpTimeoutError(
          `QEMU did not answer "${command}" within ${timeoutMs / 1000} s. Check whether it hangs`,
        ),
      );
    }, timeoutMs);
    this.#pending.set(id, { command, ...answer, timer });
    this.#send(
      args ? { execute: command, arguments: args, id } : { execute: command, id },
      options?.isSecret ? { execute: command, arguments: "***", id } : undefined,
    );
    return answer.promise;
  }

  /** Calls `listener` for every event from now on, until disposed. */
  subscribe(listener: (event: QmpEvent) => void): Disposable {
    this.#listeners.add(listener);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }

  async [Symbol.asyncDispose]() {
    this.#fail(new ConnectionError("The QMP connection was closed"));
    await this.#reading;
  }

  async #negotiate() {
    const timeoutMs = this.options.greetingTimeoutMs ?? this.options.timeoutMs;
    const timer = setTimeout(() => {
      this.#fail(
        new NotGreetedError(
          `QEMU did not greet us on "${this.name}" within ${timeoutMs / 1000} s: another client ` +
            "holds this socket (QMP serves one client at a time), or QEMU hangs. End the other " +
            "client, or give the VM a second QMP socket for its backups, such as " +
            "-qmp unix:/run/vm1-backup.qmp,server=on,wait=off",
        ),
      );
    }, timeoutMs);
    try {
      const { major, minor, micro } = (await this.#greeting.promise).QMP.version.qemu;
      this.#version = `${major}.${minor}.${micro}`;
    } finally {
      clearTimeout(timer);
    }
    await this.execute("qmp_capabilities");
  }

  /** @param logged What the log gets instead, where that is not the message. */
  #send(message: unknown, logged = message) {
    const text = JSON.stringify(message);
    log.debug("→ {text}", () => ({ text: JSON.stringify(logged) }));
    const bytes = new TextEncoder().encode(text + "\n");
    this.#writing = this.#writing.then(() => this.#write(bytes)).catch((error) =>
      this.#lost(error)
    );
  }

  async #write(bytes: Uint8Array) {
    for (let done = 0; done < bytes.length;) {
      done += await this.conn.write(bytes.subarray(done));
    }
  }

  async #read() {
    const buffer = new Uint8Array(64 << 10);
    try {
      for (let n; (n = await this.conn.read(buffer)) !== null;) {
        for (const message of this.#stream.push(buffer.subarray(0, n))) this.#receive(message);
      }
      this.#fail(
        new ConnectionError("QEMU closed the QMP connection. Check whether the VM still runs"),
      );
    } catch (error) {
      this.#lost(error);
    }
  }

  #receive(message: unknown) {
    this.#isSilent = false;
    log.debug("← {text}", () => ({ text: JSON.stringify(message) }));
    if (this.#version === "" && v.is(Greeting, message)) {
      this.#greeting.resolve(message);
      return;
    }
    const decoded = v.safeParse(Message, message);
    if (!decoded.success) throw new ProtocolError("The peer does not speak QMP");
    const { id, error, event, data } = decoded.output;
    if (event !== undefined) {
      for (const listener of this.#listeners) listener({ event, data: data ?? {} });
      return;
    }
    const pending = typeof id === "number" ? this.#pending.get(id) : undefined;
    if (!pending) {
      // The late answer to a command that timed out is nothing to complain about; anything before
      // the greeting is not QMP.
      if (this.#version === "") throw new ProtocolError("The peer does not speak QMP");
      return;
    }
    this.#pending.delete(id as number);
    clearTimeout(pending.timer);
    if (error) pending.reject(new QmpCommandError(pending.command, error.class, error.desc));
    else pending.resolve(decoded.output.return);
  }

  #lost(error: unknown) {
    if (error instanceof Failure) {
      this.#fail(new ProtocolError(`On "${this.name}": ${error.message}`));
    } else {
      const words = error instanceof Error ? error.message : String(error);
      this.#fail(new ConnectionError(`The QMP connection broke: ${words}`, { cause: error }));
    }
  }

  #fail(error: Error) {
    if (this.#end) return;
    this.#end = error;
    this.conn.close();
    this.#greeting.reject(error);
    for (const { reject, timer } of this.#pending.values()) {
      clearTimeout(timer);
      reject(error);
    }
    this.#pending.clear();
    this.#closed.resolve(error);
  }
}
