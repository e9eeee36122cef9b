import { assert, assertEquals } from "@std/assert";
import { size } from "../../src/cli/output/text.ts";
import { lastPercent, parseImageFacts, QemuImgError } from "../../src/qemu_img/qemu_img.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { anyJson, jsonText, mutateText, nearlyRight, pieces, word } from "./_nonsense.ts";

const OVERLAY = {
  ...{ "virtual-size": 16777216, filename: "over.qcow2", format: "qcow2", "actual-size": 200704 },
  ...{ "backing-filename": "base.qcow2", "cluster-size": 65536, "dirty-flag": false },
  snapshots: [{ id: "1", name: "monday", "vm-state-size": 0 }],
  "format-specific": { type: "qcow2", data: { compat: "1.1", "data-file": "d", corrupt: false } },
};

fuzz("parseImageFacts() throws QemuImgError alone at any output", dice, (seed) => {
  const dice = new Dice(seed);
  const value = dice.once(8) ? anyJson(dice) : nearlyRight(dice, OVERLAY);
  const text = jsonText(value, dice.pick([0, 4]));
  const output = dice.once(2) ? text : mutateText(dice, text);
  const facts = mayThrow(QemuImgError, () => parseImageFacts(output));
  if (!facts) return;
  for (const sizeBytes of [facts.virtualSizeBytes, facts.allocatedBytes]) {
    assert(Number.isSafeInteger(sizeBytes) && sizeBytes >= 0 && size(sizeBytes) !== "");
  }
  for (const name of [facts.format, ...facts.snapshots]) assertEquals(typeof name, "string");
});

fuzz("lastPercent() finds 0 to 100 or nothing in any output", dice, (seed) => {
  const dice = new Dice(seed);
  const step = () => `    (${dice.below(101)}.${dice.below(100)}/100%)\r`;
  const output = dice.some(4, step).join("") + (dice.once(4) ? word(dice) : "");
  const text = mutateText(dice, output);
  // As it comes out of a pipe.
  for (const piece of pieces(dice, new TextEncoder().encode(text))) {
    const percent = lastPercent(new TextDecoder().decode(piece));
    assert(percent === null || percent >= 0 && percent <= 100, String(percent));
  }
});

fuzz("lastPercent() reads what qemu-img prints", dice, (seed) => {
  const dice = new Dice(seed);
  const percents = [dice.below(100), ...dice.some(3, () => dice.below(100))];
  const text = percents.map((percent) => `    (${percent}.50/100%)\r`).join("");
  assertEquals(lastPercent(word(dice) + text), (percents.at(-1) ?? NaN) + 0.5);
});
