import { assertEquals } from "@std/assert";
import { nextStep } from "../../../src/prune/next_step.ts";
import type { DiskRecord, RunRecord } from "../../../src/repo/record.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

type Spec = [name: string, parent: string | null, result?: DiskRecord["result"], bytes?: number];

/** "F1", "I2": each in the run of its number. */
function runsOf(specs: Spec[]): RunRecord[] {
  const byRun = Map.groupBy(specs, ([name]) => name.slice(1));
  return [...byRun].map(([n, own]) =>
    aRun(
      own.map(([name, parent, result = "done", bytesWritten = 100]) =>
        aDiskRecord("disk0", {
          file: fileOf(name),
          parent: parent && fileOf(parent),
          level: name.startsWith("F") ? "full" : name.startsWith("C") ? "copy" : "inc",
          result,
          bytesWritten,
        })
      ),
      { id: `run${n}`, sequence: Number(n) },
    )
  );
}

const fileOf = (name: string) => {
  const kind = { F: "FULL", I: "INC", C: "COPY" }[name.charAt(0)];
  return `disk0/${kind}-${name.slice(1)}-disk0.qcow2`;
};
const nameOf = (file: string) => file.replace(/^disk0\/(.).*-(\d+)-.*/, "$1$2");

const LIMITS = { layers: 4, rollShare: 0.5 };

/** What the next step is, in short. */
function stepOf(specs: Spec[], limits = LIMITS, open: string[] = []): string {
  const step = nextStep(runsOf(specs), new Set(), new Set(open.map(fileOf)), limits);
  switch (step?.kind) {
    case undefined:
      return "nothing";
    case "relink":
      return `relink ${nameOf(step.child.disk.file)} to ${nameOf(step.parent.file)}`;
    case "merge":
      return `merge ${step.layers.map(({ file }) => nameOf(file)).join(" ")} over ${
        nameOf(step.parent.file)
      }`;
    case "roll":
      return `roll ${step.layers.map(({ file }) => nameOf(file)).join(" ")} into ${
        nameOf(step.file)
      }`;
    case "remove":
      return `remove ${step.points.map(({ disk }) => nameOf(disk.file)).join(" ")}`;
  }
}

const gone = "superseded" as const;
const CASES: [what: string, specs: Spec[], step: string][] = [
  ["nothing that is kept", [["F1", null], ["I2", "F1"], ["I3", "I2"]], "nothing"],
  [
    "an increment into the next",
    [["F1", null], ["I2", "F1", gone], ["I3", "I2"]],
    "merge I2 I3 over F1",
  ],
  [
    "several into one",
    [["F1", null], ["I2", "F1", gone], ["I3", "I2", gone], ["I4", "I3"]],
    "merge I2 I3 I4 over F1",
  ],
  ["a full backup into an increment", [["F1", null, gone], ["I2", "F1"]], "roll F1 I2 into F2"],
  ["nothing into a full backup that is large", [["F1", null, gone, 1000], ["I2", "F1"]], "nothing"],
  [
    "increments over a full backup that is large",
    [["F1", null, gone, 1000], ["I2", "F1", gone], ["I3", "I2"]],
    "merge I2 I3 over F1",
  ],
  [
    "a long chain in parts, the oldest first",
    [["F1", null], ["I2", "F1", gone], ["I3", "I2", gone], ["I4", "I3", gone], ["I5", "I4", gone], [
      "I6",
      "I5",
    ]],
    "merge I2 I3 I4 I5 over F1",
  ],
  [
    "a long chain with its full backup in parts",
    [["F1", null, gone], ["I2", "F1", gone], ["I3", "I2", gone], ["I4", "I3", gone], ["I5", "I4"]],
    "merge I2 I3 I4 I5 over F1",
  ],
  [
    "what both of two build on into each",
    [["F1", null], ["I2", "F1", gone], ["I3", "I2"], ["I4", "I2"]],
    "merge I2 I3 over F1",
  ],
  [
    "nothing once both have it",
    [["F1", null], ["I2", "F1", gone], ["I3", "F1"], ["I4", "F1"]],
    "remove I2",
  ],
  ["the newest first, of what nothing needs", [["F1", null, gone], ["I2", "F1", gone], [
    "F3",
    null,
  ]], "remove I2 F1"],
  ["a copy by itself", [["F1", null], ["C2", null, gone], ["I3", "F1"]], "remove C2"],
  [
    "links first, when a full backup was made of an increment",
    [["F1", null, gone], ["I2", "F1", gone], ["F2", null], ["I3", "I2"]],
    "relink I3 to F2",
  ],
  [
    "the old images, when nothing is linked to them",
    [["F1", null, gone], ["I2", "F1", gone], ["F2", null], ["I3", "F2"]],
    "remove I2 F1",
  ],
  [
    "the same again, when it was announced and not made",
    [["F1", null, gone], ["I2", "F1"], ["F2", null, gone], ["I3", "I2"]],
    "roll F1 I2 into F2",
  ],
];
for (const [what, specs, step] of CASES) {
  Deno.test(`\`nextStep()\` merges, links or removes ${what}`, () =>
    assertEquals(stepOf(specs), step));
}

Deno.test("`nextStep()` leaves alone what can't be merged", () => {
  const runs = runsOf([["F1", null], ["I2", "F1", gone], ["I3", "I2"]]);
  assertEquals(nextStep(runs, new Set([fileOf("I3")])), null);
});

for (
  const { what, specs, open, next } of [
    {
      what: "merges nothing that is in use",
      specs: [["F1", null], ["I2", "F1", gone], ["I3", "I2"]],
      open: "I2",
      next: "nothing",
    },
    {
      what: "merges nothing below what is in use",
      specs: [["F1", null, gone], ["I2", "F1"], ["I3", "I2"]],
      open: "I3",
      next: "nothing",
    },
    {
      what: "merges beside what is in use",
      specs: [["F1", null], ["I2", "F1"], ["I3", "F1", gone], ["I4", "I3"]],
      open: "I2",
      next: "merge I3 I4 over F1",
    },
    {
      what: "removes nothing that is in use",
      specs: [["F1", null], ["I2", "F1", gone], ["I3", "I2", gone], ["F4", null, gone]],
      open: "I3",
      next: "remove F4",
    },
    {
      what: "links nothing that is in use",
      specs: [["F1", null, gone], ["I2", "F1", gone], ["F2", null], ["I3", "I2"], ["I4", "I2"]],
      open: "I3",
      next: "relink I4 to F2",
    },
  ] as { what: string; specs: Spec[]; open: string; next: string }[]
) {
  Deno.test(`\`nextStep()\` ${what}`, () => assertEquals(stepOf(specs, LIMITS, [open]), next));
}
