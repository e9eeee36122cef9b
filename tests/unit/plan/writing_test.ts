import { assertEquals } from "@std/assert";
import { chooseWriting } from "../../../src/plan/writing.ts";
import type { TargetSpeed } from "../../../src/repo/target_speed.ts";
import { aRequest } from "../_fixtures.ts";

const MUCH = 4 << 28;
const QEMU = { fleecing: true, preallocate: true };

function speed(
  directMs: TargetSpeed["directMs"],
  cachedMs: TargetSpeed["cachedMs"],
): TargetSpeed {
  return { measured: "2026-11-21T23:00:00.000Z", device: 1, directMs, cachedMs };
}

const SPEEDS: [what: string, speed: TargetSpeed | null, direct: boolean, reason: string][] = [
  ["was not measured", null, false, "the target was not measured"],
  ["can't do it", speed(null, null), false, "the target's file system has no O_DIRECT"],
  ["is slow", speed("slow", null), true, "a sample takes too long past the page cache"],
  [
    "is faster with it",
    speed(20, 90),
    true,
    "a sample takes 20 ms past the page cache, 90 ms through it",
  ],
  [
    "writes back slowly",
    speed(20, "slow"),
    true,
    "a sample takes 20 ms past the page cache, too long through it",
  ],
  [
    "is a little slower with it",
    speed(100, 90),
    true,
    "a sample takes 100 ms past the page cache, 90 ms through it",
  ],
  [
    "is much slower with it",
    speed(180, 20),
    false,
    "a sample takes 180 ms past the page cache, 20 ms through it",
  ],
];
for (const [what, measured, direct, reason] of SPEEDS) {
  Deno.test(`chooseWriting() goes ${direct ? "past" : "through"} the page cache where the target ${what}`, () => {
    const writing = chooseWriting(aRequest({ digest: false }), QEMU, MUCH, measured);
    const preallocBytes = direct ? 128 << 20 : 0;
    assertEquals(writing, { direct, preallocBytes, aio: null, reason });
  });
}

const FAST = speed(20, 90);

Deno.test("chooseWriting() does as it is asked, whatever was measured", () => {
  const of = (directTarget: boolean, measured: TargetSpeed | null) =>
    chooseWriting(aRequest({ directTarget, targetAio: "threads" }), QEMU, MUCH, measured);
  assertEquals(of(true, null).direct, true);
  assertEquals(of(false, FAST), {
    ...{ direct: false, preallocBytes: 0, aio: "threads" },
    reason: "asked for",
  });
});

Deno.test("chooseWriting() writes little, compressed, and what guests wait for through the page cache", () => {
  const reasonOf = (change: Parameters<typeof aRequest>[0], qemu = QEMU, bytes = MUCH) => {
    const { direct, reason } = chooseWriting(
      aRequest({ digest: false, ...change }),
      qemu,
      bytes,
      FAST,
    );
    return direct ? "direct" : reason;
  };
  assertEquals(reasonOf({}), "direct");
  assertEquals(reasonOf({}, QEMU, 1 << 20), "it is little");
  assertEquals(reasonOf({ digest: true }), "its digests are read from there");
  assertEquals(reasonOf({ compress: "zstd" }), "the image is compressed");
  assertEquals(reasonOf({}, { ...QEMU, fleecing: false }), "guest writes wait for the target");
});

Deno.test("chooseWriting() sets no blocks aside where QEMU can't, or for little", () => {
  const request = aRequest({ directTarget: true });
  const blocks = (qemu: typeof QEMU, bytes: number) =>
    chooseWriting(request, qemu, bytes, null).preallocBytes;
  assertEquals(blocks(QEMU, MUCH), 128 << 20);
  assertEquals(blocks({ ...QEMU, preallocate: false }, MUCH), 0);
  assertEquals(blocks(QEMU, 1 << 20), 0);
});
