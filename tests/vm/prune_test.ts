import { assertEquals, assertStringIncludes } from "@std/assert";
import { filesOf, recordsOf, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

interface Record {
  id: string;
  state: string;
  warnings: string[];
  disks: { level: string; file: string; parent: string | null }[];
}

Deno.test("`backup --keep-last` removes old points, and its chain goes on", async () => {
  await using s = await scene();
  const { vm, target } = s;
  const ids: string[] = [];
  const backUp = async (level: string, ...more: string[]) => {
    const { stdout } = await succeed(s.backupArgs(level, "--json", ...more));
    const record: Record = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
    ids.push(record.id);
    await s.remember(record.id);
    return record;
  };
  const write = async (value: number) => {
    for (const id of ["vd0", "vd1"]) {
      await vm.write(id, value, value * MIB, 2 * MIB);
      await vm.write(id, value + 1, 30 * MIB, MIB);
    }
  };
  await backUp("auto");
  for (const value of [1, 2]) {
    await write(value);
    await backUp("auto");
  }
  await write(3);
  const pruned = await backUp("auto", "--keep-last", "2");
  assertEquals([pruned.state, pruned.warnings], ["done", []]);
  assertEquals(await recordsOf(target), ids.slice(-2).map((id) => `${id}.json`));
  // What went is a full backup of the first point that is kept now.
  const names = (await filesOf(target)).filter((name) => /\/(FULL|INC)-/.test(name));
  assertEquals(names.map((name) => name.replace(/-.*/, "")), [
    ...["disk0/FULL", "disk0/INC", "disk1/FULL", "disk1/INC"],
  ]);
  for (const id of ids.slice(-2)) await s.assertRestores(id, id);

  await write(5);
  const next = await backUp("inc");
  assertEquals(next.disks.map(({ level }) => level), ["inc", "inc"]);
  // All becomes one point: the increment that the VM's bitmap counts from is merged, too.
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  assertEquals(await recordsOf(target), [`${next.id}.json`]);
  await write(6);
  await backUp("inc");
  for (const id of ids.slice(-2)) await s.assertRestores(id, id);
  const { stdout } = await succeed(["restore", "verify", "--dir", target]);
  assertStringIncludes(stdout, "ok. 4 restore points");

  // A prune that fails is a warning, and the backup is done.
  await Deno.mkdir(`${target}/_qmpbackup/marks`);
  await Deno.writeTextFile(`${target}/_qmpbackup/marks/x.json`, "?");
  const last = await tool(s.backupArgs("inc", "--keep-last", "1", "--strict", "--json"));
  assertEquals(last.code, 3, last.stderr);
  const record: Record = JSON.parse(last.stdout.trim().split("\n").at(-1) ?? "");
  assertEquals(record.state, "done");
  assertStringIncludes(record.warnings.join(), "but old backups could not be removed");
  assertEquals((await recordsOf(target)).length, 3);
});
