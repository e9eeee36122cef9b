import { assertEquals } from "@std/assert";
import { type Standing, standingOf } from "../../../src/qmp/jobs.ts";
import type { Job } from "../../../src/qmp/queries.ts";

function aJob(progress: number, status = "running"): Job {
  return { id: "j", type: "backup", status, "current-progress": progress, "total-progress": 100 };
}

/** Since when the job stands, after looks a second apart. */
function sinceAfter(...jobs: Job[]): number | undefined {
  let standing: Standing | null = null;
  for (const [second, job] of jobs.entries()) standing = standingOf(standing, job, second * 1000);
  return standing?.sinceMs;
}

Deno.test("standingOf() counts from the first look", () => {
  assertEquals(sinceAfter(aJob(0), aJob(0), aJob(0)), 0);
});

Deno.test("standingOf() counts anew with every byte", () => {
  assertEquals(sinceAfter(aJob(0), aJob(1), aJob(1)), 1000);
  assertEquals(sinceAfter(aJob(0), aJob(1), aJob(2)), 2000);
});

Deno.test("standingOf() does not count while somebody has paused the job", () => {
  assertEquals(sinceAfter(aJob(1), aJob(1, "paused"), aJob(1, "paused")), 2000);
  assertEquals(sinceAfter(aJob(1), aJob(1, "paused"), aJob(1), aJob(1)), 1000);
});
