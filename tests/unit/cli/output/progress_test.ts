import { assert, assertEquals } from "@std/assert";
import {
  advance,
  describe,
  draw,
  Progress,
  rateOf,
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
  assertEquals(describe(trackAfter([0, 0], [4, 50])), "disk0   50%  12.5 MiB/s  0:04 left");
});

Deno.test("describe() rounds down: 100 % is done", () => {
  const track = aTrack({ doneBytes: 999, totalBytes: 1000 });
  assertEquals(describe(track), "disk0   99%");
});

Deno.test("describe() says nothing of what is left when all is done", () => {
  assertEquals(describe(trackAfter([0, 0], [4, 100])), "disk0  100%  25 MiB/s");
});

Deno.test("describe() says nothing of what is left while nothing moves", () => {
  assertEquals(describe(trackAfter([0, 50], [4, 50])), "disk0   50%  0 B/s");
});

Deno.test("describe() says nothing of what is left where less is done than before", () => {
  assertEquals(describe(trackAfter([0, 50], [4, 40])), "disk0   40%  0 B/s");
});

Deno.test("describe() takes an empty disk for done", () => {
  assertEquals(describe(aTrack({ totalBytes: 0 })), "disk0  100%");
});

Deno.test("describe() shows control characters of a name", () => {
  assertEquals(describe(aTrack({ name: "a\x1bb" })), "a\\x1bb    0%");
});

Deno.test("draw() draws a bar for each disk", () => {
  assertEquals(draw([aTrack({ doneBytes: 50 * MIB }), aTrack({ name: "d" })], 80), [
    `[${"#".repeat(15)}${".".repeat(15)}] disk0   50%`,
    `[${".".repeat(30)}] d    0%`,
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
  assertEquals(io.err, `\x1b[2A\x1b[J${bar(30)} a  100%\n${bar(0)} b    0%\n`);
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
  assertEquals(lines, ["a   30%", "b   20%"]);
  progress.update("a", 50, 100, 60_000);
  assertEquals(lines.length, 4);
  assertEquals(io.err, "");
});
