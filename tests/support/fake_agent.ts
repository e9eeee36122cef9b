/**
 * A guest agent that answers as qemu-ga 7.2 does (tried out), except where a test says otherwise.
 *
 * @module
 */

import { type Command, type FakePeer, type Peer, serve } from "./fake_peer.ts";

/** What the agent does with a command before the usual; true if it is instead of the usual. */
export type Behaviour = (
  command: Command,
  peer: Peer,
  agent: FakeAgent,
) => boolean | Promise<boolean>;

export interface FakeAgent extends FakePeer {
  frozen: boolean;
  /** The commands so far, without syncs and pings. */
  readonly received: string[];
}

/** Starts an agent; `preface` is what is still in the pipe for somebody else. */
export function fakeAgent(
  path: string,
  behave: Behaviour = () => false,
  preface: string | Uint8Array = "",
): FakeAgent {
  const peer = serve(path, async (peer) => {
    await peer.send(preface);
    for (let line; (line = await peer.receiveLine()) !== null;) {
      // qemu-ga's parser takes a lone 0xff for an error, says so, and starts anew.
      if (line.startsWith("\ufffd")) await refuse(peer, "JSON parse error, stray '\\xFF'");
      const command: Command = JSON.parse(line.replace(/^\ufffd+/, ""));
      if (!/sync|ping/.test(command.execute)) agent.received.push(command.execute);
      if (!await behave(command, peer, agent)) await answer(command, peer, agent);
    }
  });
  const agent: FakeAgent = Object.assign(peer, { frozen: false, received: [] });
  return agent;
}

/** Sends an error as the agent does: it knows no ids. */
export async function refuse(peer: Peer, desc: string): Promise<void> {
  await peer.send({ error: { class: "GenericError", desc } });
}

/** The usual. */
export async function answer(command: Command, peer: Peer, agent: FakeAgent): Promise<void> {
  switch (command.execute) {
    case "guest-sync-delimited":
      await peer.send(new Uint8Array([0xff]));
      return await peer.send({ return: command.arguments?.id });
    case "guest-ping":
      return await peer.send({ return: {} });
    case "guest-fsfreeze-status":
      return await peer.send({ return: agent.frozen ? "frozen" : "thawed" });
    case "guest-fsfreeze-freeze":
      agent.frozen = true;
      return await peer.send({ return: 2 });
    case "guest-fsfreeze-thaw":
      agent.frozen = false;
      return await peer.send({ return: 2 });
    default:
      return await refuse(peer, `The command ${command.execute} has not been found`);
  }
}
