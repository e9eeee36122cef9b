/**
 * Waits for what QEMU does in its own time and tells nobody of.
 *
 * @module
 */

import { delay } from "@std/async/delay";

const LOOK_EVERY_MS = 50;

/**
 * Looks again and again whether something has come true.
 *
 * @returns Whether it did within the time.
 */
export async function comesTrue(
  isTrue: () => Promise<boolean>,
  timeoutMs: number,
): Promise<boolean> {
  const giveUp = performance.now() + timeoutMs;
  while (!await isTrue()) {
    if (performance.now() > giveUp) return false;
    await delay(LOOK_EVERY_MS);
  }
  return true;
}
