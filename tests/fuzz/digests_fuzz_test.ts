import { assertEquals } from "@std/assert";
import {
  DigestError,
  DIGESTS_HEAD,
  formatDigests,
  type ImageDigests,
  parseDigests,
} from "../../src/digest/format.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { mutateText, nearlyRight } from "./_nonsense.ts";

const IMAGE = "disk0/FULL-1-a";
const DIGESTS = {
  ...DIGESTS_HEAD,
  image: IMAGE,
  recorded: "2026-11-22T23:00:00.000Z",
  fingerprint: { sizeBytes: 5, digest: "a".repeat(64) },
  sizeBytes: 5,
  partBytes: 4,
  parts: ["b".repeat(64), "c".repeat(64)],
};

fuzz(
  "parseDigests() throws DigestError alone, and takes nothing that was changed",
  dice,
  (seed) => {
    const dice = new Dice(seed);
    // The digest at its end is right: what stands before may be anything.
    const text = formatDigests(nearlyRight(dice, DIGESTS) as ImageDigests);
    const digests = mayThrow(DigestError, () => parseDigests("d.json", text, IMAGE));
    if (digests) {
      assertEquals(digests.parts.length, Math.ceil(digests.sizeBytes / digests.partBytes));
      assertEquals(parseDigests("d.json", formatDigests(digests), IMAGE), digests);
    }
    const changed = mutateText(dice, text);
    if (changed === text) return;
    assertEquals(mayThrow(DigestError, () => parseDigests("d.json", changed, IMAGE)), undefined);
  },
);
