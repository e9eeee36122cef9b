import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { StoppedError } from "../../src/errors.ts";
import { QmpClient } from "../../src/qmp/client.ts";
import {
  dismissJob,
  endJob,
  finalizeJob,
  JobError,
  JobEvents,
  waitForJob,
  waitForWork,
} from "../../src/qmp/jobs.ts";
import type { Job } from "../../src/qmp/queries.ts";
import { ConnectionError } from "../../src/wire/address.ts";
import { tempDir } from "../support/temp_dir.ts";
import { answer, Refusal } from "../support/fake_qmp.ts";
import { type Peer, serve, within } from "../support/fake_peer.ts";

const SOON_MS = 30_000;
/** Longer than any test: what must be woken by something else. */
const NEVER_MS = 60_000;

function job(status: string, more: Partial<Job> = {}): Job {
  return {
    id: "j",
    type: "backup",
    status,
    "current-progress": 0,
    "total-progress": 100,
    ...more,
  };
}

interface Fake extends AsyncDisposable {
  qmp: QmpClient;
  /** The commands that QEMU got, but for `qmp_capabilities`. */
  received: string[];
}

/** A client of a fake; `look` is the answer to each `query-jobs`, from the first on. */
async function connected(
  look: (count: number, peer: Peer, received: string[]) => Job[] | Promise<Job[]>,
  answers: Record<string, () => unknown> = {},
): Promise<Fake> {
  await using stack = new AsyncDisposableStack();
  const dir = stack.use(await tempDir());
  const received: string[] = [];
  let looks = 0;
  const noted = Object.entries({ "job-cancel": () => ({}), "job-dismiss": () => ({}), ...answers })
    .map(([name, give]) => [name, () => (received.push(name), give())]);
  const peer = stack.use(serve(dir.join("qmp"), (peer) =>
    answer(peer, {
      ...Object.fromEntries(noted),
      "query-jobs": () => (received.push("query-jobs"), look(++looks, peer, received)),
    })));
  const qmp = stack.use(await QmpClient.connect(peer.address, { timeoutMs: 5_000 }));
  const kept = stack.move();
  return { qmp, received, [Symbol.asyncDispose]: () => kept.disposeAsync() };
}

Deno.test("`waitForJob()` looks until the job has concluded, and shows each look", async () => {
  const states = ["created", "running", "pending", "concluded"];
  await using fake = await connected((count) => [
    job("running", { id: "other" }),
    job(states[count - 1] as string, { "current-progress": count }),
  ]);
  const seen: string[] = [];
  const done = await within(
    SOON_MS,
    waitForJob(fake.qmp, "j", {
      intervalMs: 1,
      onProgress: (job) => void seen.push(`${job.status} ${job["current-progress"]}`),
    }),
  );
  assertEquals(seen, ["created 1", "running 2", "pending 3", "concluded 4"]);
  assertEquals(done.error, undefined);
});

Deno.test("`waitForJob()` returns a job that failed, with its error", async () => {
  await using fake = await connected(() => [job("concluded", { error: "No space left" })]);
  const { error } = await within(SOON_MS, waitForJob(fake.qmp, "j"));
  assertEquals(error, "No space left");
});

Deno.test("`waitForJob()` is woken by the event of its job, not by another's", async () => {
  await using fake = await connected(async (count, peer) => {
    if (count > 1) return [job("concluded")];
    // They come before the answer: the look that they announce must not be missed.
    const say = (id: string) => ({ event: "JOB_STATUS_CHANGE", data: { id, status: "concluded" } });
    await peer.send(say("other"));
    await peer.send(say("j"));
    return [job("running")];
  });
  await within(SOON_MS, waitForJob(fake.qmp, "j", { intervalMs: NEVER_MS }));
  assertEquals(fake.received, ["query-jobs", "query-jobs"]);
});

Deno.test("`waitForJob()` fails if the job vanishes", async () => {
  await using fake = await connected((count) => count === 1 ? [job("running")] : []);
  const wait = assertRejects(() => waitForJob(fake.qmp, "j", { intervalMs: 1 }), JobError);
  assertStringIncludes((await within(SOON_MS, wait)).message, '"j" has vanished');
});

Deno.test("`waitForJob()` throws the reason if it is aborted, and leaves the job", async () => {
  await using fake = await connected(() => [job("running")]);
  const stop = new AbortController();
  const options = {
    intervalMs: NEVER_MS,
    signal: stop.signal,
    onProgress: () => queueMicrotask(() => stop.abort(new StoppedError("SIGINT"))),
  };
  const wait = assertRejects(() => waitForJob(fake.qmp, "j", options), StoppedError, "SIGINT");
  await within(SOON_MS, wait);
  assertEquals(fake.received, ["query-jobs"]);
});

Deno.test("`waitForJob()` asks nothing if it is aborted before", async () => {
  await using fake = await connected(() => [job("running")]);
  const signal = AbortSignal.abort(new StoppedError("SIGTERM"));
  await within(
    SOON_MS,
    assertRejects(() => waitForJob(fake.qmp, "j", { signal }), StoppedError),
  );
  assertEquals(fake.received, []);
});

Deno.test("`waitForJob()` fails at once if the connection is lost while it waits", async () => {
  const looked = Promise.withResolvers<Peer>();
  await using fake = await connected((_count, peer) => {
    looked.resolve(peer);
    return [job("running")];
  });
  const onProgress = () => void looked.promise.then((peer) => peer.hangUp());
  const wait = () => waitForJob(fake.qmp, "j", { intervalMs: NEVER_MS, onProgress });
  await within(SOON_MS, assertRejects(wait, ConnectionError));
});

Deno.test("`waitForWork()` returns a job that waits for us, and `finalizeJob()` lets it conclude", async () => {
  const states = ["running", "waiting", "pending", "pending", "concluded"];
  await using fake = await connected(
    (count) => [job(states[count - 1] as string)],
    { "job-finalize": () => ({}) },
  );
  const work = await within(SOON_MS, waitForWork(fake.qmp, "j", { intervalMs: 1 }));
  assertEquals(work.status, "pending");
  assertEquals((await within(SOON_MS, finalizeJob(fake.qmp, "j"))).status, "concluded");
  assertEquals(fake.received.slice(3), ["job-finalize", "query-jobs", "query-jobs"]);
});

Deno.test("`waitForWork()` returns a job that an error has stopped, not one that somebody has", async () => {
  let looks = 0;
  const blockJobs = () => [
    { device: "other", "io-status": "failed" },
    { device: "j", "io-status": ++looks < 3 ? "ok" : "failed" },
  ];
  await using fake = await connected(() => [job("paused")], { "query-block-jobs": blockJobs });
  const work = await within(SOON_MS, waitForWork(fake.qmp, "j", { intervalMs: 1 }));
  assertEquals([work.status, looks], ["paused", 3]);
});

/** Tells of the job as QEMU 7.2 does: its end before its last state. */
async function tell(peer: Peer, status: string, end: Record<string, unknown> | null = null) {
  const data = { device: "j", type: "backup", speed: 0, len: 5, offset: 3, ...end };
  if (end) await peer.send({ event: "BLOCK_JOB_COMPLETED", data });
  await peer.send({ event: "JOB_STATUS_CHANGE", data: { id: "j", status } });
}

for (const error of [undefined, "No space left"]) {
  Deno.test(`a job that QEMU tells of is not asked for (${error ?? "no error"})`, async () => {
    let peer: Peer | undefined;
    await using fake = await connected((_count, it) => (peer = it, []), {
      "job-finalize": () => peer && tell(peer, "concluded", error ? { error } : {}),
    });
    using events = new JobEvents(fake.qmp, "j");
    await fake.qmp.execute("query-jobs");
    await tell(peer as Peer, "running");
    await tell(peer as Peer, "pending");
    const options = { events, intervalMs: NEVER_MS };
    assertEquals((await within(SOON_MS, waitForWork(fake.qmp, "j", options))).status, "pending");
    const end = await within(SOON_MS, finalizeJob(fake.qmp, "j", events));
    assertEquals([end.status, end.error, end["current-progress"]], ["concluded", error, 3]);
    assertEquals(fake.received, ["query-jobs", "job-finalize"]);
  });
}

Deno.test("`waitForWork()` asks for a job of which QEMU tells nothing, or not how it ended", async () => {
  let peer: Peer | undefined;
  await using fake = await connected((_count, it) => (peer = it, [job("concluded")]));
  using events = new JobEvents(fake.qmp, "j");
  const late = waitForWork(fake.qmp, "j", { events, intervalMs: 1 });
  assertEquals((await within(SOON_MS, late)).status, "concluded");
  // It was cancelled.
  await tell(peer as Peer, "concluded");
  const told = waitForWork(fake.qmp, "j", { events, intervalMs: NEVER_MS });
  assertEquals((await within(SOON_MS, told))["total-progress"], 100);
});

Deno.test("`waitForWork()` stops listening at once if it is aborted, or the connection is lost", async () => {
  await using fake = await connected(() => [job("running")]);
  using events = new JobEvents(fake.qmp, "j");
  const stop = new AbortController();
  const options = { events, signal: stop.signal, intervalMs: NEVER_MS };
  const stopped = assertRejects(() => waitForWork(fake.qmp, "j", options), StoppedError);
  stop.abort(new StoppedError("SIGINT"));
  await within(SOON_MS, stopped);
  const lost = assertRejects(
    () => waitForWork(fake.qmp, "j", { events, intervalMs: NEVER_MS }),
    ConnectionError,
  );
  await fake.qmp[Symbol.asyncDispose]();
  await within(SOON_MS, lost);
});

Deno.test("`dismissJob()` asks for nothing, and does as `endJob()` where that is refused", async () => {
  let isRefused = false;
  await using fake = await connected(() => [job("concluded")], {
    "job-dismiss": () => {
      if (!isRefused) return {};
      isRefused = false;
      throw new Refusal("Job 'j' in state 'running' cannot accept command verb 'dismiss'");
    },
  });
  await within(SOON_MS, dismissJob(fake.qmp, "j"));
  assertEquals(fake.received.splice(0), ["job-dismiss"]);
  isRefused = true;
  await within(SOON_MS, dismissJob(fake.qmp, "j"));
  assertEquals(fake.received, ["job-dismiss", "query-jobs", "job-dismiss"]);
});

Deno.test("`endJob()` does nothing where there is no job", async () => {
  await using fake = await connected(() => [job("running", { id: "other" })]);
  await within(SOON_MS, endJob(fake.qmp, "j"));
  assertEquals(fake.received, ["query-jobs"]);
});

Deno.test("`endJob()` cancels, waits and dismisses", async () => {
  await using fake = await connected((count) => [job(count < 4 ? "running" : "concluded")]);
  await within(SOON_MS, endJob(fake.qmp, "j"));
  const looks = Array(3).fill("query-jobs");
  assertEquals(fake.received, ["query-jobs", "job-cancel", ...looks, "job-dismiss"]);
});

Deno.test("`endJob()` just dismisses a job that has concluded", async () => {
  await using fake = await connected(() => [job("concluded")]);
  await within(SOON_MS, endJob(fake.qmp, "j"));
  assertEquals(fake.received, ["query-jobs", "job-dismiss"]);
});

Deno.test("`endJob()` dismisses a job that concludes before it can be cancelled", async () => {
  await using fake = await connected((count) => [job(count === 1 ? "running" : "concluded")], {
    "job-cancel": () => {
      throw new Refusal("Job 'j' in state 'concluded' cannot accept command verb 'cancel'");
    },
  });
  await within(SOON_MS, endJob(fake.qmp, "j"));
  assertEquals(fake.received.at(-1), "job-dismiss");
});

Deno.test("`endJob()` is content if the job goes by itself when cancelled", async () => {
  await using fake = await connected((count) => count === 1 ? [job("running")] : []);
  await within(SOON_MS, endJob(fake.qmp, "j"));
  assertEquals(fake.received.includes("job-dismiss"), false);
});

Deno.test("`endJob()` gives up a job that does not end", async () => {
  await using fake = await connected(() => [job("aborting")]);
  const end = assertRejects(() => endJob(fake.qmp, "j", 200), JobError, "does not end");
  await within(SOON_MS, end);
});

Deno.test("`endJob()` fails if the connection is lost", async () => {
  await using fake = await connected((count, peer) => {
    if (count > 1) peer.hangUp();
    return [job("running")];
  });
  await within(SOON_MS, assertRejects(() => endJob(fake.qmp, "j"), ConnectionError));
});
