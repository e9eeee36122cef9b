import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import {
  QmpClient,
  QmpCommandError,
  type QmpEvent,
  type QmpOptions,
  QmpTimeoutError,
} from "../../src/qmp/client.ts";
import { type Address, ConnectionError } from "../../src/wire/address.ts";
import { ProtocolError } from "../../src/wire/json_stream.ts";
import { tempDir } from "../support/temp_dir.ts";
import { answer, greet, GREETING, refuse, reply } from "../support/fake_qmp.ts";
import { type Peer, serve, within } from "../support/fake_peer.ts";

const OPTIONS: QmpOptions = { timeoutMs: 60_000 };
/** Below `OPTIONS.timeoutMs`: what must not wait for a time-out. */
const SOON_MS = 30_000;

/** Starts a fake in a folder of its own. */
async function fake(script: (peer: Peer) => Promise<void>) {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const { address } = stack.use(serve(dir.join("qmp"), script));
  const kept = stack.move();
  return { address, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

async function refusal(address: Address, options: QmpOptions = OPTIONS): Promise<Error> {
  return await within(SOON_MS, assertRejects(() => QmpClient.connect(address, options), Error));
}

for (const where of ["unix", "tcp"]) {
  Deno.test(`\`QmpClient.connect()\` negotiates over ${where}`, async () => {
    await using dir = await tempDir();
    const sent: unknown[] = [];
    await using peer = serve(where === "tcp" ? "tcp" : dir.join("qmp"), async (peer) => {
      await peer.send(GREETING);
      const command = await peer.receive();
      sent.push(command?.execute);
      await reply(peer, command);
      await peer.untilClosed();
    });
    await using qmp = await within(SOON_MS, QmpClient.connect(peer.address, OPTIONS));
    assertEquals(qmp.version, "7.2.22");
    assertEquals(sent, ["qmp_capabilities"]);
    assert(qmp.isOpen);
  });
}

Deno.test("`QmpClient.execute()` gives each command its own answer, whatever their order", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const commands = [await peer.receive(), await peer.receive(), await peer.receive()];
    for (const command of commands.reverse()) await reply(peer, command, command?.execute);
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const answers = ["a", "b", "c"].map((name) => qmp.execute(name));
  assertEquals(await within(SOON_MS, Promise.all(answers)), ["a", "b", "c"]);
});

Deno.test("`QmpClient.execute()` sends arguments as they are", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const command = await peer.receive();
    await reply(peer, command, command?.arguments);
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const args = { "node-name": 'a"\\ü\n', deep: [{ n: 1 }, null] };
  assertEquals(await within(SOON_MS, qmp.execute("echo", args)), args);
});

Deno.test("`QmpClient.subscribe()` passes on events between answers, until disposed", async () => {
  await using peer = await fake(async (peer) => {
    await peer.send(GREETING);
    await peer.send({ event: "EARLY", timestamp: { seconds: 1, microseconds: 2 } });
    await reply(peer, await peer.receive());
    for (let command; (command = await peer.receive());) {
      await peer.send({ event: "STOP", timestamp: { seconds: 1, microseconds: 2 } });
      await peer.send({ event: "NEVER_HEARD_OF", data: { a: [1] }, more: true });
      await reply(peer, command);
    }
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const events: QmpEvent[] = [];
  {
    using _ = qmp.subscribe((event) => void events.push(event));
    await within(SOON_MS, qmp.execute("stop"));
  }
  await within(SOON_MS, qmp.execute("stop"));
  assertEquals(events, [
    { event: "STOP", data: {} },
    { event: "NEVER_HEARD_OF", data: { a: [1] } },
  ]);
});

const TRICKY = { text: 'a {"[ü€😀]"} \\ " }', list: [[{}], "}{"] };

Deno.test("`QmpClient.execute()` reads an answer that comes byte by byte", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const command = await peer.receive();
    const text = JSON.stringify({ return: TRICKY, id: command?.id }) + "\r\n";
    for (const byte of new TextEncoder().encode(text)) await peer.send(new Uint8Array([byte]));
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  assertEquals(await within(SOON_MS, qmp.execute("a")), TRICKY);
});

Deno.test("`QmpClient.execute()` reads answers and events that come in one piece", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const ids = [(await peer.receive())?.id, (await peer.receive())?.id];
    const messages = [{ event: "A" }, { return: 1, id: ids[0] }, { return: TRICKY, id: ids[1] }];
    await peer.send(messages.map((message) => JSON.stringify(message)).join("") + '{"event":');
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const answers = Promise.all([qmp.execute("a"), qmp.execute("b")]);
  assertEquals(await within(SOON_MS, answers), [1, TRICKY]);
});

Deno.test("`QmpClient` reads the lines of a monitor with pretty=on", async () => {
  await using peer = await fake(async (peer) => {
    const pretty = (message: unknown) => peer.send(JSON.stringify(message, null, 4) + "\r\n");
    await pretty(GREETING);
    for (let command; (command = await peer.receive());) {
      await pretty({ return: TRICKY, id: command.id });
    }
  });
  await using qmp = await within(SOON_MS, QmpClient.connect(peer.address, OPTIONS));
  assertEquals(await within(SOON_MS, qmp.execute("a")), TRICKY);
});

Deno.test("`QmpClient.execute()` reads an answer of 20 MB", async () => {
  const long = "x".repeat(20_000_000);
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await reply(peer, await peer.receive(), long);
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  assert(await within(OPTIONS.timeoutMs, qmp.execute("a")) === long);
});

Deno.test("`QmpClient` fails on a message without end instead of holding it all", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await peer.send('{"return": "');
    const part = "x".repeat(1 << 20);
    for (let i = 0; i < 1000; i++) await peer.send(part);
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const error = await within(SOON_MS, assertRejects(() => qmp.execute("a"), ProtocolError));
  assertStringIncludes(error.message, "longer than");
});

Deno.test("`QmpClient.execute()` passes over fields and ids that it does not know", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const command = await peer.receive();
    for (const id of [999, "text", null, { a: 1 }]) await peer.send({ return: "wrong", id });
    await peer.send({ return: "without an id" });
    await peer.send({ error: { class: "GenericError", desc: "without an id" } });
    await peer.send({ hello: "world" });
    await peer.send({ return: "right", id: command?.id, timing: { ns: 5 } });
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  assertEquals(await within(SOON_MS, qmp.execute("a")), "right");
});

Deno.test("`QmpClient.execute()` tells which command was refused and why, and goes on", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await peer.send({
      error: { class: "DeviceNotFound", desc: "No such node", more: 1 },
      id: (await peer.receive())?.id,
    });
    await reply(peer, await peer.receive(), "fine");
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const error = await within(
    SOON_MS,
    assertRejects(() => qmp.execute("blockdev-del"), QmpCommandError, "No such node"),
  );
  assertEquals([error.command, error.errorClass], ["blockdev-del", "DeviceNotFound"]);
  assertEquals(await within(SOON_MS, qmp.execute("b")), "fine");
});

Deno.test("`QmpClient.connect()` says that another client holds a socket that never greets", async () => {
  await using peer = await fake((peer) => peer.untilClosed());
  const error = await refusal(peer.address, { timeoutMs: 60_000, greetingTimeoutMs: 100 });
  assert(error instanceof ConnectionError);
  assertStringIncludes(error.message, "another client holds this socket");
  assert(peer.address.transport === "unix");
  assertStringIncludes(error.message, `"${peer.address.path}" within 0.1 s`);
});

Deno.test("`QmpClient.connect()` gives up a peer that greets half", async () => {
  await using peer = await fake(async (peer) => {
    await peer.send(JSON.stringify(GREETING).slice(0, -1));
    await peer.untilClosed();
  });
  const error = await refusal(peer.address, { timeoutMs: 60_000, greetingTimeoutMs: 100 });
  assert(error instanceof ConnectionError);
});

Deno.test("`QmpClient.connect()` gives up a peer that greets and then hangs", async () => {
  await using peer = await fake(async (peer) => {
    await peer.send(GREETING);
    await peer.untilClosed();
  });
  assert(
    await refusal(peer.address, { timeoutMs: 500, greetingTimeoutMs: 60_000 }) instanceof
      QmpTimeoutError,
  );
});

Deno.test("`QmpClient.connect()` fails, and closes, if negotiation is refused", async () => {
  const closed = Promise.withResolvers<void>();
  await using peer = await fake(async (peer) => {
    await peer.send(GREETING);
    await refuse(peer, await peer.receive(), "Capabilities negotiation is over");
    await peer.untilClosed();
    closed.resolve();
  });
  assert(await refusal(peer.address) instanceof QmpCommandError);
  await within(SOON_MS, closed.promise);
});

Deno.test("`QmpClient.connect()` fails at once if the peer closes", async () => {
  await using peer = await fake(() => Promise.resolve());
  assert(await refusal(peer.address) instanceof ConnectionError);
});

Deno.test("`QmpClient` fails all that is pending if the peer closes in the middle", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const first = await peer.receive();
    await peer.receive();
    await peer.send(JSON.stringify({ return: "half", id: first?.id }).slice(0, 10));
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const pending = [qmp.execute("a"), qmp.execute("b")];
  const results = await within(SOON_MS, Promise.allSettled(pending));
  for (const result of results) {
    assert(result.status === "rejected" && result.reason instanceof ConnectionError);
    assertStringIncludes(result.reason.message, "closed the QMP connection");
  }
  assert(!qmp.isOpen);
  assert(await within(SOON_MS, qmp.closed) instanceof ConnectionError);
  await within(SOON_MS, assertRejects(() => qmp.execute("c"), ConnectionError));
});

Deno.test("`QmpClient.execute()` gives up a command that hangs; its late answer does no harm", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    const slow = await peer.receive();
    const next = await peer.receive();
    await reply(peer, slow, "late");
    await reply(peer, next, "mine");
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  const hung = assertRejects(() => qmp.execute("hang", {}, { timeoutMs: 100 }), QmpTimeoutError);
  const error = await within(SOON_MS, hung);
  assertStringIncludes(error.message, '"hang" within 0.1 s');
  assert(qmp.isOpen);
  assertEquals(await within(SOON_MS, qmp.execute("next")), "mine");
});

Deno.test("`QmpClient.execute()` gives a QEMU that hangs less time for the next command", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, { timeoutMs: 60_000 });
  const first = assertRejects(() => qmp.execute("a", {}, { timeoutMs: 50 }), QmpTimeoutError);
  await within(SOON_MS, first);
  await within(SOON_MS, assertRejects(() => qmp.execute("b"), QmpTimeoutError, '"b" within 2 s'));
});

const NONSENSE: Record<string, string | Uint8Array> = {
  HTTP: "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
  SSH: "SSH-2.0-OpenSSH_9.2p1\r\n",
  binary: new Uint8Array([0x16, 0x03, 0x01, 0xff, 0xfe, 0x00, 0x7b, 0x7d]),
  "other JSON": '{"jsonrpc": "2.0", "result": null}\n',
  "a JSON array": "[1, 2]\n",
  "a greeting without a version": '{"QMP": {}}\n',
  "braces without JSON": "{nonsense}\n",
  "wrong types": '{"QMP": {"version": {"qemu": "7.2"}}, "id": 1, "error": "no"}\n',
};
for (const [name, text] of Object.entries(NONSENSE)) {
  Deno.test(`\`QmpClient.connect()\` refuses a peer that talks ${name}`, async () => {
    await using peer = await fake(async (peer) => {
      await peer.send(text);
      await peer.untilClosed();
    });
    const error = await refusal(peer.address);
    assert(error instanceof ProtocolError);
    assert(peer.address.transport === "unix");
    assertStringIncludes(error.message, peer.address.path);
  });
}

/** Seen with QEMU 7.2: the answer to a client that was killed goes to the next one, before its greeting. */
const OF_THE_DEAD: Record<string, string> = {
  "an answer": '{"return": [], "id": 7}\r\n',
  "half an answer": 'ode-name": "disk0"}], "id": 7}\r\n',
};
for (const [what, text] of Object.entries(OF_THE_DEAD)) {
  Deno.test(`\`QmpClient.connect()\` is not led astray by ${what} to a client that died`, async () => {
    let connections = 0;
    await using peer = await fake(async (peer) => {
      if (++connections === 1) await peer.send(text);
      await answer(peer, { a: () => ({ mine: true }) }).catch(() => {});
    });
    await using qmp = await QmpClient.connect(peer.address, OPTIONS);
    assertEquals(await qmp.execute("a"), { mine: true });
    assertEquals(connections, 2);
  });
}

Deno.test("`QmpClient` takes no answer for its own that bears the first ids of another client", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    for (let id = 0; id < 100; id++) await peer.send({ return: { mine: false }, id });
    await reply(peer, await peer.receive(), { mine: true });
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  assertEquals(await qmp.execute("a"), { mine: true });
});

Deno.test("`QmpClient` fails what is pending if the peer turns to nonsense", async () => {
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await peer.receive();
    await peer.send("Segmentation fault\n");
    await peer.untilClosed();
  });
  await using qmp = await QmpClient.connect(peer.address, OPTIONS);
  await within(SOON_MS, assertRejects(() => qmp.execute("a"), ProtocolError));
  assert(!qmp.isOpen);
});

Deno.test("`QmpClient.execute()` gives up a peer that does not read", async () => {
  const over = Promise.withResolvers<void>();
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await over.promise;
  });
  {
    await using qmp = await QmpClient.connect(peer.address, OPTIONS);
    const full = { text: "x".repeat(8 << 20) };
    const soon = { timeoutMs: 200 };
    await within(SOON_MS, assertRejects(() => qmp.execute("big", full, soon), QmpTimeoutError));
    await within(SOON_MS, assertRejects(() => qmp.execute("small", {}, soon), QmpTimeoutError));
    // Ends the write that still waits, too.
    over.resolve();
    assert(await within(SOON_MS, qmp.closed) instanceof ConnectionError);
  }
});

Deno.test("`QmpClient[Symbol.asyncDispose]()` fails what is pending, and hangs up", async () => {
  const closed = Promise.withResolvers<void>();
  await using peer = await fake(async (peer) => {
    await greet(peer);
    await peer.untilClosed();
    closed.resolve();
  });
  const qmp = await QmpClient.connect(peer.address, OPTIONS);
  const pending = assertRejects(() => qmp.execute("a"), ConnectionError, "was closed");
  await within(SOON_MS, qmp[Symbol.asyncDispose]());
  await within(SOON_MS, pending);
  await within(SOON_MS, closed.promise);
});

Deno.test("`QmpClient.connect()` says that the socket is missing", async () => {
  await using dir = await tempDir();
  const error = await refusal({ transport: "unix", path: dir.join("none") });
  assert(error instanceof ConnectionError);
  assertStringIncludes(error.message, `"${dir.join("none")}" does not exist`);
});

Deno.test("`QmpClient.connect()` says that nobody listens on a socket's file", async () => {
  await using dir = await tempDir();
  const listener = Deno.listen({ transport: "unix", path: dir.join("new") });
  // Deno removes a socket's file when it closes, a VM that was killed does not.
  await Deno.rename(dir.join("new"), dir.join("old"));
  listener.close();
  const error = await refusal({ transport: "unix", path: dir.join("old") });
  assert(error instanceof ConnectionError);
  assertStringIncludes(error.message, "Nobody listens");
});

Deno.test("`QmpClient.connect()` says that nobody listens on a TCP port", async () => {
  const listener = Deno.listen({ transport: "tcp", hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const error = await refusal({ transport: "tcp", hostname: "127.0.0.1", port });
  assert(error instanceof ConnectionError);
  assertStringIncludes(error.message, "Nobody listens");
});

Deno.test("`QmpClient.connect()` fails on a path that is too long for a socket", async () => {
  const error = await refusal({ transport: "unix", path: `/${"x".repeat(200)}` });
  assert(error instanceof ConnectionError);
  assertStringIncludes(error.message, "can't be reached");
});
