import { assertEquals, assertNotEquals } from "@std/assert";
import { join } from "@std/path";
import { ensurePrograms } from "../support/install_qemu.ts";
import { compare } from "../support/qemu_img.ts";
import { recipes } from "../support/readme.ts";
import { mustRun, run } from "../support/run.ts";
import { scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

await ensurePrograms({ restic: "restic", jq: "jq" });

Deno.test("README: what restic has sent on restores to what the disks held", async () => {
  await using s = await scene();
  const script = (await recipes("sh")).find((text) => text.includes("restic")) ?? "";
  const sendOn = s.dir.join("send-on");
  const env = {
    RESTIC_REPOSITORY: s.dir.join("repository"),
    RESTIC_PASSWORD: "secret",
    RESTIC_CACHE_DIR: s.dir.join("cache"),
  };
  // The tool hands its environment on.
  for (const [name, value] of Object.entries(env)) Deno.env.set(name, value);
  try {
    await mustRun("restic", ["--quiet", "init"]);
    await Deno.writeTextFile(sendOn, script, { mode: 0o755 });
    for (const level of ["full", "inc"]) {
      await s.vm.write("vd1", level.length, 30 << 20, 1 << 20);
      await s.remember(level);
      const { stdout } = await succeed(
        s.backupArgs(level, "--after", sendOn, "--strict", "--json"),
      );
      assertEquals(JSON.parse(stdout).warnings, []);
    }
    // A warning may hold what a shell takes for more than it is.
    const record = { state: "done", target: s.target, warnings: ["C:\\new folder\n", "$(exit 1)"] };
    await mustRun(sendOn, [], { stdin: JSON.stringify(record) });
    // What can't be read is no success.
    assertNotEquals((await run(sendOn, [], { stdin: "{" })).code, 0);
    // A run that is not done is not sent.
    const away = join(s.dir.path, "away");
    assertEquals((await tool(s.backupArgs("inc", "--after", sendOn, "--target", away))).code, 1);
    const snapshots = JSON.parse(await mustRun("restic", ["--json", "snapshots"])) as unknown[];
    assertEquals(snapshots.length, 3);
    const copy = s.dir.join("copy");
    await mustRun("restic", ["--quiet", "restore", "latest", "--target", copy]);
    for (const level of ["full", "inc"]) {
      const out = s.dir.join(`out-${level}`);
      const dir = join(copy, s.target);
      const until = level === "full" ? ["--until", await firstRun(dir)] : [];
      await succeed(["restore", "merge", "--dir", dir, "--target-dir", out, ...until]);
      for (const i of [0, 1]) {
        await compare(s.dir.join(`${level}.vd${i}.raw`), "raw", `${out}/disk${i}.qcow2`, "qcow2");
      }
    }
  } finally {
    for (const name of Object.keys(env)) Deno.env.delete(name);
  }
});

async function firstRun(dir: string): Promise<string> {
  const { stdout } = await succeed(["info", "--show", "backups", "--dir", dir, "--json"]);
  return JSON.parse(stdout.split("\n")[0] ?? "").id;
}
