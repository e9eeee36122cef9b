/**
 * Waits for a sign of life of a VM.
 *
 * Source: QEMU QMP Reference Manual, the events VSERPORT_CHANGE and SHUTDOWN.
 *
 * @module
 */

import { delay } from "@std/async/delay";
import { Failure } from "../errors.ts";
import { endsWithin } from "../fs/deadline.ts";
import { GuestAgent } from "../qga/agent.ts";
import type { QmpClient, QmpEvent } from "../qmp/client.ts";
import { AGENT_PORT } from "./command.ts";
import type { Serial } from "./serial.ts";

/** A text on the serial console, the agent's answer, that the guest shuts down, or says how it went. */
export type SignOfLife =
  | { kind: "text"; text: string }
  | { kind: "agent" }
  | { kind: "shutdown" }
  | { kind: "exit" };

/** An agent that has just opened its port may not answer at once. */
const AGENT_TIMEOUT_MS = 10_000;

/** What the VM is heard by. */
export interface Lines {
  serial: Serial;
  /** What the guest writes to the port; null where the machine has none. */
  exit: Serial | null;
  agentSocket: string;
}

/**
 * Waits for it.
 *
 * @returns Why it did not come, or null if it did.
 * @throws The signal's reason, if it was aborted.
 */
export async function waitForLife(
  qmp: QmpClient,
  { serial, exit, agentSocket }: Lines,
  { waitFor, timeoutMs }: { waitFor: SignOfLife; timeoutMs: number },
  signal: AbortSignal,
): Promise<string | null> {
  const end = new AbortController();
  const stop = AbortSignal.any([signal, end.signal]);
  const { promise: ended, resolve: endWith } = Promise.withResolvers<string | null>();
  const { promise: portOpen, resolve: openPort } = Promise.withResolvers<void>();
  using _events = qmp.subscribe((event) => {
    if (event.event === "SHUTDOWN") endWith(reasonOfShutdown(event, waitFor));
    if (event.event === "GUEST_PANICKED") endWith("The guest's kernel panicked");
    if (isAgentUp(event)) openPort();
  });
  const printed = waitFor.kind === "text" ? serial.printed(waitFor.text) : null;
  // What it printed before it ended is on another socket, and may be read after that.
  const endedThen = ended.then(async (reason) =>
    printed !== null && await endsWithin(printed, PRINTED_GRACE_MS) ? null : reason
  );
  const sign = async (): Promise<string | null> => {
    if (printed !== null) await printed;
    else if (waitFor.kind === "agent") {
      await portOpen;
      await agentAnswers(agentSocket, stop);
    } else if (waitFor.kind === "exit" && exit !== null) {
      return reasonOfExit(await exit.firstByte());
    } else await new Promise(() => {});
    return null;
  };
  const tooLong = delay(timeoutMs, { signal: stop }).then(
    () => `${WANTED[waitFor.kind]} did not come within ${timeoutMs / 1000} s`,
  );
  const gone = qmp.closed.then(() => "QEMU ended");
  try {
    return await Promise.race([endedThen, sign(), tooLong, gone]);
  } catch (error) {
    signal.throwIfAborted();
    throw error;
  } finally {
    tooLong.catch(() => {});
    end.abort();
  }
}

const WANTED = {
  text: "The text on the serial console",
  agent: "The guest agent's answer",
  shutdown: "The guest's shutdown",
  exit: "The guest's exit",
} as const;

/** Why an exit is not a good one; null if it is. Pure. */
export function reasonOfExit(value: number): string | null {
  return value === 0 ? null : `The guest exited with ${value}`;
}

/** Why a shutdown is not what was waited for; null if it is. Pure. */
export function reasonOfShutdown(
  { data }: Pick<QmpEvent, "data">,
  waitFor: Pick<SignOfLife, "kind">,
): string | null {
  const { guest, reason } = data;
  const isByGuest = guest === true && (reason === undefined || reason === "guest-shutdown");
  if (waitFor.kind === "shutdown" && isByGuest) return null;
  if (isByGuest) return `The guest shut down before ${WANTED[waitFor.kind].toLowerCase()} came`;
  return `The VM ended (${typeof reason === "string" ? reason : "QEMU does not say why"})`;
}

/** Whether a guest has opened the agent's port. Pure. */
export function isAgentUp({ event, data }: QmpEvent): boolean {
  return event === "VSERPORT_CHANGE" && data.id === AGENT_PORT && data.open === true;
}

async function agentAnswers(path: string, stop: AbortSignal): Promise<void> {
  while (!stop.aborted) {
    try {
      await using _agent = await GuestAgent.connect({ transport: "unix", path }, AGENT_TIMEOUT_MS);
      return;
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      // It says nothing yet. Where the socket is gone, QEMU's end is noticed by others.
      if (!stop.aborted) await delay(RETRY_MS, { signal: stop }).catch(() => {});
    }
  }
}

const RETRY_MS = 500;
const PRINTED_GRACE_MS = 1_000;
