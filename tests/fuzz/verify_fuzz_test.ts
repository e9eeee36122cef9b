import { assert, assertEquals } from "@std/assert";
import { verificationsJson, verificationsText } from "../../src/cli/output/verify_report.ts";
import { UsageError } from "../../src/errors.ts";
import { formatResult, parseResult, RESULT_HEAD, ResultError } from "../../src/verify/result.ts";
import { isInShare, parseSubset, subsetText } from "../../src/verify/subset.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { jsonText, mutateText, nearlyRight, word } from "./_nonsense.ts";

const RESULT = {
  ...RESULT_HEAD,
  started: "2026-11-22T23:00:00.000Z",
  finished: "2026-11-22T23:10:00.000Z",
  tool: "0.2.0",
  folder: null,
  subset: { numerator: 1, denominator: 7, day: 20784 },
  images: 3,
  points: 3,
  readBytes: 5,
  recorded: 0,
  damages: [{ file: "a", range: { offset: 0, length: 5 }, reason: "differ", spoils: true }],
  spoiled: ["a"],
};

fuzz("parseResult() throws ResultError alone, and what it takes can be shown", dice, (seed) => {
  const dice = new Dice(seed);
  const text = jsonText(nearlyRight(dice, RESULT));
  const result = mayThrow(
    ResultError,
    () => parseResult("r.json", dice.once(2) ? text : mutateText(dice, text)),
  );
  if (!result) return;
  // Long reasons are cut, once.
  const written = formatResult(result);
  assertEquals(formatResult(parseResult("r.json", written)), written);
  const verifications = { target: "/backup/vm1", results: [result, result] };
  verificationsText([verifications]);
  verificationsJson([verifications, verifications]);
});

fuzz("parseSubset() gives a share between nothing and all, or throws UsageError", dice, (seed) => {
  const dice = new Dice(seed);
  const text = dice.once(3) ? word(dice) : mutateText(dice, dice.pick(["1/7", "10%", "12.5%"]));
  const subset = mayThrow(UsageError, () => parseSubset(text));
  if (!subset) return;
  assert(subset.numerator >= 1 && subset.numerator <= subset.denominator, text);
  assertEquals(parseSubset(subsetText(subset)), subset);
  isInShare(subset, dice.below(30_000), "disk0/FULL-1-a", dice.below(10));
});
