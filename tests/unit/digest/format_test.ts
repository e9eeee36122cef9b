import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import {
  DigestError,
  DIGESTS_HEAD,
  formatDigests,
  type ImageDigests,
  parseDigests,
  partBytesFor,
  rangeOfPart,
} from "../../../src/digest/format.ts";

const MIB = 1 << 20, GIB = 1 << 30;
const IMAGE = "disk0/FULL-1-ä";

const DIGESTS: ImageDigests = {
  ...DIGESTS_HEAD,
  image: IMAGE,
  recorded: "2026-11-22T23:00:00.000Z",
  fingerprint: { sizeBytes: 17 * MIB, digest: "a".repeat(64) },
  sizeBytes: 17 * MIB,
  partBytes: 16 * MIB,
  parts: ["b".repeat(64), "c".repeat(64)],
};

Deno.test("`parseDigests()` reads what `formatDigests()` writes, which is JSON", () => {
  const text = formatDigests(DIGESTS);
  assertEquals(parseDigests("d.json", text, IMAGE), DIGESTS);
  assertEquals(JSON.parse(text).parts, DIGESTS.parts);
  const raw = { ...DIGESTS, fingerprint: null };
  assertEquals(parseDigests("d.json", formatDigests(raw), IMAGE), raw);
});

Deno.test("`parseDigests()` finds every flipped bit", () => {
  const bytes = new TextEncoder().encode(formatDigests(DIGESTS));
  for (let bit = 0; bit < bytes.length * 8; bit++) {
    const flipped = bytes.slice();
    flipped[bit >> 3] = (flipped[bit >> 3] as number) ^ (1 << (bit & 7));
    const text = new TextDecoder().decode(flipped);
    assertThrows(() => parseDigests("d.json", text, IMAGE), DigestError, '"d.json" is damaged');
  }
});

Deno.test("`parseDigests()` finds a file that was cut", () => {
  const text = formatDigests(DIGESTS);
  for (let length = 0; length < text.length; length++) {
    assertThrows(() => parseDigests("d.json", text.slice(0, length), IMAGE), DigestError);
  }
});

const WRONG: [what: string, digests: object, words: string][] = [
  ["another image's", { image: "disk1/FULL-1-ä" }, 'to another image, "disk1/FULL-1-ä"'],
  ["a newer program's", { version: 2 }, "written by a newer qmpbackup"],
  ["too few parts", { parts: ["b".repeat(64)] }, "not as many parts"],
  ["parts of no length", { partBytes: 0 }, "not one of ours"],
  ["a time that is none", { recorded: "yesterday" }, "not one of ours"],
];
for (const [what, change, words] of WRONG) {
  Deno.test(`\`parseDigests()\` refuses ${what}`, () => {
    const text = formatDigests({ ...DIGESTS, ...change } as ImageDigests);
    const error = assertThrows(() => parseDigests("d.json", text, IMAGE), DigestError);
    assertStringIncludes(error.message, words);
  });
}

const PARTS: [sizeBytes: number, partBytes: number][] = [
  [0, 16 * MIB],
  [512 * GIB, 16 * MIB],
  [512 * GIB + 1, 32 * MIB],
  [100 * 1024 * GIB, 4 * GIB],
];
for (const [sizeBytes, partBytes] of PARTS) {
  Deno.test(`\`partBytesFor()\` cuts ${sizeBytes} bytes into parts of ${partBytes}`, () => {
    assertEquals(partBytesFor(sizeBytes), partBytes);
  });
}

Deno.test("`rangeOfPart()` cuts the last part where the file ends", () => {
  assertEquals([0, 1, 2].map((index) => rangeOfPart(DIGESTS, index)), [
    { offset: 0, length: 16 * MIB },
    { offset: 16 * MIB, length: MIB },
    { offset: 32 * MIB, length: 0 },
  ]);
});
