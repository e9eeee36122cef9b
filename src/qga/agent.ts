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
import { brief, Failure, messageOf } from "../errors.ts";
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

type Answer = v.InferOutput<typeof Answer>;

const STATUS = "guest-fsfreeze-status";
const FREEZE = "guest-fsfreeze-freeze";
const THAW = "guest-fsfreeze-thaw";

/** Of the guest's words, as many go into messages, and into the log. */
const MAX_WORDS_LENGTH = 300;
const MAX_LOGGED_LENGTH = 2_000;

/** A sentinel that makes the agent forget half a command that somebody else left in its pipe. */
const DELIMITER = new Uint8Array([0xff]);
const MAX_MESSAGE_BYTES = 16 << 20;

interface Request {
  execute: string;
  arguments?: Record<string, unknown>;
}

interface Waiter {
  /** Whether this is the answer waited for; others are dropped. */
  accepts(answer: Answer): boolean;
  resolve(answer: Answer): void;
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
    return valueOf(await this.#exchange([{ execute: command }], () => true));
  }

  /**
   * Sends commands at one time, so that none waits for the answer to the one before.
   *
   * @returns The answer to each; one that is refused does not keep the agent from the next.
   * @throws {AgentError} If they are not all answered within `timeoutMs`.
   */
  async executeAll(commands: string[]): Promise<Answer[]> {
    if (this.#outOfSync) await this.#sync();
    const answers: Answer[] = [];
    const requests = commands.map((execute) => ({ execute }));
    await this.#exchange(requests, (answer) => answers.push(answer) === commands.length);
    return answers;
  }

  /**
   * As `execute()`, but sent even to an agent that hangs: it works its commands off in order, and
   * finds this one when it goes on. It may be sent twice.
   */
  async executeAhead(command: string): Promise<unknown> {
    if (this.#outOfSync) await this.#sync({ execute: command });
    return valueOf(await this.#exchange([{ execute: command }], () => true));
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
  ): Promise<Answer> {
    if (this.#end) throw this.#end;
    const answer = Promise.withResolvers<Answer>();
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
    log.debug("← {text}", () => ({ text: brief(JSON.stringify(message), MAX_LOGGED_LENGTH) }));
    const answer = v.safeParse(Answer, message);
    if (!answer.success || !this.#waiter) return;
    if (this.#waiter.accepts(answer.output)) this.#waiter.resolve(answer.output);
  }

  #fail(words: string) {
    if (this.#end) return;
    this.#end = new AgentError(words);
    this.conn.close();
    this.#waiter?.reject(this.#end);
  }
}

function valueOf({ error, return: value }: Answer): unknown {
  if (!error) return value;
  throw new AgentError(`The guest agent refused: ${brief(error.desc, MAX_WORDS_LENGTH)}`);
}

/**
 * Looks whether the guest's file systems can be frozen at all (`guest-fsfreeze-status`).
 *
 * @throws {AgentError} If they are frozen, by somebody else, or this agent can't freeze.
 */
export async function refuseFrozen(agent: GuestAgent): Promise<void> {
  if (await agent.execute(STATUS) === "thawed") return;
  throw new AgentError(
    "The guest's file systems are frozen already: thaw them (guest-fsfreeze-thaw) and try again",
  );
}

/** Disposed without `thaw()`, it thaws as well. */
export interface Freeze extends AsyncDisposable {
  /**
   * Thaws, after a look at whether the guest is still frozen.
   *
   * @returns What the agent said that does not fit a guest which was frozen all the time: a sentence
   * each.
   * @throws {StillFrozenError} If the guest may still be frozen.
   */
  thaw(): Promise<string[]>;
}

/**
 * Freezes the guest's file systems (`guest-fsfreeze-freeze`).
 *
 * A freeze that fails or takes too long is thawed before the error is thrown: the agent works its
 * commands off in order, so the thaw reaches it after a freeze that comes late.
 *
 * @throws {StillFrozenError} If it may have frozen the guest all the same.
 * @throws {AgentError} If the guest can't be frozen, or was frozen by somebody else before.
 */
export async function freeze(agent: GuestAgent): Promise<Freeze> {
  await refuseFrozen(agent);
  let frozenCount: number;
  try {
    frozenCount = countOf(await agent.execute(FREEZE));
  } catch (error) {
    await thaw(agent).catch((still) => {
      throw new StillFrozenError(`${messageOf(error)}. ${messageOf(still)}`, { cause: error });
    });
    throw error;
  }
  let isOver = false;
  const end = () => {
    isOver = true;
    return thawAndAsk(agent, frozenCount);
  };
  return {
    thaw: end,
    async [Symbol.asyncDispose]() {
      if (!isOver) await end();
    },
  };
}

/** How many file systems were frozen. */
function countOf(answer: unknown): number {
  if (isCount(answer) && answer > 0) return answer;
  throw new AgentError(
    `No file system of the guest is frozen: its agent answered "${FREEZE}" with ${wordsOf(answer)}`,
  );
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** As somebody else wrote it, in a message. */
function wordsOf(value: unknown): string {
  if (typeof value === "number") return String(value);
  return typeof value === "string" ? `"${brief(value, MAX_WORDS_LENGTH)}"` : "nonsense";
}

/** Asked in one breath, so that the guest does not stay frozen for the sake of a question. */
async function thawAndAsk(agent: GuestAgent, frozenCount: number): Promise<string[]> {
  let status: Answer | undefined, thawed: Answer | undefined;
  try {
    [status, thawed] = await agent.executeAll([STATUS, THAW]);
  } catch (error) {
    await thawAgain(agent);
    return [messageOf(error)];
  }
  if (thawed?.error) await thawAgain(agent);
  return doubtsOf(frozenCount, status ?? {}, thawed ?? {});
}

/**
 * What does not fit a guest that was frozen all the time, in what its agent says when it is thawed, and
 * how many it had frozen before. Pure.
 *
 * Windows' agent answers the first thaw with an error when the system has given the freeze up (VSS), and
 * the second one with 0 (from its source, `qga/vss-win32/requester.cpp`).
 *
 * @param frozenCount How many file systems it said that it had frozen.
 */
export function doubtsOf(frozenCount: number, status: Answer, thawed: Answer): string[] {
  const doubts: string[] = [];
  const doubt = (command: string, { error, return: value }: Answer) =>
    doubts.push(
      `"${command}" was answered with ` +
        (error ? `the error "${brief(error.desc, MAX_WORDS_LENGTH)}"` : wordsOf(value)),
    );
  if (status.error || status.return !== "frozen") doubt(STATUS, status);
  const { return: count } = thawed;
  if (thawed.error || !isCount(count) || count < frozenCount) doubt(THAW, thawed);
  if (doubts.length > 0) doubts.unshift(`${frozenCount} were said to be frozen`);
  return doubts;
}

/**
 * Thaws the guest's file systems, no matter who froze them (`guest-fsfreeze-thaw`). Tried twice, the second
 * time over a new connection where the old one is gone.
 *
 * @throws {StillFrozenError} If the guest may still be frozen.
 */
export async function thaw(agent: GuestAgent): Promise<void> {
  try {
    await agent.executeAhead(THAW);
  } catch {
    await thawAgain(agent);
  }
}

async function thawAgain(agent: GuestAgent): Promise<void> {
  if (!agent.isOpen) return await thawAnew(agent.address, agent.timeoutMs);
  await orStillFrozen(agent.executeAhead(THAW));
}

/** Thaws over a connection of its own; see `thaw()`. */
export async function thawAnew(address: Address, timeoutMs: number): Promise<void> {
  const thawed = (async () => {
    await using agent = await GuestAgent.connect(address, timeoutMs);
    await agent.executeAhead(THAW);
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
