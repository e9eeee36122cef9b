/** What bad storage does to a run, to the guest and to the next run. Needs root, for the mounts. */

import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { mountBadFs, mountThin } from "../support/bad_fs.ts";
import { within } from "../support/fake_peer.ts";
import {
  filesOf,
  nodeNames,
  type Scene,
  scene,
  until,
  untilCopying,
  untilSwitched,
} from "../support/scene.ts";
import { ended, startTool, succeed, type ToolResult } from "../support/tool.ts";
import { fullThenChanges, nextHoldsAll } from "../support/next_run.ts";
import { mountTmpfs } from "../support/tmpfs.ts";

const MIB = 1 << 20;
/** The changes below take some seconds. */
const SLOW = ["--speed-limit", String(MIB)];
/** A write that waits for nothing takes milliseconds; one that hangs, as long as the storage does. */
const FAST_MS = 30_000;

/** QEMU may hang, too: then some commands are waited for in vain before a run is given up. */
const GIVEN_UP_MS = 150_000;

/** The guest writes where the job has still to copy: each write must succeed, and soon. */
async function guestWrites(s: Scene, pattern: number) {
  for (const [id, offset] of [["vd0", 6], ["vd1", 27], ["vd0", 40]] as const) {
    const start = performance.now();
    await s.vm.write(id, pattern, offset * MIB, MIB);
    assert(performance.now() - start < FAST_MS, `a write took ${performance.now() - start} ms`);
  }
  const { status } = await s.vm.execute("query-status") as { status: string };
  assertEquals(status, "running");
}

/** Runs a backup, in whose middle the fault strikes; the guest goes on meanwhile and afterwards. */
async function strike(
  s: Scene,
  args: string[],
  fault: () => unknown,
): Promise<ToolResult & { seconds: number }> {
  const running = ended(startTool(args));
  await untilCopying(s.vm);
  await fault();
  const start = performance.now();
  await guestWrites(s, 0x53);
  const result = await running;
  const seconds = (performance.now() - start) / 1000;
  await guestWrites(s, 0x54);
  assertEquals(result.code, 1, result.stderr);
  return { ...result, seconds };
}

const inc = (s: Scene, ...more: string[]) => s.backupArgs("inc", ...SLOW, ...more);

Deno.test("a full target is named with the bytes that were missing", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountTmpfs(s.target, 96 * MIB);
  await fullThenChanges(s);
  const { stderr } = await strike(s, inc(s), () => target.fill());
  assertMatch(
    stderr,
    /could not be copied to ".*": No space left on device\. The file system of ".*\/target" is full: \d+ bytes \(.*\) are free, \d+ bytes \(.*\) more are needed for the backup of "disk0"/,
  );
  await target.empty();
  await nextHoldsAll(s);
});

Deno.test("a target that turns read-only is named", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountThin(s.target, 96 * MIB);
  await fullThenChanges(s);
  const { stderr } = await strike(s, inc(s), () => target.setReadOnly());
  assertMatch(
    stderr,
    /"disk0" could not be copied to ".*\/target\/disk0\/INC-.*": Read-only file system/,
  );
  await target.comeBack();
  await nextHoldsAll(s);
});

Deno.test("a target whose disk fails under its file system is named", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountThin(s.target, 96 * MIB);
  await fullThenChanges(s);
  const { stderr } = await strike(s, inc(s), () => target.fill());
  assertMatch(stderr, /ERROR Disk disk0: .*target\/disk0\/INC-/);
  assertMatch(stderr, /Error: The record ".*\/target\/.*" can't be written/);
  await target.empty();
  await target.comeBack();
  await nextHoldsAll(s);
});

Deno.test("a target that disappears is named", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountBadFs(s.target, 96 * MIB);
  await fullThenChanges(s);
  const { stderr } = await strike(s, inc(s), () => target.disappear());
  assertMatch(
    stderr,
    /ERROR Disk disk0: The disk "disk0" could not be copied to ".*\/target\/.*": Transport endpoint is not connected/,
  );
  assertMatch(stderr, /Error: The record ".*\/target\/.*" can't be written .*is not connected/);
  await target.comeBack();
  await nextHoldsAll(s);
});

Deno.test("a target that is unmounted is named, and what lies below it is left alone", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountBadFs(s.target, 96 * MIB);
  await fullThenChanges(s);
  const { stderr } = await strike(s, inc(s), () => target.unmount());
  assertMatch(
    stderr,
    /ERROR Disk disk0: No such file .*\/target\/disk0\/INC-.* Check that its file system is still mounted, and run/,
  );
  assertEquals(await Array.fromAsync(Deno.readDir(s.target)), []);
  await target.comeBack();
  await nextHoldsAll(s);
});

Deno.test("a target that hangs is given up in bounded time, and the guest goes on", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountBadFs(s.target, 96 * MIB);
  await fullThenChanges(s);
  // The log hangs with it, and nothing waits for that.
  const args = inc(s, "--stall-timeout", "5", "--logfile", `${s.target}/vm1.log`);
  const { stderr, seconds } = await strike(s, args, () => target.hang());
  assert(seconds < 300, `it took ${seconds} s`);
  assertMatch(
    stderr,
    /ERROR Disk disk0: The copy of "disk0" to ".*\/target\/disk0\/INC-.*" has made no progress for \S+ s \(--stall-timeout\)/,
  );
  assertMatch(
    stderr,
    /Left for the next run to clean up: .* The guest writes on, through the filter/,
  );
  // While it still hangs, another run touches nothing.
  const again = await ended(startTool(inc(s, "--stall-timeout", "2")));
  assertEquals(again.code, 1);
  assertMatch(again.stderr, /The file system of ".*\/target\/.*" has not answered for 2 s/);
  await guestWrites(s, 0x55);
  target.resume();
  await nextHoldsAll(s);
});

Deno.test("a target that hangs when the image is flushed is given up, and the guest goes on", async () => {
  await using s = await scene({ vm: { running: true } });
  await using target = await mountBadFs(s.target, 96 * MIB);
  await fullThenChanges(s);
  const running = ended(startTool([
    ...s.backupArgs("inc", "--remove-delay", "3", "--stall-timeout", "5"),
  ]));
  await untilSwitched(s.vm);
  // All is copied, and the fleeces are away: it waits for --remove-delay to pass.
  await until(async () =>
    (await nodeNames(s.vm)).every((name) => !/-(gate|cbw|snap|fleece)$/.test(name)) &&
    (await filesOf(s.dir.path)).every((name) => !name.endsWith(".fleece"))
  );
  target.hang();
  const { code, stderr } = await running;
  assertEquals(code, 1);
  assertMatch(stderr, /ERROR Disk disk0: The file system of ".*disk0.*" has not answered for 5 s/);
  await guestWrites(s, 0x55);
  target.resume();
  await nextHoldsAll(s);
});

Deno.test({
  name: "a target that begins to hang at any moment holds no run for ever",
  // That opens files in its only thread: see `fs/deadline.ts`.
  ignore: Deno.version.deno.startsWith("2.4."),
  async fn() {
    await using s = await scene({ vm: { running: true } });
    await using target = await mountBadFs(s.target, 96 * MIB);
    await fullThenChanges(s);
    const run = () => startTool(s.backupArgs("inc", "--stall-timeout", "2"));
    const start = performance.now();
    assertEquals((await ended(run())).code, 0);
    const wholeMs = performance.now() - start;
    // From the first question to the target to the record. QEMU may be in it, and hang as well.
    for (const part of [0.3, 0.5, 0.7, 0.9]) {
      const running = run();
      const lastWord = Promise.withResolvers<void>();
      let stderr = "";
      const reading = (async () => {
        for await (const text of running.stderr.pipeThrough(new TextDecoderStream())) {
          stderr += text;
          if (/^Error: /m.test(stderr)) lastWord.resolve();
        }
      })();
      await delay(part * wholeMs);
      target.hang();
      // It can't end while the server has read a request of its own, and does not answer: what counts is
      // that it has said its last word.
      await within(GIVEN_UP_MS, Promise.race([running.status, lastWord.promise]))
        .finally(() => target.resume());
      const { code } = await running.status;
      await Promise.all([reading, running.stdout.cancel()]);
      assert([0, 1].includes(code), stderr);
    }
    await nextHoldsAll(s);
  },
});

Deno.test("a fleece that fills up is named, and the guest does not notice", async () => {
  await using s = await scene({ vm: { running: true } });
  await using fleece = await mountTmpfs(s.dir.join("fleece"), 16 * MIB);
  await fullThenChanges(s);
  const args = inc(s, "--fleece-dir", s.dir.join("fleece"));
  const { stderr } = await strike(s, args, () => fleece.fill());
  assertMatch(stderr, /Disk disk0: .*The file system of ".*\/fleece" is full: \d+ bytes/);
  await fleece.empty();
  await nextHoldsAll(s);
});

Deno.test("a fleece that hangs costs a write 4 seconds once, and the run is given up", async () => {
  await using s = await scene({ vm: { running: true } });
  await using fleece = await mountBadFs(s.dir.join("fleece"), 32 * MIB);
  await fullThenChanges(s);
  const args = inc(s, "--fleece-dir", s.dir.join("fleece"), "--stall-timeout", "5");
  const { stderr } = await strike(s, args, () => fleece.hang());
  assertMatch(stderr, /ERROR Disk disk0: .*The file system of ".*\/fleece" has not answered for/);
  assertMatch(stderr, /Left for the next run to clean up: The file system of ".*\/fleece"/);
  // Nor does a run that finds what is left make QEMU wait for it.
  const cleanup = ["cleanup", "--recover", "--socket", s.vm.socket, "--target", s.target];
  for (const args of [s.backupArgs("auto", "--stall-timeout", "2"), cleanup]) {
    const running = ended(startTool(args));
    await delay(4_000);
    await guestWrites(s, 0x55);
    if (args === cleanup) fleece.resume();
    const { code, stderr } = await running;
    const words = /Error: The file system of ".*\/fleece" has not answered for 2 s/;
    if (args === cleanup) assertEquals(code, 0, stderr);
    else assertEquals([code, words.test(stderr)], [1, true], stderr);
  }
  await nextHoldsAll(s);
});

Deno.test("a run that was killed while its fleece hung is left alone, whatever target is named", async () => {
  await using s = await scene({ vm: { running: true } });
  await using fleece = await mountBadFs(s.dir.join("fleece"), 32 * MIB);
  const other = s.dir.join("other");
  await succeed(s.backupArgs("copy").map((word) => word === s.target ? other : word));
  await fullThenChanges(s);
  const killed = startTool(inc(s, "--fleece-dir", s.dir.join("fleece")));
  await untilCopying(s.vm);
  fleece.hang();
  killed.kill("SIGKILL");
  await ended(killed);
  const args = ["cleanup", "--recover", "--socket", s.vm.socket, "--target", other];
  const running = ended(startTool(args));
  await delay(2_000);
  await guestWrites(s, 0x53);
  // Not the nodes: QEMU would ask the file system of each.
  assertEquals((await s.vm.execute("query-jobs") as unknown[]).length, 2);
  fleece.resume();
  const { code, stderr } = await running;
  assertEquals(code, 0, stderr);
  await nextHoldsAll(s);
});

Deno.test("a fleece that is slow slows the guest's writes, and fails none", async () => {
  await using s = await scene({ vm: { running: true } });
  await using fleece = await mountBadFs(s.dir.join("fleece"), 32 * MIB);
  await fullThenChanges(s);
  const args = inc(s, "--fleece-dir", s.dir.join("fleece"));
  const running = ended(startTool(args));
  await untilSwitched(s.vm);
  // It works for a tenth of the time.
  let isOver = false;
  const jerking = (async () => {
    while (!isOver) {
      fleece.hang();
      await delay(180);
      fleece.resume();
      await delay(20);
    }
  })();
  for (let i = 0; i < 5; i++) await guestWrites(s, 0x60 + i);
  const { code, stderr } = await running;
  isOver = true;
  await jerking;
  assertEquals(code, 0, stderr);
  await nextHoldsAll(s);
});
