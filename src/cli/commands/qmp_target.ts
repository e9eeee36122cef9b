import { UsageError } from "../../errors.ts";
import { thawAnew } from "../../qga/agent.ts";
import type { QmpOptions } from "../../qmp/client.ts";
import { makeQmpSocket } from "../../vm/human_monitor.ts";
import { type Address, parseAddress, parseAgentAddress } from "../../wire/address.ts";
import type { Values } from "../args/parse.ts";

/** QEMU greets at once. A client that is not greeted has to wait until another one leaves. */
const GREETING_TIMEOUT_MS = 5_000;

/**
 * The VM that the flags name.
 *
 * @throws {UsageError} If there is no --socket.
 */
export function qmpTarget(values: Values): { socket: Address; qmpOptions: QmpOptions } {
  if (values.socket === undefined) throw new UsageError("Name the VM's QMP socket with --socket");
  const timeoutMs = timeoutMsOf("timeout", values.timeout ?? 30);
  return {
    socket: parseAddress(values.socket),
    qmpOptions: { timeoutMs, greetingTimeoutMs: Math.min(timeoutMs, GREETING_TIMEOUT_MS) },
  };
}

/**
 * Has QEMU make the socket that the flags name, where they say by which human monitor.
 *
 * @throws {Failure} If QEMU can't.
 */
export async function ensureQmpSocket(values: Values): Promise<void> {
  const monitor = values["via-hmp"];
  if (monitor === undefined) return;
  const { socket, qmpOptions } = qmpTarget(values);
  if (socket.transport !== "unix") {
    throw new UsageError("--via-hmp makes a socket with a path: name that with --socket");
  }
  await makeQmpSocket(
    parseAddress(monitor),
    socket.path,
    Math.min(qmpOptions.timeoutMs, GREETING_TIMEOUT_MS),
  );
}

/** How the flags allow a guest to be thawed; null where they name no agent. */
export function thawOf(values: Values): (() => Promise<void>) | null {
  const agent = values["agent-socket"];
  if (agent === undefined) return null;
  const address = parseAgentAddress(agent);
  const timeoutMs = timeoutMsOf("agent-timeout", values["agent-timeout"] ?? 10);
  return () => thawAnew(address, timeoutMs);
}

/** The longest time of a timer, 24 days. With more than that it fires at once. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/**
 * A flag's seconds as milliseconds.
 *
 * @throws {UsageError} If they are 0.
 */
export function timeoutMsOf(flag: string, seconds: number): number {
  if (seconds === 0) throw new UsageError(`--${flag} must be 1 or more`);
  return Math.min(seconds * 1000, MAX_TIMEOUT_MS);
}
