import { assertEquals, assertStringIncludes } from "@std/assert";
import { filesOf, queryBlock, recordsOf, scene } from "../support/scene.ts";
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
  // Two runs may be of one second.
  assertEquals(await recordsOf(target), ids.slice(-2).map((id) => `${id}.json`).sort());
  // What went is a full backup of the first point that is kept now.
  const names = (await filesOf(target)).filter((name) => /\/(FULL|INC)-/.test(name));
  assertEquals(names.map((name) => name.replace(/-.*/, "")), [
    ...["disk0/FULL", "disk0/INC", "disk1/FULL", "disk1/INC"],
  ]);
  for (const id of ids.slice(-2)) await s.assertRestores(id, id);

  // What a prune that was killed has left goes with the next backup.
  await Deno.mkdir(`${target}/disk0/_prune`);
  await Deno.writeTextFile(`${target}/disk0/_prune/INC-1-disk0.qcow2`, "");
  await write(5);
  const next = await backUp("inc");
  assertEquals(next.disks.map(({ level }) => level), ["inc", "inc"]);
  assertEquals((await filesOf(target)).filter((name) => name.includes("_prune")), []);
  // All becomes one point: the increment that the VM's bitmap counts from is merged, too.
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "1"]);
  assertEquals(await recordsOf(target), [`${next.id}.json`]);
  await write(6);
  await backUp("inc");
  for (const id of ids.slice(-2)) await s.assertRestores(id, id);
  const { stdout } = await succeed(["restore", "verify", "--dir", target]);
  assertStringIncludes(stdout, "ok. 4 restore points");

  // With the VM's socket, what no record names goes from the VM, and nothing else.
  const chain = await Deno.readTextFile(`${target}/uuid`);
  const bitmaps = async () =>
    (await queryBlock(vm)).flatMap(({ inserted }) =>
      (inserted?.["dirty-bitmaps"] ?? []).map(({ name }) => name)
    ).sort();
  const before = await bitmaps();
  const others = [`qmpbackup-disk0-${chain}`, "qmpbackup-disk0-0123abcd-another", "mine"];
  for (const name of [`qmpbackup-disk0-0123abcd-${chain}`, ...others]) {
    await vm.execute("block-dirty-bitmap-add", { node: "disk0", name });
  }
  const prune = ["cleanup", "--prune", "--target", target, "--keep-last", "2", "--socket"];
  await succeed([...prune, vm.socket]);
  assertEquals(await bitmaps(), [...before, ...others].sort());
  for (const name of others) {
    await vm.execute("block-dirty-bitmap-remove", { node: "disk0", name });
  }

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

Deno.test("`backup --level diff` holds all since the full backup, and increments go on from it", async () => {
  await using s = await scene({ disks: 1 });
  const { vm, target } = s;
  const backUp = async (moment: string, level: string, ...more: string[]) => {
    const { stdout } = await succeed(s.backupArgs(level, "--json", ...more));
    await s.remember(moment);
    const record: Record = JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
    return { ...record.disks[0], id: record.id, warnings: record.warnings };
  };
  const full = await backUp("0", "diff");
  assertEquals(full.level, "full");
  const increments = [];
  for (const value of [1, 2]) {
    await vm.write("vd0", value, value * MIB, 2 * MIB);
    increments.push(await backUp(String(value), "inc"));
  }
  await vm.write("vd0", 9, 4 * MIB, MIB);
  const diff = await backUp("3", "diff");
  assertEquals([diff.level, diff.parent, diff.warnings], ["inc", full.file, []]);
  await vm.write("vd0", 8, 5 * MIB, MIB);
  const inc = await backUp("4", "inc");
  assertEquals([inc.level, inc.parent], ["inc", diff.file]);
  for (const [moment, { id }] of [full, ...increments, diff, inc].entries()) {
    await s.assertRestores(String(moment), id);
  }
  // What lies between a full backup and a difference can go without a merge.
  await succeed(["cleanup", "--prune", "--target", target, "--keep-last", "2"]);
  await s.assertRestores("3", diff.id);
  await s.assertRestores("4", inc.id);

  const due = await backUp("5", "auto", "--full-every", "1");
  assertEquals(due.level, "full");
  await vm.write("vd0", 7, 5 * MIB, MIB);
  assertEquals((await backUp("6", "auto", "--full-every", "1")).level, "inc");
  await s.assertRestores("6");
});
