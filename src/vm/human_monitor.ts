/**
 * QEMU's human monitor (HMP), for the one thing that a VM without a QMP socket of ours needs it for: to make
 * one while it runs.
 *
 * A monitor of QEMU's object model, "monitor-qmp", can be added since 11.1. It stays until the VM ends.
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import { Failure, UsageError } from "../errors.ts";
import { type Address, connect, ConnectionError, formatAddress } from "../wire/address.ts";

const log = getLogger(["qmpbackup", "vm"]);

const PROMPT = "(qemu) ";
// Not "qmpbackup-…": what has such a name is removed by the run after a killed one.
const CHARDEV = "backup-qmp", MONITOR = "backup-qmp-monitor";
/** More than any answer that is asked for here. */
const MAX_ANSWER_LETTERS = 1 << 20;

/** The two commands that make a QMP socket, as the human monitor takes them. */
export function socketCommands(path: string): [string, string] {
  return [
    `chardev-add socket,id=${CHARDEV},path=${path},server=on,wait=off`,
    `object_add monitor-qmp,id=${MONITOR},chardev=${CHARDEV}`,
  ];
}

/**
 * Makes a QMP socket by way of the human monitor, unless QEMU has it already.
 *
 * @param path Of the socket to be made, absolute.
 * @throws {UsageError} If QEMU would read the path otherwise.
 * @throws {Failure} If QEMU can't, with what to do.
 */
export async function makeQmpSocket(
  monitor: Address,
  path: string,
  timeoutMs: number,
): Promise<void> {
  // Spaces end an argument, commas and quotes have a meaning.
  if (!/^\/[\w./@+:=-]*$/.test(path)) {
    throw new UsageError(
      `The human monitor can't take "${path}": use only letters, digits and _ . / @ + : - in ` +
        "--socket",
    );
  }
  await using hmp = await HumanMonitor.connect(monitor, timeoutMs);
  if ((await hmp.ask("info chardev")).includes(`unix:${path},`)) return;
  const [chardev, object] = socketCommands(path);
  const first = await hmp.ask(chardev);
  if (first !== "") throw new Failure(`QEMU can't make the QMP socket "${path}": ${first}`);
  const second = await hmp.ask(object);
  if (second !== "") {
    await hmp.ask(`chardev-remove ${CHARDEV}`);
    throw new Failure(
      `QEMU can't give a running VM a QMP socket (${second}): that needs QEMU 11.1. Start the VM with ` +
        "-qmp unix:PATH,server=on,wait=off, and name PATH with --socket",
    );
  }
  log.info('QEMU has the QMP socket "{path}" from now on, until the VM ends', { path });
}

/** A connection to the human monitor, which talks as if to a terminal. */
class HumanMonitor implements AsyncDisposable {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #decoder = new TextDecoder();
  #text = "";

  private constructor(
    readonly conn: Deno.Conn,
    readonly name: string,
    readonly timeoutMs: number,
  ) {
    this.#reader = conn.readable.getReader();
  }

  static async connect(address: Address, timeoutMs: number): Promise<HumanMonitor> {
    const what = "human monitor";
    const conn = await connect(address, what, timeoutMs);
    const hmp = new HumanMonitor(conn, `${what} "${formatAddress(address)}"`, timeoutMs);
    try {
      await hmp.#untilPrompt();
      return hmp;
    } catch (error) {
      await hmp[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Gives a command, and returns what it says, in one line. */
  async ask(command: string): Promise<string> {
    await this.conn.write(new TextEncoder().encode(`${command}\n`));
    // What is typed comes back first, letter by letter, up to the end of its line.
    const [, ...lines] = (await this.#untilPrompt()).split(/\r?\n/);
    return lines.map((line) => line.trim()).filter((line) => line !== "").join(" ");
  }

  async #untilPrompt(): Promise<string> {
    const timer = setTimeout(() => void this.#reader.cancel().catch(() => {}), this.timeoutMs);
    try {
      while (!this.#text.endsWith(PROMPT) && this.#text.length < MAX_ANSWER_LETTERS) {
        const { done, value } = await this.#reader.read();
        if (done) break;
        this.#text += this.#decoder.decode(value, { stream: true });
      }
    } finally {
      clearTimeout(timer);
    }
    if (!this.#text.endsWith(PROMPT)) {
      throw new ConnectionError(
        `The ${this.name} shows no prompt: check that it is QEMU's human monitor (-monitor unix:PATH,server=on,` +
          "wait=off), and that nobody else uses it",
      );
    }
    const answer = this.#text.slice(0, -PROMPT.length);
    this.#text = "";
    return answer;
  }

  async [Symbol.asyncDispose]() {
    await this.#reader.cancel().catch(() => {});
    try {
      this.conn.close();
    } catch {
      // To cancel its reading has closed it.
    }
  }
}
