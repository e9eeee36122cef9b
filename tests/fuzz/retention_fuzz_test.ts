import { assert, assertEquals } from "@std/assert";
import { parseDuration } from "../../src/duration.ts";
import { parseFullEvery } from "../../src/plan/full_every.ts";
import { applyRules } from "../../src/prune/policy.ts";
import { formatMark, parseMark } from "../../src/repo/run_mark.ts";
import { Dice, dice, fuzz } from "./_fuzz.ts";
import { jsonText, mutateText, nearlyRight, word } from "./_nonsense.ts";

const MARK = JSON.parse(formatMark({ isProtected: true, note: "before the upgrade" }));

fuzz("parseMark() takes what formatMark() writes, and throws nothing", dice, (seed) => {
  const dice = new Dice(seed);
  const text = jsonText(nearlyRight(dice, MARK));
  const mark = parseMark(dice.once(2) ? text : mutateText(dice, text));
  if (mark) assertEquals(parseMark(formatMark(mark)), mark);
});

fuzz("parseDuration() and parseFullEvery() read what they can, and throw nothing", dice, (seed) => {
  const dice = new Dice(seed);
  const text = dice.once(2)
    ? word(dice)
    : mutateText(dice, dice.pick(["2y5m7d3h", "20", "ratio:1.0"]));
  const read = parseDuration(text);
  if (read) assert(Object.values(read).every((count) => count >= 0 && count <= 9_999), text);
  const every = parseFullEvery(text);
  if (every?.kind === "count") assert(every.count > 0);
});

fuzz("applyRules() keeps what stays and what is needed, whatever the rules", dice, (seed) => {
  const dice = new Dice(seed);
  const points = Array.from({ length: dice.below(12) }, () => ({
    timeMs: Date.UTC(2026, 0, 1) + dice.below(400 * 24) * 3_600_000,
    isWhole: dice.once(3),
    stays: dice.once(6) ? "protected" : null,
    needed: dice.once(6) ? "newest of disk0" : null,
  })).sort((a, b) => a.timeMs - b.timeMs);
  const rules = {
    last: dice.below(3),
    hourly: dice.below(3),
    daily: dice.below(4),
    weekly: dice.below(3),
  };
  for (const { point, reasons } of applyRules(points, rules, Date.UTC(2027, 0, 1))) {
    if (point.stays !== null || point.needed !== null) assert(reasons.length > 0);
  }
  const kept = applyRules(points, rules, Date.UTC(2027, 0, 1)).filter(({ reasons }) =>
    reasons.includes("last")
  );
  const open = points.filter(({ stays }) => stays === null).length;
  assertEquals(kept.length, Math.min(rules.last, open));
});
