import { assert, assertEquals } from "@std/assert";
import { UsageError } from "../../src/errors.ts";
import { formatAddress, parseAddress } from "../../src/wire/address.ts";
import { JsonStream, ProtocolError } from "../../src/wire/json_stream.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { anyBytes, anyJson, join, mutate, mutateText, pieces, word } from "./_nonsense.ts";

const STRICT = { maxMessageBytes: 100_000, lenient: false };
const LENIENT = { maxMessageBytes: 100_000, lenient: true };
const DELIMITER = new Uint8Array([0xff]);

const bytesOf = (text: string) => new TextEncoder().encode(text);

/** Texts are quicker to compare. */
const textOf = (value: unknown) => JSON.stringify(value);

/** An object, as JSON gives it back: without the differences that JSON does not know. */
function anyMessage(dice: Dice): unknown {
  return JSON.parse(JSON.stringify({ [word(dice)]: anyJson(dice) }));
}

function push(stream: JsonStream, parts: Uint8Array[]): unknown[] {
  return parts.flatMap((part) => stream.push(part));
}

fuzz("JsonStream.push() finds the same messages however they are cut", dice, (seed) => {
  const dice = new Dice(seed);
  const messages = dice.some(3, () => anyMessage(dice));
  const space = dice.pick([0, 0, 2]);
  const between = dice.pick(["", "\n", "\r\n", " \t\r\n"]);
  const bytes = bytesOf(
    messages.map((message) => JSON.stringify(message, null, space) + between).join(""),
  );
  const stream = new JsonStream(dice.once(2) ? STRICT : LENIENT);
  assertEquals(textOf(push(stream, pieces(dice, bytes))), textOf(messages));
});

fuzz("JsonStream.push() throws ProtocolError alone at any bytes", dice, (seed) => {
  const dice = new Dice(seed);
  const stream = new JsonStream(
    dice.pick([STRICT, LENIENT, { ...STRICT, maxMessageBytes: 20 }]),
  );
  const right = bytesOf(JSON.stringify(anyMessage(dice)));
  const bytes = dice.once(2) ? anyBytes(dice, 200) : mutate(dice, right);
  for (const message of mayThrow(ProtocolError, () => push(stream, pieces(dice, bytes))) ?? []) {
    assert(typeof message === "object" && message !== null && !Array.isArray(message));
  }
});

fuzz("JsonStream.push() finds what follows a delimiter after any bytes", dice, (seed) => {
  const dice = new Dice(seed);
  const message = anyMessage(dice);
  const bytes = join(
    ...dice.some(3, () => anyBytes(dice)),
    mutate(dice, bytesOf(JSON.stringify(anyMessage(dice)))),
    DELIMITER,
    bytesOf(JSON.stringify(message)),
  );
  assertEquals(textOf(push(new JsonStream(LENIENT), pieces(dice, bytes)).at(-1)), textOf(message));
});

fuzz("JsonStream.push() never holds more than it may", dice, (seed) => {
  const dice = new Dice(seed);
  const stream = new JsonStream({ maxMessageBytes: 100, lenient: dice.once(2) });
  const piece = bytesOf(dice.pick(["x", "\\", "[", "{}", "€"]).repeat(1 + dice.below(40)));
  const endless = () => {
    stream.push(bytesOf('{"a":"'));
    for (let sent = 0; sent < 100; sent += piece.length) stream.push(piece);
    return "held";
  };
  assertEquals(mayThrow(ProtocolError, endless), undefined);
});

fuzz("parseAddress() throws UsageError alone", dice, (seed) => {
  const dice = new Dice(seed);
  const text = dice.once(2)
    ? word(dice)
    : mutateText(dice, dice.pick(["tcp:localhost:4444", "tcp:[::1]:4444", "/run/vm1.qmp"]));
  const address = mayThrow(UsageError, () => parseAddress(text));
  if (address?.transport !== "tcp") return;
  assert(address.port > 0 && address.port < 65536 && address.hostname !== "");
  assertEquals(parseAddress(formatAddress(address)), address);
}, { permissions: { read: true } });
