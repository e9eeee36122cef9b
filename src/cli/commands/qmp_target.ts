import { UsageError } from "../../errors.ts";
import type { QmpOptions } from "../../qmp/client.ts";
import { type Address, parseAddress } from "../../wire/address.ts";
import type { Values } from "../parse.ts";

/** QEMU greets at once; a client that is not greeted waits for another one to leave. */
const GREETING_TIMEOUT_MS = 5_000;

/**
 * The VM that the flags name.
 *
 * @throws {UsageError} If they name none.
 */
export function qmpTarget(values: Values): { socket: Address; qmpOptions: QmpOptions } {
  if (values.socket === undefined) throw new UsageError("The VM's --socket is needed for this");
  const timeoutMs = (values.timeout ?? 30) * 1000;
  if (timeoutMs === 0) throw new UsageError("--timeout must be 1 or more");
  return {
    socket: parseAddress(values.socket),
    qmpOptions: { timeoutMs, greetingTimeoutMs: Math.min(timeoutMs, GREETING_TIMEOUT_MS) },
  };
}
