import { assert, assertEquals, assertRejects } from "@std/assert";
import { bounded, boundedWork, HangingError, setFileTimeout } from "../../src/fs/deadline.ts";

/** The time-out as it is at first. */
const USUAL_MS = 300_000;

/** An operation that comes back when it is told to. */
const hanging = () => Promise.withResolvers<string>();

Deno.test("bounded() gives what the operation gives", async () => {
  assertEquals(await bounded("/x", () => Promise.resolve("done")), "done");
  await assertRejects(
    () => bounded("/x", () => Promise.reject(new Deno.errors.NotFound("gone"))),
    Error,
  );
});

Deno.test("bounded() gives an operation up that does not come back, and names the path", async () => {
  setFileTimeout(50);
  const late = hanging();
  const error = await assertRejects(() => bounded("/backup/vm1", () => late.promise), HangingError);
  assertEquals(
    error.message,
    'The file system of "/backup/vm1" has not answered for 0.05 s: is its server, or its disk, ' +
      "still there",
  );
  setFileTimeout(USUAL_MS);
  late.resolve("");
});

Deno.test("bounded() is impatient while one that was given up is still under way", async () => {
  setFileTimeout(50);
  const late = hanging();
  await assertRejects(() => bounded("/x", () => late.promise), HangingError);
  setFileTimeout(USUAL_MS);
  const start = performance.now();
  const next = hanging();
  await assertRejects(() => bounded("/x", () => next.promise), HangingError, "for 5 s");
  assert(performance.now() - start < 60_000);
  // It comes back, even with an error: then there is time again.
  late.reject(new Error("too late"));
  next.resolve("");
  await Promise.allSettled([late.promise, next.promise]);
  assertEquals(
    await bounded("/x", () => new Promise((done) => setTimeout(() => done("slow"), 6_000))),
    "slow",
  );
});

Deno.test("boundedWork() waits for as long as so many bytes may take, while the file system answers", async () => {
  setFileTimeout(50);
  const slow = () => new Promise<string>((done) => setTimeout(() => done("slow"), 400));
  assertEquals(await boundedWork("/x", 10 << 20, slow), "slow");
  const late = hanging();
  const start = performance.now();
  await assertRejects(() => boundedWork("/x", 1 << 18, () => late.promise), HangingError);
  assert(performance.now() - start >= 250);
  setFileTimeout(USUAL_MS);
  late.resolve("");
});
