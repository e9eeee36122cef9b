import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { AgentError, freeze, GuestAgent, thaw } from "../../src/qga/agent.ts";
import { ConnectionError } from "../../src/wire/address.ts";
import { tempDir } from "../support/temp_dir.ts";
import {
  answer,
  type Behaviour,
  type FakeAgent,
  fakeAgent,
  refuse,
} from "../support/fake_agent.ts";
import { serve, within } from "../support/fake_peer.ts";

/** For commands that are answered. */
const TIMEOUT_MS = 60_000;
/** For commands that are not; others must be answered within it, on a busy machine, too. */
const SHORT_MS = 1_000;
/** Below `TIMEOUT_MS`: what must not wait for a time-out. */
const SOON_MS = 30_000;

const FREEZE = "guest-fsfreeze-freeze";
const THAW = "guest-fsfreeze-thaw";
const STATUS = "guest-fsfreeze-status";

interface Fake extends AsyncDisposable {
  path: string;
  fake: FakeAgent;
}

async function start(behave?: Behaviour, preface?: string | Uint8Array): Promise<Fake> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const fake = stack.use(fakeAgent(dir.join("agent"), behave, preface));
  const kept = stack.move();
  return { path: dir.join("agent"), fake, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

function connect({ path }: Fake, timeoutMs = TIMEOUT_MS): Promise<GuestAgent> {
  return within(SOON_MS, GuestAgent.connect({ transport: "unix", path }, timeoutMs));
}

async function refusal(path: string, timeoutMs = TIMEOUT_MS): Promise<Error> {
  const attempt = () => GuestAgent.connect({ transport: "unix", path }, timeoutMs);
  return await within(SOON_MS, assertRejects(attempt, Error));
}

Deno.test("`GuestAgent.connect()` passes over the error with which qemu-ga answers a 0xff", async () => {
  await using peer = await start();
  await using agent = await connect(peer);
  assertEquals(await within(SOON_MS, agent.execute("guest-ping")), {});
});

const text = new TextEncoder();
const STALE: Record<string, string | Uint8Array> = {
  "an answer nested very deep": `{"return":${"[".repeat(50_000)}${"]".repeat(50_000)}}`,
  "half an answer": '"disk": [{"name": "vda", "mount": "/\\"{',
  "an answer without its end": '{"return": {"text": "{{{',
  "a whole answer to somebody else": '{"return": 12345}\n{"return": {}}\n',
  "an error for somebody else": '{"error": {"class": "GenericError", "desc": "stale"}}\n',
  "bytes that are no text": new Uint8Array([0, 0x80, 0xfe, 0x7b, 0x22, 0x0a]),
  "another client's delimiter": new Uint8Array([0xff, ...text.encode('{"return": 7}\n'), 0xff]),
};
for (const [name, preface] of Object.entries(STALE)) {
  Deno.test(`\`GuestAgent.connect()\` finds the start behind ${name}`, async () => {
    await using peer = await start(undefined, preface);
    await using agent = await connect(peer);
    assertEquals(await within(SOON_MS, agent.execute(STATUS)), "thawed");
  });
}

Deno.test("`GuestAgent.connect()` says that no agent answers behind the socket", async () => {
  await using dir = await tempDir();
  await using _ = serve(dir.join("agent"), (peer) => peer.untilClosed());
  const error = await refusal(dir.join("agent"), SHORT_MS);
  assert(error instanceof AgentError);
  assertStringIncludes(error.message, "did not answer");
});

Deno.test("`GuestAgent.connect()` gives up an agent that only talks rubbish", async () => {
  await using peer = await start(async (_command, peer) => {
    await peer.send("login: [  42.0] random: crng init done\n{]}\n{nonsense}\n");
    return true;
  });
  assert(await refusal(peer.path, SHORT_MS) instanceof AgentError);
});

Deno.test("`GuestAgent.connect()` gives up an agent that talks without end", async () => {
  const part = `{"x": "${"x".repeat(1 << 20)}`;
  await using peer = await start(async (_command, peer) => {
    for (let i = 0; i < 100; i++) await peer.send(part);
    return true;
  });
  const error = await refusal(peer.path);
  assert(error instanceof AgentError);
  assertStringIncludes(error.message, "longer than");
});

Deno.test("`GuestAgent.connect()` says that the connection was closed", async () => {
  await using peer = await start((_command, peer) => {
    peer.hangUp();
    return true;
  });
  const error = await refusal(peer.path);
  assert(error instanceof AgentError);
  assertStringIncludes(error.message, "closed");
});

Deno.test("`GuestAgent.connect()` says that the socket is missing", async () => {
  await using dir = await tempDir();
  assert(await refusal(dir.join("none")) instanceof ConnectionError);
});

Deno.test("`GuestAgent.execute()` tells why a command was refused, and goes on", async () => {
  await using peer = await start();
  await using agent = await connect(peer);
  const refused = assertRejects(
    () => agent.execute("guest-nonsense"),
    AgentError,
    "not been found",
  );
  await within(SOON_MS, refused);
  assertEquals(await within(SOON_MS, agent.execute(STATUS)), "thawed");
});

for (const late of ["answer", "error"]) {
  Deno.test(`\`GuestAgent.execute()\` is not misled by a late ${late}`, async () => {
    let hung = false;
    await using peer = await start(async (command, peer) => {
      if (command.execute === "guest-get-time") {
        hung = true;
        return true;
      }
      if (!hung) return false;
      hung = false;
      if (late === "answer") await peer.send({ return: "late" });
      else await refuse(peer, "late");
      return false;
    });
    await using agent = await connect(peer, SHORT_MS);
    const slow = assertRejects(() => agent.execute("guest-get-time"), AgentError, "within 1 s");
    await within(SOON_MS, slow);
    assertEquals(await within(SOON_MS, agent.execute(STATUS)), "thawed");
  });
}

Deno.test("`GuestAgent.execute()` fails as it should on a connection that is gone", async () => {
  await using peer = await start((command, peer) => {
    if (command.execute !== STATUS) return false;
    peer.hangUp();
    return true;
  });
  await using agent = await connect(peer);
  for (let attempt = 0; attempt < 2; attempt++) {
    await within(SOON_MS, assertRejects(() => agent.execute(STATUS), AgentError, "closed"));
  }
});

Deno.test("`freeze()` freezes until disposed", async () => {
  await using peer = await start();
  await using agent = await connect(peer);
  {
    await using _frozen = await within(SOON_MS, freeze(agent));
    assert(peer.fake.frozen);
  }
  assert(!peer.fake.frozen);
  assertEquals(peer.fake.received, [STATUS, FREEZE, STATUS, THAW]);
});

Deno.test("`freeze()` is undone when what is done meanwhile fails", async () => {
  await using peer = await start();
  await using agent = await connect(peer);
  const work = async () => {
    await using _ = await freeze(agent);
    throw new RangeError("meanwhile");
  };
  await within(SOON_MS, assertRejects(work, RangeError, "meanwhile"));
  assert(!peer.fake.frozen);
});

Deno.test("`freeze()` thaws once more if the agent refuses the first time", async () => {
  let thaws = 0;
  await using peer = await start(async (command, peer) => {
    if (command.execute !== THAW || ++thaws > 1) return false;
    await refuse(peer, "try again");
    return true;
  });
  await using agent = await connect(peer);
  {
    await using _ = await within(SOON_MS, freeze(agent));
  }
  assertEquals(thaws, 2);
  assert(!peer.fake.frozen);
});

Deno.test("`Freeze.thaw()` has nothing to say of a guest that was frozen all the time", async () => {
  await using peer = await start();
  await using agent = await connect(peer);
  await using frozen = await within(SOON_MS, freeze(agent));
  assertEquals(await within(SOON_MS, frozen.thaw()), []);
  assert(!peer.fake.frozen);
});

Deno.test("`Freeze.thaw()` repeats what an agent says that thawed by itself, and thaws again", async () => {
  let thaws = 0;
  await using peer = await start(async (command, peer, agent) => {
    if (command.execute !== THAW || ++thaws > 1) return false;
    await refuse(peer, "fsfreeze is limited up to 10 seconds");
    return agent.frozen;
  });
  await using agent = await connect(peer);
  await using frozen = await within(SOON_MS, freeze(agent));
  const doubts = await within(SOON_MS, frozen.thaw());
  assertStringIncludes(doubts.join(), 'the error "fsfreeze is limited up to 10 seconds"');
  assertEquals(thaws, 2);
  assert(!peer.fake.frozen);
});

Deno.test("`Freeze.thaw()` says that a frozen agent did not answer", async () => {
  let isDeaf = false;
  await using peer = await start(({ execute }) => {
    isDeaf = execute === STATUS && peer.fake.frozen && !isDeaf;
    return isDeaf;
  });
  await using agent = await connect(peer, SHORT_MS);
  await using frozen = await within(SOON_MS, freeze(agent));
  assertStringIncludes((await within(SOON_MS, frozen.thaw())).join(), "did not answer");
  assert(!peer.fake.frozen);
});

for (const count of [0, -1, 1.5, "2", null, {}, [2], true]) {
  Deno.test(`\`freeze()\` does not take ${JSON.stringify(count)} file systems for a freeze`, async () => {
    await using peer = await start(async ({ execute }, peer, agent) => {
      if (execute !== FREEZE) return false;
      agent.frozen = true;
      await peer.send({ return: count });
      return true;
    });
    await using agent = await connect(peer);
    const refused = assertRejects(() => freeze(agent), AgentError, "No file system");
    await within(SOON_MS, refused);
    assert(!peer.fake.frozen);
  });
}

Deno.test("`GuestAgent.execute()` cuts what an agent says", async () => {
  const desc = `why ${"x".repeat(8 << 20)} end`;
  await using peer = await start(async ({ execute }, peer) => {
    if (execute !== STATUS) return false;
    await refuse(peer, desc);
    return true;
  });
  await using agent = await connect(peer);
  const error = await within(SOON_MS, assertRejects(() => agent.execute(STATUS), AgentError));
  assertMatch(error.message, /^The guest agent refused: why x{50,400} … x{50,400} end$/);
});

Deno.test("`freeze()` touches nothing if the guest was frozen before", async () => {
  await using peer = await start();
  peer.fake.frozen = true;
  await using agent = await connect(peer);
  await within(SOON_MS, assertRejects(() => freeze(agent), AgentError, "frozen already"));
  assertEquals(peer.fake.received, [STATUS]);
  assert(peer.fake.frozen);
});

Deno.test("`freeze()` thaws if the agent refuses to freeze: it may have frozen some", async () => {
  await using peer = await start(async (command, peer, agent) => {
    if (command.execute !== FREEZE) return false;
    agent.frozen = true;
    await refuse(peer, "failed to freeze /mnt");
    return true;
  });
  await using agent = await connect(peer);
  const error = await within(SOON_MS, assertRejects(() => freeze(agent), AgentError));
  assertStringIncludes(error.message, "failed to freeze /mnt");
  assert(!peer.fake.frozen);
});

Deno.test("`freeze()` thaws if the freeze comes late", async () => {
  const frozen = Promise.withResolvers<void>();
  await using peer = await start(async (command, peer, agent) => {
    if (command.execute !== FREEZE) return false;
    await frozen.promise;
    await answer(command, peer, agent);
    return true;
  });
  await using agent = await connect(peer, SHORT_MS);
  const failed = assertRejects(() => freeze(agent), AgentError, `"${FREEZE}" within 1 s`);
  // Within the time that the thaw is given.
  const timer = setTimeout(() => frozen.resolve(), SHORT_MS * 1.5);
  await within(SOON_MS, failed);
  clearTimeout(timer);
  assert(peer.fake.received.includes(THAW));
  assert(!peer.fake.frozen);
});

Deno.test("`freeze()` leaves a thaw behind for an agent that freezes when we have given up", async () => {
  const gone = Promise.withResolvers<void>();
  const thawed = Promise.withResolvers<void>();
  await using peer = await start(async (command, peer, agent) => {
    if (command.execute === FREEZE) {
      await gone.promise;
      // Nobody may be there any more to hear of it.
      agent.frozen = true;
      await peer.send({ return: 2 }).catch(() => {});
      return true;
    }
    if (command.execute === THAW) {
      agent.frozen = false;
      thawed.resolve();
      return true;
    }
    return agent.frozen;
  });
  {
    await using agent = await connect(peer, SHORT_MS);
    const failed = assertRejects(() => freeze(agent), AgentError, `"${FREEZE}" within 1 s`);
    await within(SOON_MS, failed);
    gone.resolve();
    await within(SOON_MS, thawed.promise);
  }
  assert(!peer.fake.frozen);
});

Deno.test("`freeze()` fails if the agent closes while it freezes", async () => {
  await using peer = await start((command, peer) => {
    if (command.execute !== FREEZE) return false;
    peer.hangUp();
    return true;
  });
  await using agent = await connect(peer);
  await within(SOON_MS, assertRejects(() => freeze(agent), AgentError, "closed"));
});

Deno.test("`thaw()` says that the guest may still be frozen", async () => {
  await using peer = await start((command) => command.execute === THAW);
  await using agent = await connect(peer, SHORT_MS);
  await within(SOON_MS, assertRejects(() => thaw(agent), AgentError, "did not answer"));
});
