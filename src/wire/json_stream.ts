/**
 * Cuts a byte stream of JSON objects into objects, however the stream was split or joined.
 *
 * QMP separates its messages by line ends, but a monitor with `pretty=on` spreads one over many
 * lines, and the guest agent's start anywhere. Counting braces outside of strings serves them all.
 *
 * @module
 */

import { Failure } from "../errors.ts";
import { MAX_DEPTH } from "../json.ts";

/** The peer sent something that is not its protocol. */
export class ProtocolError extends Failure {
  override name = "ProtocolError";
}

const QUOTE = 0x22, BACKSLASH = 0x5c;
const OPEN_BRACE = 0x7b, CLOSE_BRACE = 0x7d, OPEN_BRACKET = 0x5b, CLOSE_BRACKET = 0x5d;
const WHITE_SPACE = new Set([0x20, 0x09, 0x0a, 0x0d]);
/** Never part of UTF-8: the guest agent sends it before the answer to `guest-sync-delimited`. */
const DELIMITER = 0xff;

export interface JsonStreamOptions {
  /** A longer message is taken for nonsense: a bound on what a peer can make us hold. */
  maxMessageBytes: number;
  /**
   * Whether bytes outside of an object are passed over, and a delimiter (0xff) drops a message half
   * read: the guest agent's stream may start with the rest of an answer to somebody else.
   */
  lenient: boolean;
}

export class JsonStream {
  #parts: Uint8Array[] = [];
  #heldBytes = 0;
  #depth = 0;
  /** It is passed over, where that is allowed: to parse it would take long. */
  #isTooDeep = false;
  #inString = false;
  #escaped = false;

  constructor(readonly options: JsonStreamOptions) {}

  /**
   * Takes the next bytes of the stream.
   *
   * @param chunk Bytes as they came; not kept, so that the caller may use its buffer again.
   * @returns The messages that these bytes complete, parsed.
   * @throws {ProtocolError} If the stream is not a sequence of JSON objects, or a message is too long.
   */
  push(chunk: Uint8Array): unknown[] {
    const messages: unknown[] = [];
    let start = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i] as number;
      if (byte === DELIMITER && this.options.lenient) {
        this.#reset();
      } else if (this.#depth === 0) {
        if (this.#opens(byte)) start = i;
      } else if (this.#closes(byte)) {
        messages.push(...this.#complete(chunk.subarray(start, i + 1)));
      }
    }
    if (this.#depth > 0) this.#hold(chunk.slice(start));
    return messages;
  }

  #opens(byte: number): boolean {
    if (byte === OPEN_BRACE) {
      this.#depth = 1;
      return true;
    }
    if (!this.options.lenient && !WHITE_SPACE.has(byte)) {
      throw new ProtocolError(`Expected a JSON object, got byte 0x${byte.toString(16)}`);
    }
    return false;
  }

  #closes(byte: number): boolean {
    if (this.#inString) {
      if (this.#escaped) this.#escaped = false;
      else if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inString = false;
      return false;
    }
    if (byte === QUOTE) this.#inString = true;
    else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) this.#deepen();
    else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) this.#depth--;
    return this.#depth === 0;
  }

  #deepen() {
    if (++this.#depth <= MAX_DEPTH) return;
    this.#isTooDeep = true;
    if (!this.options.lenient) {
      throw new ProtocolError(`A message is nested deeper than ${MAX_DEPTH}`);
    }
  }

  #hold(part: Uint8Array) {
    this.#heldBytes += part.length;
    if (this.#heldBytes > this.options.maxMessageBytes) {
      throw new ProtocolError(`A message is longer than ${this.options.maxMessageBytes} bytes`);
    }
    this.#parts.push(part);
  }

  #complete(last: Uint8Array): unknown[] {
    if (this.#isTooDeep) {
      this.#reset();
      return [];
    }
    this.#hold(last);
    // Told to keep U+FEFF: Deno 2.9 takes one at the start of any piece for a byte order mark.
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const text = this.#parts.map((part) => decoder.decode(part, { stream: true })).join("") +
      decoder.decode();
    this.#reset();
    try {
      return [JSON.parse(text)];
    } catch {
      if (this.options.lenient) return [];
      throw new ProtocolError(`Not JSON: ${JSON.stringify(text.slice(0, 80))}`);
    }
  }

  #reset() {
    this.#parts = [];
    this.#heldBytes = 0;
    this.#depth = 0;
    this.#isTooDeep = false;
    this.#inString = false;
    this.#escaped = false;
  }
}
