/**
 * A QMP server that does what its script says.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import type { Command, Peer } from "./fake_peer.ts";

/** As QEMU 7.2.22 greets. */
export const GREETING = {
  QMP: {
    version: { qemu: { micro: 22, minor: 2, major: 7 }, package: "Debian 1:7.2+dfsg-7" },
    capabilities: ["oob"],
  },
};

/** Greets and answers `qmp_capabilities`. */
export async function greet(
  peer: Peer,
  greeting: Record<string, unknown> = GREETING,
): Promise<void> {
  await peer.send(greeting);
  const command = await peer.receive();
  assertEquals(command?.execute, "qmp_capabilities");
  await reply(peer, command);
}

/** Answers a command. */
export async function reply(peer: Peer, command: Command | null, value: unknown = {}) {
  await peer.send({ return: value, id: command?.id });
}

/** Refuses a command. */
export async function refuse(peer: Peer, command: Command | null, desc: string) {
  await peer.send({ error: { class: "GenericError", desc }, id: command?.id });
}

/** What an answer is thrown as, to be sent as an error. */
export class Refusal extends Error {}

/** Greets, then answers each command by name until the client leaves; unknown ones are refused. */
export async function answer(
  peer: Peer,
  answers: Record<string, (args: Record<string, unknown>) => unknown>,
): Promise<void> {
  await greet(peer);
  for (let command; (command = await peer.receive()) !== null;) {
    try {
      const find = answers[command.execute];
      if (!find) throw new Refusal(`The command ${command.execute} has not been found`);
      await reply(peer, command, await find(command.arguments ?? {}));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      await refuse(peer, command, error.message);
    }
  }
}
