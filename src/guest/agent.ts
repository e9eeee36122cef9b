/**
 * The guest agent's client: freezes the guest's file systems, and always thaws them.
 *
 * Source: QEMU Guest Agent Protocol Reference. The agent serves one client, answers in order, and
 * may still have an answer to somebody else in the pipe: `guest-sync-delimited` finds the start.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import { Failure, messageOf } from "../errors.ts";
import { type Address, connect } from "../wire/address.ts";
import { JsonStream } from "../wire/json_stream.ts";

const log = getLogger(["qmpbackup", "agent"]);

/** The agent refused, did not answer in time, or is gone. */
export class AgentError extends Failure {
  override name = "AgentError";
}

/** The guest's file systems were frozen by us and could not be thawed for sure. */
export class StillFrozenError extends AgentError {
  override name = "StillFrozenError";
}

const Answer = v.object({
  return: v.optional(v.unknown()),
  error: v.optional(v.object({ desc: v.string() })),
});

/** A sentinel that makes the agent forget half a command that somebody else left in its pipe. */
const DELIMITER = new Uint8Array([0xff]);
const MAX_MESSAGE_BYTES = 16 << 20;

interface Request {
  execute: string;
  arguments?: Record<string, unknown>;
}

interface Waiter {
  /** Whether this is the answer waited for; others are dropped. */
  accepts(answer: v.InferOutput<typeof Answer>): boolean;
  resolve(value: unknown): void;
  reject(error: Error): void;
}

export class GuestAgent implements AsyncDisposable {
  readonly #stream = new JsonStream({ maxMessageBytes: MAX_MESSAGE_BYTES, lenient: true });
  readonly #reading: Promise<void>;
  #waiter: Waiter | null = null;
  #end: AgentError | null = null;
  /** An answer may still be on its way: the next command must find the start of its own first. */
  #outOfSync = true;

  private constructor(
    readonly conn: Deno.Conn,
    readonly address: Address,
    readonly timeoutMs: number,
  ) {
    this.#reading = this.#read();
  }

  /**
   * Connects and finds out whether an agent answers at all.
   *
   * @param timeoutMs Bound for each command.
   * @throws {ConnectionError} If the socket can't be reached.
   * @throws {AgentError} If no agent answers behind it: there is none in the guest, or it is not up.
   */
  static async connect(address: Address, timeoutMs: number): Promise<GuestAgent> {
    const conn = await connect(address, "agent socket", timeoutMs);
    const agent = new GuestAgent(conn, address, timeoutMs);
    try {
      await agent.execute("guest-ping");
      return agent;
    } catch (error) {
      await agent[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Whether the connection still stands. */
  get isOpen(): boolean {
    return this.#end === null;
  }

  /**
   * Sends a command that takes no arguments and waits for its answer.
   *
   * @throws {AgentError} If the agent refuses or does not answer within `timeoutMs`.
   */
  async execute(command: string): Promise<unknown> {
    if (this.#outOfSync) await this.#sync();
    return await this.#exchange([{ execute: command }], () => true);
  }

  /**
   * As `execute()`, but sent even to an agent that hangs: it works its commands off in order, and
   * finds this one when it goes on. It may be sent twice.
   */
  async executeAhead(command: string): Promise<unknown> {
    if (this.#outOfSync) await this.#sync({ execute: command });
    return await this.#exchange([{ execute: command }], () => true);
  }

  async [Symbol.asyncDispose]() {
    this.#fail("The agent connection was closed");
    await this.#reading;
  }

  async #sync(...ahead: Request[]) {
    const id = crypto.getRandomValues(new Uint32Array(1))[0] as number;
    const sync = { execute: "guest-sync-delimited", arguments: { id } };
    // Errors are not ours: qemu-ga sends one for the delimiter itself.
    await this.#exchange([...ahead, sync], ({ return: value }) => value === id, DELIMITER);
    this.#outOfSync = false;
  }

  async #exchange(
    requests: Request[],
    accepts: Waiter["accepts"],
    prefix = new Uint8Array(),
  ): Promise<unknown> {
    if (this.#end) throw this.#end;
    const answer = Promise.withResolvers<unknown>();
    this.#waiter = { accepts, ...answer };
    const timer = setTimeout(() => {
      this.#outOfSync = true;
      answer.reject(
        new AgentError(
          `The guest agent did not answer "${requests[0]?.execute}" within ${
            this.timeoutMs / 1000
          } s`,
        ),
      );
    }, this.timeoutMs);
    const text = requests.map((request) => JSON.stringify(request) + "\n").join("");
    log.debug("→ {text}", { text });
    this.#send(new Uint8Array([...prefix, ...new TextEncoder().encode(text)]))
      .catch((error) => this.#fail(`The guest agent's connection broke: ${error}`));
    try {
      return await answer.promise;
    } finally {
      clearTimeout(timer);
      this.#waiter = null;
    }
  }

  async #send(bytes: Uint8Array) {
    for (let done = 0; done < bytes.length;) done += await this.conn.write(bytes.subarray(done));
  }

  async #read() {
    const buffer = new Uint8Array(16 << 10);
    try {
      for (let n; (n = await this.conn.read(buffer)) !== null;) {
        for (const message of this.#stream.push(buffer.subarray(0, n))) this.#receive(message);
      }
      this.#fail("The guest agent's connection was closed by QEMU");
    } catch (error) {
      this.#fail(`The guest agent's connection broke: ${error}`);
    }
  }

  #receive(message: unknown) {
    // Only where it is wanted: Deno 2.4 can't write what is nested very deep, though it can read it.
    log.debug("← {text}", () => ({ text: JSON.stringify(message) }));
    const answer = v.safeParse(Answer, message);
    if (!answer.success || !this.#waiter) return;
    if (!this.#waiter.accepts(answer.output)) return;
    const { error, return: value } = answer.output;
    if (error) this.#waiter.reject(new AgentError(`The guest agent refused: ${error.desc}`));
    else this.#waiter.resolve(value);
  }

  #fail(words: string) {
    if (this.#end) return;
    this.#end = new AgentError(words);
    this.conn.close();
    this.#waiter?.reject(this.#end);
  }
}

/**
 * Looks whether the guest's file systems can be frozen at all (`guest-fsfreeze-status`).
 *
 * @throws {AgentError} If they are frozen, by somebody else, or this agent can't freeze.
 */
export async function refuseFrozen(agent: GuestAgent): Promise<void> {
  if (await agent.execute("guest-fsfreeze-status") === "thawed") return;
  throw new AgentError(
    "The guest's file systems are frozen already: thaw them (guest-fsfreeze-thaw) and try again",
  );
}

/**
 * Freezes the guest's file systems (`guest-fsfreeze-freeze`); disposing thaws them.
 *
 * A freeze that fails or takes too long is thawed before the error is thrown: the agent works its
 * commands off in order, so the thaw reaches it after a freeze that comes late.
 *
 * @throws {StillFrozenError} If it may have frozen the guest all the same.
 * @throws {AgentError} If the guest can't be frozen, or was frozen by somebody else before.
 */
export async function freeze(agent: GuestAgent): Promise<AsyncDisposable> {
  await refuseFrozen(agent);
  try {
    await agent.execute("guest-fsfreeze-freeze");
  } catch (error) {
    await thaw(agent).catch((still) => {
      throw new StillFrozenError(`${messageOf(error)}. ${messageOf(still)}`, { cause: error });
    });
    throw error;
  }
  return { [Symbol.asyncDispose]: () => thaw(agent) };
}

/**
 * Thaws the guest's file systems, whoever froze them (`guest-fsfreeze-thaw`). Tried twice, the second
 * time over a new connection where the old one is gone.
 *
 * @throws {StillFrozenError} If the guest may still be frozen.
 */
export async function thaw(agent: GuestAgent): Promise<void> {
  try {
    await agent.executeAhead("guest-fsfreeze-thaw");
  } catch {
    if (!agent.isOpen) return await thawAnew(agent.address, agent.timeoutMs);
    await orStillFrozen(agent.executeAhead("guest-fsfreeze-thaw"));
  }
}

/** Thaws over a connection of its own; see `thaw()`. */
export async function thawAnew(address: Address, timeoutMs: number): Promise<void> {
  const thawed = (async () => {
    await using agent = await GuestAgent.connect(address, timeoutMs);
    await agent.executeAhead("guest-fsfreeze-thaw");
  })();
  await orStillFrozen(thawed);
}

async function orStillFrozen(thawed: Promise<unknown>): Promise<void> {
  try {
    await thawed;
  } catch (error) {
    throw new StillFrozenError(
      "The guest's file systems may still be frozen: run guest-fsfreeze-thaw through its agent " +
        `(${messageOf(error)})`,
      { cause: error },
    );
  }
}
