import { assertEquals } from "@std/assert";
import { Failure } from "../../src/errors.ts";
import { freeze, GuestAgent } from "../../src/qga/agent.ts";
import { answer, type Behaviour, fakeAgent } from "../support/fake_agent.ts";
import { within } from "../support/fake_peer.ts";
import { type Dice, mayReject } from "./_fuzz.ts";
import { anyBytes, anyJson, join, mutate, nearlyRight, word } from "./_nonsense.ts";
import { freshAddress, lineOf, MAX_CALL_MS, MESSAGES_EACH, sendCut, talks } from "./_talks.ts";

const DEEP = new TextEncoder().encode(
  `{"return":${"[".repeat(20_000)}${"]".repeat(20_000)}}`,
);

/** What is left in the pipe: answers to somebody else, halves of them, and no answers at all. */
function leftover(dice: Dice): Uint8Array {
  switch (dice.below(6)) {
    case 0:
      return dice.once(50) ? DEEP : anyBytes(dice);
    case 1:
      return mutate(dice, lineOf({ return: anyJson(dice) }));
    case 2:
      return lineOf({ error: { class: "GenericError", desc: word(dice) } });
    default:
      return lineOf(nearlyRight(dice, { return: dice.pick([{}, "frozen", "thawed", 2]) }));
  }
}

const leftovers = (dice: Dice) =>
  join(...Array.from({ length: MESSAGES_EACH }, () => leftover(dice)));

talks("GuestAgent finds its own answers behind whatever is in the pipe", async (dice) => {
  const address = freshAddress();
  await using fake = fakeAgent(address.path, () => false, leftovers(dice));
  const talk = async () => {
    await using agent = await GuestAgent.connect(address, MAX_CALL_MS);
    assertEquals(await agent.execute("guest-fsfreeze-status"), "thawed");
    {
      await using _frozen = await freeze(agent);
      assertEquals(fake.frozen, true);
    }
    assertEquals(fake.frozen, false);
  };
  await within(MAX_CALL_MS, talk());
});

talks(
  "GuestAgent ends each call with a value or a Failure, whatever the agent says",
  async (dice) => {
    const address = freshAddress();
    const isSilent = dice.once(50), isRight = dice.once(5);
    const behave: Behaviour = async (command, peer, agent) => {
      if (isRight || !dice.once(3)) return false;
      await sendCut(dice, peer, leftovers(dice));
      if (isSilent) return true;
      // What was said may have left the client waiting: then only the end helps it.
      if (dice.once(2)) await answer(command, peer, agent);
      else peer.hangUp();
      return true;
    };
    await using fake = fakeAgent(address.path, behave);
    const talk = async () => {
      await using agent = await GuestAgent.connect(address, isRight ? MAX_CALL_MS : 100);
      await using _frozen = await freeze(agent);
    };
    const failed = await within(MAX_CALL_MS, talk().then(() => null, (error) => error));
    if (failed) await mayReject(Failure, Promise.reject(failed));
    if (isRight) assertEquals([failed, fake.frozen], [null, false]);
  },
);
