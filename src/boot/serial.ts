/**
 * The serial console of a VM, read from its socket.
 *
 * @module
 */

import { connect } from "../wire/address.ts";

/** So much is kept: the end. */
const MAX_CHARACTERS = 64 << 10;
const CONNECT_TIMEOUT_MS = 10_000;

export interface Serial extends AsyncDisposable {
  /** Resolves when a text has been printed. */
  printed(text: string): Promise<void>;
  /** Resolves with the first byte. */
  firstByte(): Promise<number>;
  /** The last lines. */
  tail(lines: number): string[];
}

/** Connects. What was printed before is lost: the VM must not run yet. */
export async function openSerial(path: string): Promise<Serial> {
  const conn = await connect({ transport: "unix", path }, "serial console", CONNECT_TIMEOUT_MS);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const waiting: { text: string; resolve: () => void }[] = [];
  const { promise: firstByte, resolve: gotFirst } = Promise.withResolvers<number>();
  let kept = "";
  const reading = (async () => {
    const buffer = new Uint8Array(16 << 10);
    try {
      for (let count; (count = await conn.read(buffer)) !== null;) {
        // Only the first call counts.
        if (count > 0) gotFirst(buffer[0] as number);
        kept += decoder.decode(buffer.subarray(0, count), { stream: true });
        for (const { text, resolve } of waiting) if (kept.includes(text)) resolve();
        kept = kept.slice(-MAX_CHARACTERS);
      }
    } catch {
      // It was closed, by QEMU's end or by us.
    }
  })();
  return {
    printed(text) {
      const { promise, resolve } = Promise.withResolvers<void>();
      waiting.push({ text, resolve });
      if (kept.includes(text)) resolve();
      return promise;
    },
    firstByte: () => firstByte,
    tail: (lines) => kept.trim().split(/\r?\n/).filter((line) => line.trim() !== "").slice(-lines),
    async [Symbol.asyncDispose]() {
      try {
        conn.close();
      } catch {
        // QEMU was first.
      }
      await reading;
    },
  };
}
