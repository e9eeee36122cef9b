/**
 * A disk whose image names a server with a password: that stands nowhere afterwards, and the chain goes on.
 *
 * @module
 */

import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { create, qemuImg } from "../support/qemu_img.ts";
import { filesOf } from "../support/scene.ts";
import { tempDir } from "../support/temp_dir.ts";
import { textsIn } from "../support/texts.ts";
import { succeed, tool } from "../support/tool.ts";
import { startVm } from "../support/vm.ts";

const MIB = 1 << 20;
const SECRET = "pa55word";

Deno.test("a password in an image's link is in no record, .config, log, metric or output, nor told to a hook", async () => {
  await using dir = await tempDir();
  const disk = dir.join("disk.qcow2");
  const parent = `https://user:${SECRET}@server.example/base.raw`;
  await create(disk, 16 * MIB);
  await qemuImg(["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", parent, disk]);
  const node = {
    ...{ driver: "qcow2", "node-name": "disk0", backing: null },
    file: { driver: "file", filename: disk },
  };
  const qemuArgs = [
    ...["-blockdev", JSON.stringify(node)],
    ...["-device", "virtio-blk-pci,drive=disk0,id=vd0"],
  ];
  await using vm = await startVm({ dir: dir.path, disks: [], qemuArgs });
  const nodes = await vm.execute("query-named-block-nodes", { flat: true });
  assertStringIncludes(JSON.stringify(nodes), SECRET);
  const hook = dir.join("hook");
  const told = dir.join("told");
  await Deno.writeTextFile(hook, `#!/bin/sh\nexec cat >>${told}\n`, { mode: 0o755 });
  const target = dir.join("target");
  const said = dir.join("said");
  await Deno.mkdir(said);
  const args = [
    ...["backup", "--socket", vm.socket, "--target", target, "--after", hook, "--json", "--debug"],
    ...["--logfile", join(said, "log"), "--metrics-file", join(said, "metrics")],
  ];
  const outputs: string[] = [];
  const run = async (...words: string[]) => {
    const { stdout, stderr } = await succeed(words);
    outputs.push(stdout, stderr);
  };
  await vm.write("vd0", 0x31, 0, MIB);
  await run(...args, "--level", "full");
  // As a release before this one recorded it.
  const runs = join(target, "_qmpbackup/runs");
  for await (const { name } of Deno.readDir(runs)) {
    const path = join(runs, name);
    const record = JSON.parse(await Deno.readTextFile(path));
    record.disks[0].source = `nbd://user:${SECRET}@host/x`;
    await Deno.writeTextFile(path, JSON.stringify(record));
  }
  await run("info", "--show", "backups", "--dir", target, "--json");
  await run("info", "--show", "blockdev", "--socket", vm.socket, "--json", "--debug");
  await run("info", "--show", "bitmaps", "--socket", vm.socket);
  const record = (await Array.fromAsync(Deno.readDir(runs)))[0]?.name ?? "";
  await Deno.remove(join(runs, record));
  await Deno.remove(join(target, "disk0"), { recursive: true });
  await run(...args, "--level", "full");
  await vm.write("vd0", 0x32, MIB, MIB);
  await run(...args, "--level", "inc");
  const failed = await tool([...args, "--level", "full", "--exclude", "disk0"]);
  assertEquals(failed.code, 2);
  outputs.push(failed.stdout, failed.stderr);
  const config = (await filesOf(target)).find((name) => name.endsWith(".config")) ?? "";
  assertStringIncludes(await Deno.readTextFile(join(target, config)), "https://user:***@server");
  outputs.push(await textsIn(target), await textsIn(said), await Deno.readTextFile(told));
  for (const text of outputs) {
    const at = text.indexOf(SECRET);
    assert(at < 0, text.slice(Math.max(0, at - 300), at + 100));
  }
  assert(outputs.some((text) => text.includes("user:***@")));
});
