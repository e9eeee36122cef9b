import { assertEquals } from "@std/assert";
import { doubtsOf } from "../../../src/qga/agent.ts";

const frozen = { return: "frozen" };
const error = (desc: string) => ({ error: { desc } });

Deno.test("doubtsOf() has none of a guest that is frozen until it is thawed", () => {
  assertEquals(doubtsOf(2, frozen, { return: 2 }), []);
  // What was mounted meanwhile, or is frozen twice.
  assertEquals(doubtsOf(2, frozen, { return: 3 }), []);
});

const ANSWERS: [string, Parameters<typeof doubtsOf>, string][] = [
  [
    "an error at the thaw",
    [2, frozen, error("VSS gave up")],
    '"guest-fsfreeze-thaw" was answered with the error "VSS gave up"',
  ],
  [
    "fewer file systems thawed than were frozen",
    [2, frozen, { return: 1 }],
    '"guest-fsfreeze-thaw" was answered with 1',
  ],
  ["none thawed", [1, frozen, { return: 0 }], '"guest-fsfreeze-thaw" was answered with 0'],
  ["a negative count", [1, frozen, { return: -1 }], '"guest-fsfreeze-thaw" was answered with -1'],
  [
    "a count beyond all numbers",
    [1, frozen, { return: Infinity }],
    '"guest-fsfreeze-thaw" was answered with Infinity',
  ],
  ["half a count", [1, frozen, { return: 1.5 }], '"guest-fsfreeze-thaw" was answered with 1.5'],
  [
    "a count that is not a number",
    [1, frozen, { return: NaN }],
    '"guest-fsfreeze-thaw" was answered with NaN',
  ],
  ["no count", [1, frozen, { return: {} }], '"guest-fsfreeze-thaw" was answered with nonsense'],
  ["nothing at all", [1, frozen, {}], '"guest-fsfreeze-thaw" was answered with nonsense'],
  [
    "a guest that was thawed before",
    [1, { return: "thawed" }, { return: 1 }],
    '"guest-fsfreeze-status" was answered with "thawed"',
  ],
  [
    "an error for the state",
    [1, error("disabled"), { return: 1 }],
    '"guest-fsfreeze-status" was answered with the error "disabled"',
  ],
];
for (const [what, answers, words] of ANSWERS) {
  Deno.test(`doubtsOf() sees ${what}`, () => {
    assertEquals(doubtsOf(...answers), [`${answers[0]} were said to be frozen`, words]);
  });
}

Deno.test("doubtsOf() names all that does not fit", () => {
  assertEquals(doubtsOf(3, { return: "thawed" }, error("no")).length, 3);
});

Deno.test("doubtsOf() cuts what an agent says", () => {
  const doubts = doubtsOf(1, { return: "x".repeat(1 << 20) }, error("y".repeat(1 << 20)));
  assertEquals(doubts.filter((words) => words.length > 400), []);
});
