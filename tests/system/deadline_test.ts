import { assert, assertEquals, assertRejects } from "@std/assert";
import { Deadline, HangingError } from "../../src/fs/deadline.ts";

/** An operation that comes back when it is told to. */
const hanging = () => Promise.withResolvers<string>();

Deno.test("`Deadline.run()` gives what the operation gives", async () => {
  const deadline = new Deadline(60_000);
  assertEquals(await deadline.run("/x", () => Promise.resolve("done")), "done");
  await assertRejects(
    () => deadline.run("/x", () => Promise.reject(new Deno.errors.NotFound("gone"))),
    Deno.errors.NotFound,
    "gone",
  );
});

Deno.test("`Deadline.run()` gives an operation up that does not come back, and names the path", async () => {
  const late = hanging();
  const error = await assertRejects(
    () => new Deadline(50).run("/backup/vm1", () => late.promise),
    HangingError,
  );
  assertEquals(
    error.message,
    'The file system of "/backup/vm1" has not answered for 0.05 s. Check whether its server or its ' +
      "disk is still there",
  );
  late.resolve("");
});

Deno.test("`Deadline.run()` is impatient while one that was given up is still under way", async () => {
  const deadline = new Deadline(2_000, 50);
  const late = hanging();
  await assertRejects(() => deadline.run("/x", () => late.promise), HangingError, "for 2 s");
  const next = hanging();
  await assertRejects(() => deadline.run("/x", () => next.promise), HangingError, "for 0.05 s");
  // Another command's deadline knows nothing of that.
  const slow = () => new Promise<string>((done) => setTimeout(() => done("slow"), 200));
  assertEquals(await new Deadline(60_000, 50).run("/x", slow), "slow");
  // They come back, even with an error: then there is time again.
  late.reject(new Error("too late"));
  next.resolve("");
  await Promise.allSettled([late.promise, next.promise]);
  assertEquals(await deadline.run("/x", slow), "slow");
});

Deno.test("`Deadline.runLong()` waits for as long as so many bytes may take, while the file system answers", async () => {
  // Long enough for a file system that answers, on a busy machine, too.
  const deadline = new Deadline(1_000);
  const slow = () => new Promise<string>((done) => setTimeout(() => done("slow"), 2_500));
  assertEquals(await deadline.runLong("/x", 10 << 20, slow), "slow");
  const late = hanging();
  const start = performance.now();
  await assertRejects(() => deadline.runLong("/x", 1 << 18, () => late.promise), HangingError);
  assert(performance.now() - start >= 1_200);
  late.resolve("");
});

Deno.test("`Deadline.runProgram()` ends a program that takes too long, with the reason", async () => {
  const deadline = new Deadline(1_000);
  const reason = Promise.withResolvers<unknown>();
  const start = (signal: AbortSignal) =>
    new Promise<never>((_, reject) =>
      signal.addEventListener("abort", () => {
        reason.resolve(signal.reason);
        reject(signal.reason);
      })
    );
  const error = await assertRejects(() => deadline.runProgram(["/x"], 0, start), HangingError);
  assertEquals(await reason.promise, error);
});

Deno.test("`Deadline.runProgram()` lets a program without a size go on while the file system answers", async () => {
  const slow = () => new Promise<string>((done) => setTimeout(() => done("slow"), 2_500));
  assertEquals(await new Deadline(1_000).runProgram(["/x", "/tmp"], Infinity, slow), "slow");
});
