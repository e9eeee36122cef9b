import { UsageError } from "../../errors.ts";
import { thawAnew } from "../../guest/agent.ts";
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
  const timeoutMs = timeoutMsOf("timeout", values.timeout ?? 30);
  return {
    socket: parseAddress(values.socket),
    qmpOptions: { timeoutMs, greetingTimeoutMs: Math.min(timeoutMs, GREETING_TIMEOUT_MS) },
  };
}

/** How the flags allow a guest to be thawed; null where they name no agent. */
export function thawOf(values: Values): (() => Promise<void>) | null {
  const agent = values["agent-socket"];
  if (agent === undefined) return null;
  const address = parseAddress(agent);
  const timeoutMs = timeoutMsOf("agent-timeout", values["agent-timeout"] ?? 10);
  return () => thawAnew(address, timeoutMs);
}

/** The longest that a timer can wait, 24 days; one that is asked for more fires at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * A flag's seconds as milliseconds.
 *
 * @throws {UsageError} If they are none.
 */
export function timeoutMsOf(flag: string, seconds: number): number {
  if (seconds === 0) throw new UsageError(`--${flag} must be 1 or more`);
  return Math.min(seconds * 1000, MAX_TIMEOUT_MS);
}
