/**
 * Talks with peers that say what they should not.
 *
 * @module
 */

import type { Address } from "../../src/wire/address.ts";
import type { Peer } from "../support/fake_peer.ts";
import { tempDir } from "../support/temp_dir.ts";
import { Dice, dice, fuzz, INPUTS } from "./_fuzz.ts";
import { jsonText, pieces } from "./_nonsense.ts";

/** Each connection carries many messages, since making it takes longer than they do. */
export const MESSAGES_EACH = 100;

/** A call that has not ended by then never will. */
export const MAX_CALL_MS = 60_000;

const dir = await tempDir();
// The tests begin when their file has ended.
addEventListener("unload", () => Deno.removeSync(dir.path, { recursive: true }));
let sockets = 0;

/** A socket that is not there yet. */
export function freshAddress(): Address & { path: string } {
  return { transport: "unix", path: dir.join(String(sockets++)) };
}

/** Most of a talk's time is waiting. */
const TALKS_AT_ONCE = 10;

/** Registers a test of as many messages as others have inputs. */
export function talks(name: string, talk: (dice: Dice) => Promise<void>) {
  const inputs = INPUTS / MESSAGES_EACH / TALKS_AT_ONCE;
  const talkAll = async (seed: number) => {
    const seeds = Array.from({ length: TALKS_AT_ONCE }, (_, index) => seed + index);
    // None is left behind by one that fails.
    const ends = await Promise.allSettled(seeds.map((each) => talk(new Dice(each))));
    for (const end of ends) if (end.status === "rejected") throw end.reason;
  };
  fuzz(name, dice, talkAll, { inputs, permissions: "inherit" });
}

export function lineOf(message: unknown): Uint8Array {
  return new TextEncoder().encode(jsonText(message) + "\r\n");
}

/** Sends bytes in pieces, of which some arrive by themselves. */
export async function sendCut(dice: Dice, peer: Peer, bytes: Uint8Array) {
  for (const piece of pieces(dice, bytes)) {
    await peer.send(piece);
    if (dice.once(10)) await new Promise((resolve) => setTimeout(resolve));
  }
}
