import { assert, assertEquals } from "@std/assert";
import { Failure } from "../../src/errors.ts";
import { QmpClient, QmpCommandError } from "../../src/qmp/client.ts";
import { type Peer, serve, within } from "../support/fake_peer.ts";
import { GREETING, reply } from "../support/fake_qmp.ts";
import { type Dice, mayReject } from "./_fuzz.ts";
import { anyJson, join, mutate, nearlyRight, word } from "./_nonsense.ts";
import { freshAddress, lineOf, MAX_CALL_MS, MESSAGES_EACH, sendCut, talks } from "./_talks.ts";

/** What QEMU may say that is no answer to a call of ours: events, and answers to nobody. */
function chatter(dice: Dice, callIds: number[]): Uint8Array {
  const value = anyJson(dice);
  const strangers = [null, "1", -1, 0, 1e308, Infinity, 0.5, [1], { id: 1 }, true, word(dice)];
  switch (dice.below(5)) {
    case 0:
      return lineOf({ event: word(dice), data: { [word(dice)]: value }, timestamp: value });
    case 1:
      return lineOf({ return: value });
    case 2:
      return lineOf({ id: dice.pick(strangers), return: value });
    case 3:
      return lineOf({ id: Math.max(...callIds) + 1 + dice.below(99), return: value });
    default:
      return lineOf({ id: dice.pick(strangers), error: { class: word(dice), desc: word(dice) } });
  }
}

/** Greets, answers `qmp_capabilities`, and waits for so many commands. */
async function begin(peer: Peer, calls: number): Promise<number[]> {
  await peer.send(GREETING);
  await reply(peer, await peer.receive());
  const ids: number[] = [];
  for (let command; ids.length < calls && (command = await peer.receive()) !== null;) {
    ids.push(Number(command.id));
  }
  return ids;
}

/** The answer to a call: a value or an error, told by its id. */
const answerTo = (id: number) =>
  lineOf(
    id % 3 === 0
      ? { id, error: { class: "GenericError", desc: `no ${id}` }, future: 1 }
      : { id, return: { answer: id }, future: 1 },
  );

talks("QmpClient gives each call its own answer, whatever comes between", async (dice) => {
  const address = freshAddress();
  const calls = 1 + dice.below(5);
  let events = 0;
  const seen = Promise.withResolvers<number[]>();
  await using _peer = serve(address.path, async (peer) => {
    const ids = await begin(peer, calls);
    seen.resolve(ids);
    const between = Array.from({ length: MESSAGES_EACH }, () => chatter(dice, ids));
    const answers = ids.flatMap((id) => [answerTo(id), ...(dice.once(3) ? [answerTo(id)] : [])]);
    for (const answer of answers) between.splice(dice.below(between.length), 0, answer);
    between.push(lineOf({ event: "LAST" }));
    await sendCut(dice, peer, join(...between));
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(address, { timeoutMs: MAX_CALL_MS });
  const last = Promise.withResolvers<void>();
  using _ = qmp.subscribe(({ event }) => {
    events++;
    if (event === "LAST") last.resolve();
  });
  const ends = Array.from(
    { length: calls },
    (_, index) => endOf(qmp.execute("query-x", { index }), seen.promise, index),
  );
  await within(MAX_CALL_MS, Promise.all([...ends, last.promise]));
  assert(events > 0 && qmp.isOpen);
});

/** The call of this place gets the answer to the command that came as this one. */
async function endOf(call: Promise<unknown>, ids: Promise<number[]>, index: number) {
  const end = await call.catch((error) => error);
  const id = (await ids)[index] as number;
  if (id % 3 !== 0) return assertEquals(end, { answer: id });
  assert(end instanceof QmpCommandError && end.desc === `no ${id}`, String(end));
}

talks("QmpClient ends each call with a value or a Failure, whatever QEMU says", async (dice) => {
  const address = freshAddress();
  const isSilent = dice.once(50), isGreeted = !dice.once(5), calls = 1 + dice.below(5);
  await using _peer = serve(address.path, async (peer) => {
    const ids = isGreeted ? await begin(peer, calls) : [1];
    const message = () =>
      dice.once(2) ? chatter(dice, [0]) : lineOf(nearlyRight(dice, { id: 1, return: {} }));
    const parts = [...Array.from({ length: MESSAGES_EACH }, message), ...ids.map(answerTo)];
    if (!isGreeted) parts.unshift(lineOf(nearlyRight(dice, GREETING)));
    parts[dice.below(parts.length)] = mutate(dice, dice.pick(parts));
    const bytes = join(...parts);
    await sendCut(dice, peer, dice.once(4) ? bytes.subarray(0, dice.below(bytes.length)) : bytes);
    if (isSilent) await peer.untilClosed();
  });
  // A peer that says nothing more costs the time-out; the others hang up.
  const timeoutMs = isSilent ? 100 : 60_000;
  const talk = async () => {
    await using qmp = await QmpClient.connect(address, { timeoutMs });
    const call = () => mayReject(Failure, qmp.execute("query-x"));
    await Promise.all(Array.from({ length: calls }, call));
  };
  await within(MAX_CALL_MS, mayReject(Failure, talk()));
});
