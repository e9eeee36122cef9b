import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { formatRecord, parseRecord, type RunRecord } from "../../src/repo/record.ts";
import { localTime } from "../../src/time.ts";
import { compare, create } from "../support/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { tool } from "../support/tool.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";

const THIS_MONTH = localTime(new Date()).slice(0, "YYYY-MM".length);

async function writeRecord(target: string, run: RunRecord) {
  await Deno.mkdir(join(target, "_qmpbackup/runs"), { recursive: true });
  await Deno.writeTextFile(join(target, `_qmpbackup/runs/${run.id}.json`), formatRecord(run));
}

/** A full backup of one disk, at a time. */
async function writeBackup(target: string, time: string, pattern: number): Promise<RunRecord> {
  const file = `disk0/FULL-${Date.parse(time) / 1000}-disk0.qcow2`;
  const run = aRun([aDiskRecord("disk0", { file, virtualSizeBytes: 1 << 20 })], {
    id: `${time.slice(0, 10)}-0ld0ld00`,
    started: time,
    pointInTime: time,
  });
  await writeRecord(target, run);
  await Deno.mkdir(join(target, "disk0"), { recursive: true });
  const path = join(target, file);
  await create(path, 1 << 20);
  await qemuIo(path, `write -q -P ${pattern} 0 64k`);
  return run;
}

async function qemuIo(path: string, command: string) {
  const { success } = await new Deno.Command("qemu-io", { args: ["-c", command, path] }).output();
  assertEquals(success, true);
}

Deno.test("a night that fails before the month's first backup has a record in the month's folder", async () => {
  await using dir = await tempDir();
  const args = ["backup", "--socket", dir.join("none.qmp"), "-l", "auto", "-t", dir.path];
  // Where there was no month before, the folder may be a typing mistake.
  assertEquals((await tool([...args, "--monthly"])).code, 1);
  assertEquals(await Array.fromAsync(Deno.readDir(dir.path)), []);

  await writeRecord(dir.join("2026-01"), aRun([aDiskRecord()]));
  const { code, stderr } = await tool([...args, "--monthly"]);
  assertEquals(code, 1);
  const runs = dir.join(`${THIS_MONTH}/_qmpbackup/runs`);
  const [name, ...others] = (await Array.fromAsync(Deno.readDir(runs))).map(({ name }) => name);
  assertEquals(others, []);
  const record = parseRecord(`${name}`, await Deno.readTextFile(join(runs, `${name}`)));
  assertEquals([record.state, record.disks, record.vm.name], ["failed", [], "vm1"]);
  assertStringIncludes(stderr, `Error: ${record.error}`);
});

Deno.test("the folder of the months is restored from by its own name", async (t) => {
  await using dir = await tempDir();
  const before = await writeBackup(dir.join("2026-01"), "2026-01-31T01:00:00Z", 1);
  const after = await writeBackup(dir.join("2026-02"), "2026-02-01T01:00:00Z", 2);
  const imageOf = (month: string, { disks }: RunRecord) =>
    join(dir.path, month, disks[0]?.file ?? "");
  const first = localTime(new Date(before.started)).slice(0, "2026-01-31 01:00".length);
  const last = aRun([], { id: "night", state: "failed", sequence: 2, error: "It is off" });
  await writeRecord(dir.join("2026-02"), last);
  const restore = ["restore", "merge", "--dir", dir.path];
  const cases = [[[], imageOf("2026-02", after)], [["--until", first], imageOf("2026-01", before)]];
  for (const [until, image] of cases as [string[], string][]) {
    await t.step(`${until.join(" ")} of one disk and of all`, async () => {
      const one = dir.join(`one${until.length}.qcow2`), all = dir.join(`all${until.length}`);
      for (const to of [["--targetfile", one], ["--target-dir", all]]) {
        const { code, stderr } = await tool([...restore, ...to, ...until]);
        assertEquals(code, 0, stderr);
      }
      for (const path of [one, join(all, "disk0.qcow2")]) {
        await compare(image, "qcow2", path, "qcow2");
      }
    });
  }
  await t.step("and a night that failed is named as such", async () => {
    const args = [...restore, "--targetfile", dir.join("no.qcow2"), "--until", "night"];
    const { code, stderr } = await tool(args);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "failed: It is off. It holds nothing to restore here");
  });
});

Deno.test("a target whose runs all failed is said to have no backups, with the last reason", async () => {
  await using dir = await tempDir();
  await writeRecord(dir.path, aRun([], { state: "failed", error: "It is off" }));
  for (const to of [["--targetfile", "x.qcow2"], ["--target-dir", "x"]]) {
    const { code, stderr } = await tool(["restore", "merge", "--dir", dir.path, ...to]);
    assertEquals(code, 2);
    assertStringIncludes(stderr, "none of its runs is done. The last one, of 2026-11-2");
    assertStringIncludes(stderr, "failed: It is off");
  }
});
