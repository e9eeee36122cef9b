import { assert, assertEquals, assertMatch } from "@std/assert";
import { metricsText } from "../../src/cli/metrics.ts";
import { ensurePrograms } from "../support/install_qemu.ts";
import { mustRun } from "../support/run.ts";
import { scene, untilSwitched } from "../support/scene.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";

/** Debian's, which has Debian's packages. */
const PYTHON = "/usr/bin/python3";

await ensurePrograms({
  [PYTHON]: "python3",
  "/usr/lib/python3/dist-packages/prometheus_client": "python3-prometheus-client",
});

/** Reads with Prometheus' own library for Python, and prints what it has found as JSON. */
const PARSE = `
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps([
  {"name": s.name, "labels": s.labels, "value": s.value, "type": f.type} for f in families for s in f.samples
]))
`;

interface Sample {
  name: string;
  labels: Record<string, string>;
  value: number;
  type: string;
}

async function parsed(text: string): Promise<Sample[]> {
  return JSON.parse(await mustRun(PYTHON, ["-c", PARSE], { stdin: text })) as Sample[];
}

async function read(path: string): Promise<Map<string, Sample[]>> {
  return Map.groupBy(await parsed(await Deno.readTextFile(path)), ({ name }) => name);
}

const ONE = (samples: Sample[] | undefined) => samples?.[0]?.value;

Deno.test("metricsText() is what Prometheus reads, whatever the names hold", async () => {
  const names = ['quote " and \\ back\\nslash', "line\nbreak", "Ümlaut,{}=#", ""];
  const text = metricsText({
    target: "/backup/vm1",
    started: new Date(0),
    finished: new Date(1500),
    exitCode: 0,
    record: aRun(names.map((name) => aDiskRecord(name)), {
      vm: { name: names[0] ?? "", uuid: "" },
    }),
  }, "");
  const samples = await parsed(text);
  const disks = samples.filter(({ name }) => name === "qmpbackup_disk_written_bytes");
  assertEquals(disks.map(({ labels }) => labels.disk), names);
  assertEquals(new Set(samples.map(({ labels }) => labels.vm)), new Set([names[0]]));
  assertEquals(new Set(samples.map(({ type }) => type)), new Set(["gauge"]));
});

Deno.test("--metrics-file tells of each run, done, failed or refused", async () => {
  await using s = await scene();
  await Deno.mkdir(s.dir.join("prom"));
  const file = s.dir.join("prom/vm.prom");
  const metrics = ["--metrics-file", file];
  // Another user's collector reads it, whatever the service's umask is.
  const umask = Deno.umask(0o077);
  const start = Date.now() / 1000;
  const { stdout } = await succeed(s.backupArgs("full", "--json", ...metrics));
  Deno.umask(umask);
  assertEquals((await Deno.stat(file)).mode! & 0o777, 0o644);
  const done = await read(file);
  const success = ONE(done.get("qmpbackup_last_success_timestamp_seconds")) ?? 0;
  assert(success >= start && success <= Date.now() / 1000);
  assertEquals(ONE(done.get("qmpbackup_last_run_exit_code")), 0);
  const rows = JSON.parse(stdout).disks as { name: string; bytesWritten: number }[];
  assertEquals(
    done.get("qmpbackup_disk_written_bytes")?.map(({ labels, value }) => [labels.disk, value]),
    rows.map(({ name, bytesWritten }) => [name, bytesWritten]),
  );
  const resultsOf = (samples: Map<string, Sample[]>) =>
    samples.get("qmpbackup_disk_result")?.map(({ labels }) => [labels.level, labels.result]);
  assertEquals(resultsOf(done), [["full", "done"], ["full", "done"]]);

  // A collector that is reading meanwhile.
  const reading = await Deno.open(file);
  const seen = await Deno.readTextFile(file);

  // Refused while another run is on, which then fails.
  for (const id of ["vd0", "vd1"]) await s.vm.write(id, 0x41, 0, 8 << 20);
  const failing = tool(s.backupArgs("inc", ...metrics, "--speed-limit", "1"));
  await untilSwitched(s.vm);
  const args = ["run", "-A", "main.ts", ...s.backupArgs("inc", ...metrics)];
  args[args.indexOf("--socket") + 1] = s.secondSocket;
  const { code } = await new Deno.Command(Deno.execPath(), {
    args,
    stdin: "null",
    stdout: "null",
    stderr: "null",
    cwd: new URL("../../", import.meta.url),
  }).output();
  assertEquals(code, 11);
  const refused = await read(file);
  assertEquals(ONE(refused.get("qmpbackup_last_run_exit_code")), 11);
  assertEquals(ONE(refused.get("qmpbackup_last_success_timestamp_seconds")), success);
  assertEquals(resultsOf(refused), undefined);
  s.vm.kill("SIGKILL");
  assertEquals((await failing).code, 1);
  const failed = await read(file);
  assertEquals(ONE(failed.get("qmpbackup_last_run_exit_code")), 1);
  assertEquals(ONE(failed.get("qmpbackup_last_success_timestamp_seconds")), success);
  assertEquals(resultsOf(failed), [["inc", "failed"], ["inc", "failed"]]);

  // QEMU out of reach.
  assertEquals((await tool(s.backupArgs("inc", ...metrics))).code, 1);
  const unreachable = await read(file);
  assertEquals(resultsOf(unreachable), undefined);
  assertEquals(
    unreachable.get("qmpbackup_last_run_exit_code")?.map(({ labels }) => labels.vm),
    done.get("qmpbackup_last_run_exit_code")?.map(({ labels }) => labels.vm),
  );
  assertEquals(await new Response(reading.readable).text(), seen);
  const names = await Array.fromAsync(Deno.readDir(s.dir.join("prom")), ({ name }) => name);
  assertEquals(names, ["vm.prom"]);
});

Deno.test("--metrics-file that can't be written is a warning, and 3 under --strict", async () => {
  await using s = await scene({ disks: 1 });
  const metrics = ["--metrics-file", s.dir.join("none/vm.prom")];
  await s.remember("full");
  const { stderr } = await succeed(s.backupArgs("full", ...metrics));
  assertMatch(stderr, /WARNING The metrics could not be written to ".*none\/vm.prom"/);
  await s.assertRestores("full");
  assertEquals((await tool(s.backupArgs("inc", "--strict", ...metrics))).code, 3);
});

Deno.test("a pipe or a device for --metrics-file or --logfile holds no run, and stays as it is", async (t) => {
  await using s = await scene({ disks: 1 });
  const fifo = s.dir.join("fifo");
  await mustRun("mkfifo", [fifo]);
  await mustRun("ln", ["-s", fifo, s.dir.join("link")]);
  const run = async (...args: string[]) => {
    const start = performance.now();
    // A process of its own: what holds it would hold this one.
    const result = await ended(startTool(s.backupArgs("auto", ...args)));
    assert(performance.now() - start < 60_000);
    return result;
  };
  await t.step("--metrics-file", async () => {
    await s.remember("full");
    const { code, stderr } = await run("--metrics-file", fifo, "--strict");
    assertEquals(code, 3, stderr);
    assertMatch(
      stderr,
      /WARNING The metrics could not be written to ".*fifo": .* not a regular file/,
    );
    await s.assertRestores("full");
  });
  for (const path of [fifo, s.dir.join("link"), "/dev/tty"]) {
    await t.step(`--logfile ${path.split("/").at(-1)}`, async () => {
      const { code, stderr } = await run("--logfile", path);
      assertEquals(code, 2, stderr);
      assertMatch(stderr, /Error: The log file ".*" can't be written: .* not a regular file/);
    });
  }
  await t.step("--logfile /dev/null, which some name for none", async () => {
    assertEquals((await run("--logfile", "/dev/null")).code, 0);
  });
  assert((await Deno.lstat(fifo)).isFifo);
});
