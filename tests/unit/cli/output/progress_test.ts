import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import {
  advance,
  describe,
  draw,
  Progress,
  rateOf,
  together,
  type Track,
} from "../../../../src/cli/output/progress.ts";
import { fakeIo } from "../../_fixtures.ts";

const MIB = 1 << 20;

function aTrack(change: Partial<Track> = {}): Track {
  return { name: "disk0", doneBytes: 0, totalBytes: 100 * MIB, samples: [], ...change };
}

/** A track after looks at these seconds, of so many MiB done. */
function trackAfter(...looks: [number, number][]): Track {
  return looks.reduce(
    (track, [second, mib]) => advance(track, mib * MIB, 100 * MIB, second * 1000),
    aTrack(),
  );
}

Deno.test("advance() keeps the latest looks only", () => {
  const { samples } = trackAfter([0, 0], [5, 10], [12, 20], [15, 30]);
  assertEquals(samples.map(({ timeMs }) => timeMs), [5000, 12000, 15000]);
});

Deno.test("advance() takes a total that changed", () => {
  const { doneBytes, totalBytes } = advance(aTrack(), 10, 20, 0);
  assertEquals([doneBytes, totalBytes], [10, 20]);
});

Deno.test("rateOf() is not known before the second look", () => {
  assertEquals([rateOf(aTrack()), rateOf(trackAfter([0, 0]))], [null, null]);
});

Deno.test("rateOf() is not known where no time has passed", () => {
  assertEquals(rateOf(trackAfter([1, 0], [1, 5])), null);
});

Deno.test("rateOf() is taken over the latest looks", () => {
  assertEquals(rateOf(trackAfter([0, 0], [20, 10], [25, 20])), 2 * MIB);
});

Deno.test("describe() says how far, how fast and how long", () => {
  assertEquals(
    describe(trackAfter([0, 0], [4, 50])),
    "disk0   50%  50 MiB of 100 MiB  12.5 MiB/s  0:04 left",
  );
});

Deno.test("describe() rounds down: 100 % is done", () => {
  const track = aTrack({ doneBytes: 999, totalBytes: 1000 });
  assertEquals(describe(track), "disk0   99%  999 B of 1000 B");
});

Deno.test("describe() says nothing of what is left when all is done", () => {
  assertEquals(describe(trackAfter([0, 0], [4, 100])), "disk0  100%  100 MiB of 100 MiB  25 MiB/s");
});

Deno.test("describe() says nothing of what is left while nothing moves", () => {
  assertEquals(describe(trackAfter([0, 50], [4, 50])), "disk0   50%  50 MiB of 100 MiB  0 B/s");
});

Deno.test("describe() says nothing of what is left where less is done than before", () => {
  assertEquals(describe(trackAfter([0, 50], [4, 40])), "disk0   40%  40 MiB of 100 MiB  0 B/s");
});

Deno.test("describe() takes an empty disk for done", () => {
  assertEquals(describe(aTrack({ totalBytes: 0 })), "disk0  100%  0 B of 0 B");
});

Deno.test("describe() shows control characters of a name", () => {
  assertEquals(describe(aTrack({ name: "a\x1bb" })), "a\\x1bb    0%  0 B of 100 MiB");
});

Deno.test("draw() draws a bar for each disk", () => {
  assertEquals(draw([aTrack({ doneBytes: 50 * MIB }), aTrack({ name: "d" })], 80), [
    `[${"#".repeat(15)}${".".repeat(15)}] disk0   50%  50 MiB of 100 MiB`,
    `[${".".repeat(30)}] d        0%  0 B of 100 MiB`,
    `[${"#".repeat(8)}${".".repeat(22)}] all     25%  50 MiB of 200 MiB`,
  ]);
});

Deno.test("draw() is narrower than the terminal, however narrow that is", () => {
  const track = trackAfter([0, 0], [4, 50]);
  for (let columns = 1; columns <= 120; columns++) {
    const [line = ""] = draw([track], columns);
    assert(line.length < columns, `${line.length} of ${columns}`);
  }
});

Deno.test("draw() draws nothing on a terminal that says it has no columns", () => {
  assertEquals(draw([aTrack()], 0), [""]);
});

Deno.test("draw() fills the bar where more is done than was expected", () => {
  const [line = ""] = draw([aTrack({ doneBytes: 150, totalBytes: 100 })], 80);
  assertEquals(line.slice(0, 32), `[${"#".repeat(30)}]`);
});

Deno.test("Progress draws over what it drew before", () => {
  const io = fakeIo({ isTerminal: true });
  const progress = new Progress(io, () => {}, 30_000, 0);
  progress.update("a", 0, 100, 0);
  progress.update("b", 0, 100, 0);
  io.err = "";
  progress.update("a", 100, 100, 0);
  const bar = (filled: number) => `[${"#".repeat(filled)}${".".repeat(30 - filled)}]`;
  assertEquals(
    io.err,
    `\x1b[3A\x1b[J${bar(30)} a    100%  100 B of 100 B\n${bar(0)} b      0%  0 B of 100 B\n` +
      `${bar(15)} all   50%  100 B of 200 B\n`,
  );
});

Deno.test("Progress.hide() takes away what is drawn, once", () => {
  const io = fakeIo({ isTerminal: true });
  const progress = new Progress(io, () => {}, 30_000, 0);
  progress.update("a", 0, 100, 0);
  io.err = "";
  progress.hide();
  progress.hide();
  assertEquals(io.err, "\x1b[1A\x1b[J");
});

Deno.test("Progress takes the display away when disposed", () => {
  const io = fakeIo({ isTerminal: true });
  {
    using progress = new Progress(io, () => {}, 30_000, 0);
    progress.update("a", 0, 100, 0);
  }
  assert(io.err.endsWith("\x1b[1A\x1b[J"));
});

Deno.test("Progress keeps to the terminal's present width", () => {
  let columns = 80;
  const io = fakeIo({ isTerminal: true, columns: () => columns });
  const progress = new Progress(io, () => {}, 30_000, 0);
  progress.update("a", 0, 100, 0);
  columns = 10;
  io.err = "";
  progress.update("a", 0, 100, 0);
  assertEquals(io.err, "\x1b[1A\x1b[Ja    0%\n");
});

Deno.test("Progress says a line for each disk now and then where there is no terminal", () => {
  const io = fakeIo();
  const lines: string[] = [];
  const progress = new Progress(io, (line) => lines.push(line), 30_000, 0);
  progress.update("a", 10, 100, 1000);
  progress.update("b", 20, 100, 29_999);
  assertEquals(lines, []);
  progress.update("a", 30, 100, 30_000);
  progress.update("a", 40, 100, 59_999);
  assertEquals(lines, [
    "a   30%  30 B of 100 B",
    "b   20%  20 B of 100 B",
    "all   25%  50 B of 200 B",
  ]);
  progress.update("a", 50, 100, 60_000);
  assertEquals(lines.length, 6);
  assertEquals(io.err, "");
});

Deno.test("together() adds up those that go on, and their rates", () => {
  const failed = aTrack({ doneBytes: 10 * MIB, hasFailed: true });
  const all = together([trackAfter([0, 0], [4, 50]), trackAfter([0, 0], [4, 10]), failed]);
  assertEquals(all && describe(all), "all   30%  60 MiB of 200 MiB  15 MiB/s  0:09 left");
  assertEquals(together([aTrack()]), null);
  assertEquals(together([failed, failed]), null);
});

Deno.test("draw() is no higher than the terminal, and shows what failed and what goes on", () => {
  const tracks = Array.from(
    { length: 40 },
    (_, i) => aTrack({ name: `d${i}`, doneBytes: 100 * MIB }),
  );
  tracks[30] = aTrack({ name: "d30", hasFailed: true });
  tracks[20] = aTrack({ name: "d20" });
  const lines = draw(tracks, 80, 6);
  assertEquals(lines.map((line) => line.split("] ")[1]?.slice(0, 3)), [
    "d0 ",
    "d1 ",
    "d20",
    "d30",
    "all",
  ]);
});

Deno.test("Progress.fail() says how far a disk came, and no update brings it back", () => {
  const io = fakeIo({ isTerminal: true });
  const progress = new Progress(io, () => {}, 30_000, 0);
  progress.update("a", 45, 100, 0);
  progress.update("b", 50, 100, 0);
  progress.fail("a");
  io.err = "";
  progress.update("b", 60, 100, 0);
  assertStringIncludes(io.err, "] a    failed at 45%\n");
});

Deno.test("Progress draws nothing once it is over", () => {
  const io = fakeIo({ isTerminal: true });
  const progress = new Progress(io, () => {}, 30_000, 0);
  progress.end();
  progress.update("a", 45, 100, 0);
  progress.fail("a");
  assertEquals(io.err, "");
});
