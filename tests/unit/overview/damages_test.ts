import { assertEquals, assertStringIncludes } from "@std/assert";
import { withDamages } from "../../../src/overview/damages.ts";
import { type ImageState, PRESENT } from "../../../src/overview/image_states.ts";
import { RESULT_HEAD, type VerifyResult } from "../../../src/verify/result.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

const MISSING: ImageState = { state: "missing", reason: "is missing" };

const disk = aDiskRecord();
const run = aRun([disk], { finished: "2026-11-22T23:00:00.000Z" });

function aResult(started: string, files: string[], spoils = true): VerifyResult {
  return {
    ...{ ...RESULT_HEAD, started, finished: started, tool: "0.2.0", folder: null, subset: null },
    ...{ images: 1, points: 1, readBytes: 0, recorded: 0, spoiled: [] },
    damages: files.map((file) => ({ file, range: null, reason: "is cut", spoils })),
  };
}

const AFTER = "2026-11-23T03:00:00.000Z", LATER = "2026-11-24T03:00:00.000Z";
const BEFORE = "2026-11-22T03:00:00.000Z";

const CASES: [what: string, results: VerifyResult[], before: ImageState, after: string][] = [
  ["nothing was verified", [], PRESENT, "present"],
  ["nothing was found", [aResult(AFTER, [])], PRESENT, "present"],
  ["it was found damaged", [aResult(AFTER, [disk.file])], PRESENT, "changed"],
  ["another was", [aResult(AFTER, ["disk1/a"])], PRESENT, "present"],
  ["its digests were", [aResult(AFTER, [disk.file], false)], PRESENT, "present"],
  ["it was sound later", [aResult(AFTER, [disk.file]), aResult(LATER, [])], PRESENT, "present"],
  ["one of its name was before", [aResult(BEFORE, [disk.file])], PRESENT, "present"],
  ["it is missing by now", [aResult(AFTER, [disk.file])], MISSING, "missing"],
];
for (const [what, results, before, after] of CASES) {
  Deno.test(`withDamages() says that an image is ${after} where ${what}`, () => {
    const state = withDamages(new Map([[disk, before]]), { runs: [run] }, results).get(disk);
    assertEquals(state?.state, after);
    if (after === "changed") assertStringIncludes(state?.reason ?? "", "was damaged when it was");
  });
}
