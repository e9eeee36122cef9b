import { assertEquals, assertThrows } from "@std/assert";
import {
  JsonStream,
  type JsonStreamOptions,
  ProtocolError,
} from "../../../src/wire/json_stream.ts";

const STRICT: JsonStreamOptions = { maxMessageBytes: 1000, lenient: false };
const LENIENT: JsonStreamOptions = { maxMessageBytes: 1000, lenient: true };

const bytesOf = (text: string) => new TextEncoder().encode(text);

/** Pushes all pieces and returns all messages. */
function feed(options: JsonStreamOptions, ...pieces: (string | Uint8Array)[]): unknown[] {
  const stream = new JsonStream(options);
  return pieces.flatMap((piece) => stream.push(typeof piece === "string" ? bytesOf(piece) : piece));
}

const TRICKY = [
  { return: { text: 'a "quoted" } { ] [ \\', deep: [[{ a: [] }]] }, id: 1 },
  { event: "Ünïcode €𝄞", data: {} },
  {},
];

Deno.test("JsonStream.push() finds the same messages wherever the stream is split", () => {
  const bytes = bytesOf(TRICKY.map((message) => JSON.stringify(message)).join("\r\n"));
  for (let at = 0; at <= bytes.length; at++) {
    assertEquals(
      feed(STRICT, bytes.subarray(0, at), bytes.subarray(at)),
      TRICKY,
      `split at byte ${at}`,
    );
  }
});

Deno.test("JsonStream.push() takes a stream byte by byte", () => {
  const bytes = bytesOf(TRICKY.map((message) => JSON.stringify(message)).join(""));
  assertEquals(feed(STRICT, ...[...bytes].map((byte) => new Uint8Array([byte]))), TRICKY);
});

Deno.test("JsonStream.push() takes pretty-printed messages", () => {
  const pretty = TRICKY.map((message) => JSON.stringify(message, null, 4)).join("\r\n");
  assertEquals(feed(STRICT, pretty), TRICKY);
});

Deno.test("JsonStream.push() returns a message as soon as its last byte is there", () => {
  const stream = new JsonStream(STRICT);
  assertEquals(stream.push(bytesOf('{"a":1')), []);
  assertEquals(stream.push(bytesOf('}{"b"')), [{ a: 1 }]);
  assertEquals(stream.push(bytesOf(":2}")), [{ b: 2 }]);
});

Deno.test("JsonStream.push() does not keep the caller's buffer", () => {
  const stream = new JsonStream(STRICT);
  const buffer = bytesOf('{"a":"first');
  stream.push(buffer);
  buffer.fill(0x20);
  assertEquals(stream.push(bytesOf('"}')), [{ a: "first" }]);
});

Deno.test("JsonStream.push() keeps a U+FEFF that a piece begins with", () => {
  assertEquals(feed(STRICT, '{"', "\ufeff", '":', '"\ufeff"}'), [{ "\ufeff": "\ufeff" }]);
});

Deno.test("JsonStream.push() does not take an escaped quote for the end of a string", () => {
  assertEquals(feed(STRICT, String.raw`{"a":"\\\"}"}`), [{ a: String.raw`\"}` }]);
});

for (const nonsense of ["HTTP/1.1 400 Bad Request", "[]", '"text"', "}"]) {
  Deno.test(`JsonStream.push() refuses ${JSON.stringify(nonsense)} for a message`, () => {
    assertThrows(() => feed(STRICT, nonsense), ProtocolError, "Expected a JSON object");
  });
}

Deno.test("JsonStream.push() refuses a delimiter where it is strict", () => {
  assertThrows(() => feed(STRICT, new Uint8Array([0xff])), ProtocolError, "byte 0xff");
});

Deno.test("JsonStream.push() refuses braces around what is not JSON", () => {
  assertThrows(() => feed(STRICT, "{nonsense}"), ProtocolError, 'Not JSON: "{nonsense}"');
});

Deno.test("JsonStream.push() refuses brackets that don't match", () => {
  assertThrows(() => feed(STRICT, '{"a":[}]'), ProtocolError, "Not JSON");
});

Deno.test("JsonStream.push() takes a message of the maximum length", () => {
  const message = { a: "x".repeat(992) };
  assertEquals(feed(STRICT, JSON.stringify(message)), [message]);
});

Deno.test("JsonStream.push() refuses a longer message", () => {
  const text = JSON.stringify({ a: "x".repeat(993) });
  assertThrows(() => feed(STRICT, text), ProtocolError, "longer than 1000 bytes");
});

Deno.test("JsonStream.push() refuses a message without end, before it ends", () => {
  const pieces = Array<string>(11).fill("x".repeat(100));
  assertThrows(() => feed(STRICT, '{"a":"', ...pieces), ProtocolError, "longer than 1000 bytes");
});

Deno.test("JsonStream.push() counts each message's length by itself", () => {
  const message = { a: "x".repeat(600) };
  assertEquals(feed(STRICT, JSON.stringify(message).repeat(3)), [message, message, message]);
});

Deno.test("JsonStream.push() drops half a message at a delimiter where it is lenient", () => {
  const half = bytesOf('{"return": {"rest": "of {');
  assertEquals(feed(LENIENT, half, new Uint8Array([0xff]), '{"return":1}'), [{ return: 1 }]);
});

Deno.test("JsonStream.push() takes a delimiter and what follows from one piece", () => {
  const piece = new Uint8Array([...bytesOf('{"half":"'), 0xff, ...bytesOf('{"a":1}\n{"b":')]);
  assertEquals(feed(LENIENT, piece, "2}"), [{ a: 1 }, { b: 2 }]);
});

Deno.test("JsonStream.push() passes over what is outside of objects where it is lenient", () => {
  assertEquals(feed(LENIENT, 'rest"}]\n{"a":1}garbage{"b":2}'), [{ a: 1 }, { b: 2 }]);
});

Deno.test("JsonStream.push() passes over an object that is not JSON where it is lenient", () => {
  assertEquals(feed(LENIENT, '{oops}{"a":1}'), [{ a: 1 }]);
});

Deno.test("JsonStream.push() bounds a message where it is lenient too", () => {
  assertThrows(() => feed(LENIENT, "{" + "x".repeat(1000)), ProtocolError, "longer than");
});
