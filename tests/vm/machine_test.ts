import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import type { RunRecord } from "../../src/repo/record.ts";
import { mustRun } from "../support/run.ts";
import { scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const exists = (path: string) => Deno.stat(path).then(() => true, () => false);

Deno.test("backup records what the VM is, without its secrets, and what --save names", async (t) => {
  const mac = "52:54:00:ab:cd:ef";
  await using s = await scene({
    disks: 1,
    vm: {
      qemuArgs: [
        ...["-netdev", "user,id=n0", "-device", `e1000,netdev=n0,mac=${mac},id=net0`],
        ...["-object", "secret,id=s0,data=geheim"],
      ],
    },
  });
  await Deno.mkdir(s.dir.join("etc"));
  const [script, xml, same] = ["start.sh", "vm.xml", "etc/vm.xml"].map((name) => s.dir.join(name));
  for (const path of [script, xml, same] as string[]) await Deno.writeTextFile(path, path);
  const saves = [script, xml, same, s.dir.join("etc")].flatMap((
    path,
  ) => ["--save", path as string]);
  const { stdout } = await succeed(s.backupArgs("full", "--json", ...saves));
  const { id, machine, saved } = JSON.parse(stdout) as RunRecord;
  assertEquals(machine?.memoryBytes, 64 << 20);
  assertEquals(machine?.processors, 1);
  assertMatch(machine?.type ?? "", /^pc-i440fx-/);
  assertEquals(machine?.nics, [{
    path: "/machine/peripheral/net0",
    driver: "e1000",
    mac,
    netdev: "n0",
    bootIndex: null,
  }]);
  assertEquals(machine?.disks.map(({ disk, driver }) => [disk, driver]), [[
    "disk0",
    "virtio-blk-pci",
  ]]);
  assertEquals(machine?.commandLine?.includes("secret,id=s0,data=***"), true);
  assertEquals(stdout.includes("geheim"), false);
  const folder = join(s.target, "_qmpbackup/saved", id);
  assertEquals(saved?.map(({ name }) => name), ["start.sh", "vm.xml", "2-vm.xml", "etc.tar"]);
  for (const [i, name] of ["start.sh", "vm.xml", "2-vm.xml"].entries()) {
    assertEquals(await Deno.readTextFile(join(folder, name)), [script, xml, same][i]);
  }
  const archived = await mustRun("tar", ["-xOf", join(folder, "etc.tar"), "vm.xml"]);
  assertEquals(archived, same);
  await t.step("and a run that fails keeps no saved files", async () => {
    const hook = s.dir.join("hook");
    await Deno.writeTextFile(hook, "#!/bin/sh\nexit 1\n", { mode: 0o755 });
    const { code } = await tool(s.backupArgs("inc", "--before", hook, ...saves));
    assertEquals(code, 1);
    const runs = await Array.fromAsync(Deno.readDir(join(s.target, "_qmpbackup/saved")));
    assertEquals(runs.map(({ name }) => name), [id]);
  });
  await t.step("and a file that can't be read is refused before anything is done", async () => {
    const { code, stderr } = await tool(s.backupArgs("inc", "--save", s.dir.join("none")));
    assertEquals(code, 2);
    assertStringIncludes(stderr, "--save");
    assertEquals(await exists(s.dir.join("none")), false);
    await Deno.mkdir(s.dir.join("etc/below"));
    const deep = await tool(s.backupArgs("inc", "--save", s.dir.join("etc")));
    assertEquals(deep.code, 2);
    assertMatch(deep.stderr, /"below", which is a folder.*Make an archive of it/);
  });
});
