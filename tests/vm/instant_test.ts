import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { StoppedError } from "../../src/errors.ts";
import { compare, info } from "../support/qemu_img.ts";
import { connectQmp } from "../support/qmp.ts";
import { mustRun } from "../support/run.ts";
import { filesOf, scene, until } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

/** A digest of each image of a target. */
async function digests(target: string): Promise<string> {
  const images = (await filesOf(target)).filter((file) => /(FULL|INC)-/.test(file));
  assertEquals(images.length, 4);
  return await mustRun("sha256sum", images.map((file) => join(target, file)));
}

Deno.test("restore vm --instant starts on the backups, and restore finish moves the data in", async (t) => {
  await using s = await scene({ disks: 2 });
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x51, 0, 4 * MIB);
  await succeed(s.backupArgs("inc"));
  // What the guest writes after its restore, on the old disk: so that there is something to compare with.
  await s.vm.write("vd0", 0x61, 2 * MIB, MIB);
  await s.remember("later");
  await s.vm.quit();
  const before = await digests(s.target);
  const out = s.dir.join("out");
  const { stdout } = await succeed([
    "restore",
    "vm",
    "--instant",
    "--dir",
    s.target,
    "--target-dir",
    out,
  ]);
  assertMatch(stdout, /still need the backups.*restore finish --dir/);
  const overlay = join(out, "disk0.qcow2");
  assertStringIncludes((await info(overlay)).backing ?? "", "INC-");
  await t.step("while the backups are not removed below it", async () => {
    const { code, stderr } = await tool(["restore", "commit", "--dir", join(s.target, "disk0")]);
    assertEquals(code === 0, false, stderr);
    assertEquals(await digests(s.target), before);
  });
  await t.step("and are not forgotten while the VM is off", async () => {
    const detach = ["restore", "attach", "--dir", s.target, "--detach", "all"];
    const { code, stderr } = await tool(detach);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "restore finish");
  });
  const child = new Deno.Command("sh", {
    args: [join(out, "start.sh")],
    stdin: "null",
    stdout: "null",
  }).spawn();
  let hasEnded = false;
  child.status.then(() => hasEnded = true);
  await using _child = {
    async [Symbol.asyncDispose]() {
      if (!hasEnded) child.kill("SIGKILL");
      await child.status;
    },
  };
  const answers = () => connectQmp(s.secondSocket).then((qmp) => qmp, () => null);
  let found = await answers();
  await until(async () => (found ??= await answers()) !== null);
  await using qmp = found!;
  const write = "write -P 0x61 2M 1M";
  await qmp.execute("human-monitor-command", {
    "command-line": `qemu-io -d /machine/peripheral/vd0/virtio-backend "${write}"`,
  });
  const finish = ["restore", "finish", "--dir", s.target, "--socket", s.vm.socket];
  await t.step("and can be stopped, which changes nothing that matters", async () => {
    const stop = new AbortController();
    const stopped = tool([...finish, "--rate-limit", "1M"], stop.signal);
    const jobs = async () => (await qmp.execute("query-jobs") as unknown[]).length;
    await until(async () => await jobs() > 0);
    stop.abort(new StoppedError("SIGINT"));
    assertEquals((await stopped).code, 130);
    assertEquals(await jobs(), 0);
    assertStringIncludes((await info(overlay)).backing ?? "", "INC-");
  });
  await t.step("so that the VM stands alone, with what the guest wrote meanwhile", async () => {
    const finished = await succeed(finish);
    assertEquals(finished.stdout.match(/Does not need the backups any more/g)?.length, 2);
    await qmp.execute("quit").catch(() => {});
    await child.status;
    for (const disk of [0, 1]) {
      const file = join(out, `disk${disk}.qcow2`);
      assertEquals((await info(file)).backing, undefined);
      await compare(s.dir.join(`later.vd${disk}.raw`), "raw", file, "qcow2");
    }
  });
  assertEquals(await digests(s.target), before);
  assertEquals(
    (await succeed(["restore", "attach", "--dir", s.target, "--list"])).stdout.includes("overlay"),
    false,
  );
});
