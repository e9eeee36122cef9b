import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { startLinuxGuest } from "../support/linux_guest.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

async function run(program: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
  const text = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assertEquals(code, 0, text);
  return text;
}

/** What a file system in a raw image holds under a name; it must be clean as it is. */
async function readFrom(image: string, file: string): Promise<string> {
  await run("e2fsck", "-fn", image);
  return await run("debugfs", "-R", `cat ${file}`, image);
}

Deno.test("--quiesce brings what a real guest wrote into each increment, with clean file systems", async () => {
  await using dir = await tempDir();
  const disks = ["disk0", "disk1"].map((node, i) => ({
    ...{ id: `vd${i}`, node, path: dir.join(`${node}.qcow2`), format: "qcow2" as const },
    sizeBytes: 64 * MIB,
  }));
  await using guest = await startLinuxGuest({ dir: dir.path, disks });
  const target = dir.join("target");
  const args = (level: string) => [
    ...["backup", "--socket", guest.vm.socket, "--agent-socket", guest.agentSocket],
    ...["--quiesce=require", "--level", level, "--target", target, "--json"],
  ];
  for (const [i, level] of ["full", "inc", "inc"].entries()) {
    // Not synced: only the freeze brings it to the disk.
    await guest.writeFile("/mnt/disk0/news", `zero ${i}`);
    await guest.writeFile("/mnt/disk1/news", `one ${i}`);
    const { stdout } = await succeed(args(level));
    const { hold } = JSON.parse(stdout) as { hold: { kind: string; frozenMs: number | null } };
    assert((hold.frozenMs ?? 0) > 0);
    assertEquals(await guest.freezeStatus(), "thawed");
    const out = dir.join(`out${i}`);
    await succeed([
      ...["restore", "merge", "--dir", target, "--target-dir", out, "--format", "raw"],
    ]);
    assertStringIncludes(await readFrom(`${out}/disk0.raw`, "news"), `zero ${i}`);
    assertStringIncludes(await readFrom(`${out}/disk1.raw`, "news"), `one ${i}`);
  }

  // Frozen by somebody else: with =require an error before anything is switched, and left frozen.
  await guest.agent("guest-fsfreeze-freeze");
  const refused = await tool(args("inc"));
  assertEquals(refused.code, 1);
  assertMatch(refused.stdout, /frozen already/);
  await guest.agent("guest-fsfreeze-thaw");
  await succeed(args("inc"));
});
