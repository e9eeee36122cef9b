import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { metricsText, type RunMetrics } from "../../../src/cli/metrics.ts";
import { aDiskRecord, aRun, NOW_SECONDS } from "../_fixtures.ts";

function aRunOf(change: Partial<RunMetrics> = {}): RunMetrics {
  return {
    target: "/backup/vm1",
    started: new Date(NOW_SECONDS * 1000),
    finished: new Date(NOW_SECONDS * 1000 + 2500),
    exitCode: 0,
    record: aRun([aDiskRecord("disk0"), aDiskRecord("disk1", { level: "inc" })]),
    ...change,
  };
}

/** The lines that are no comments. */
function samples(text: string): string[] {
  return text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
}

const SUCCESS = "qmpbackup_last_success_timestamp_seconds";

Deno.test("metricsText() tells of the run and of each disk", () => {
  assertEquals(samples(metricsText(aRunOf(), "")), [
    `qmpbackup_last_run_timestamp_seconds{vm="vm1"} ${NOW_SECONDS + 2.5}`,
    'qmpbackup_last_run_duration_seconds{vm="vm1"} 2.5',
    'qmpbackup_last_run_exit_code{vm="vm1"} 0',
    'qmpbackup_last_run_warnings{vm="vm1"} 0',
    'qmpbackup_disks_left_out{vm="vm1"} 0',
    `${SUCCESS}{vm="vm1"} ${NOW_SECONDS + 2.5}`,
    'qmpbackup_disk_result{vm="vm1",disk="disk0",level="full",result="done"} 1',
    'qmpbackup_disk_result{vm="vm1",disk="disk1",level="inc",result="done"} 1',
    'qmpbackup_disk_written_bytes{vm="vm1",disk="disk0",level="full"} 5242880',
    'qmpbackup_disk_written_bytes{vm="vm1",disk="disk1",level="inc"} 5242880',
  ]);
});

Deno.test("metricsText() gives each metric one HELP and one TYPE, before its samples", () => {
  const text = metricsText(aRunOf(), "");
  const families = text.split(/^(?=# HELP )/m);
  for (const family of families) {
    const name = /^# HELP (\S+) \S/.exec(family)?.[1];
    assertMatch(family, new RegExp(`^# HELP ${name} .*\n# TYPE ${name} gauge\n(${name}\\{.*\n)+$`));
  }
  assertEquals(new Set(families.map((family) => family.split(" ")[2])).size, families.length);
});

Deno.test("metricsText() keeps the last success when a run fails, and counts its failed disks", () => {
  const before = metricsText(aRunOf(), "");
  const rows = [aDiskRecord("disk0", { result: "failed" })];
  const text = metricsText(
    aRunOf({
      finished: new Date((NOW_SECONDS + 86400) * 1000),
      exitCode: 1,
      record: aRun(rows, { state: "failed" }),
    }),
    before,
  );
  assertStringIncludes(text, `${SUCCESS}{vm="vm1"} ${NOW_SECONDS + 2.5}\n`);
  assertStringIncludes(text, 'qmpbackup_last_run_exit_code{vm="vm1"} 1\n');
  assertStringIncludes(text, 'disk="disk0",level="full",result="failed"} 1\n');
});

Deno.test("metricsText() tells of a run that was refused, under the name that the VM had", () => {
  const before = metricsText(
    aRunOf({ record: aRun([], { vm: { name: 'a "b" \\n c', uuid: "" } }) }),
    "",
  );
  const text = metricsText(aRunOf({ exitCode: 11, record: null }), before);
  assertStringIncludes(text, 'qmpbackup_last_run_exit_code{vm="a \\"b\\" \\\\n c"} 11\n');
  assertStringIncludes(text, SUCCESS);
});

Deno.test("metricsText() calls a VM by its target's folder where nothing tells its name", () => {
  const text = metricsText(aRunOf({ exitCode: 1, record: null }), "");
  assertStringIncludes(text, 'qmpbackup_last_run_exit_code{vm="vm1"} 1\n');
  assert(!text.includes(SUCCESS), "no success that never was");
});

Deno.test("metricsText() believes no line that is not its own", () => {
  const foreign = `${SUCCESS} 5\n${SUCCESS}{vm="x"} NaN\n# ${SUCCESS}{vm="y"} 1\n`;
  assert(!metricsText(aRunOf({ record: null }), foreign).includes(SUCCESS));
});

Deno.test("metricsText() counts what was left out without being asked to", () => {
  const reason = "format raw";
  const leftOut = [
    { device: "raw0", reason, unasked: true },
    { device: "raw1", reason, unasked: true },
    { device: "cd0", reason: "read-only" },
  ];
  const text = metricsText(aRunOf({ record: aRun([aDiskRecord()], { leftOut }) }), "");
  assertStringIncludes(text, '\nqmpbackup_disks_left_out{vm="vm1"} 2\n');
  assert(!metricsText(aRunOf({ record: null }), "").includes("qmpbackup_disks_left_out"));
});

Deno.test("metricsText() shows what in a label would drive a terminal", () => {
  const record = aRun([], { vm: { name: "a\u202eb\x1b[2J\nc", uuid: "" } });
  const text = metricsText(aRunOf({ record }), "");
  assertStringIncludes(text, '_exit_code{vm="a\\\\x202eb\\\\x1b[2J\\nc"} 0\n');
  // Read back from the file, it is the same name.
  assertStringIncludes(metricsText(aRunOf({ record: null, exitCode: 1 }), text), 'vm="a\\\\x202eb');
});
