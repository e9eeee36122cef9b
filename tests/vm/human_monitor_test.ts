import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { assertNothingLeft, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

interface Version {
  qemu: { major: number; minor: number };
}

Deno.test("--via-hmp gives a running VM a QMP socket, or says which QEMU can", async (t) => {
  await using s = await scene({ disks: 1, hmp: true });
  const { qemu } = await s.vm.execute("query-version") as Version;
  const canDo = qemu.major > 11 || (qemu.major === 11 && qemu.minor >= 1);
  const hmp = s.dir.join("hmp"), socket = s.dir.join("made.qmp");
  const backup = ["backup", "--socket", socket, "--via-hmp", hmp, "-l", "auto", "-t", s.target];
  if (!canDo) {
    await t.step("an older one can't, and is left as it was", async () => {
      for (let i = 0; i < 2; i++) {
        const { code, stderr } = await tool(backup);
        assertEquals(code, 1);
        assertMatch(
          stderr,
          /QEMU can't give a running VM a QMP socket \(.+\): that needs QEMU 11\.1\./,
        );
      }
      const chardevs = await s.vm.execute("query-chardev") as { label: string }[];
      assertEquals(chardevs.filter(({ label }) => label.startsWith("backup-qmp")), []);
    });
  } else {
    await t.step("each night, with one socket", async () => {
      for (const level of ["full", "inc"]) {
        await s.vm.write("vd0", level.length, 30 << 20, 1 << 20);
        await s.remember(level);
        assertMatch((await succeed(backup)).stdout, new RegExp(`disk0 +${level} +done`));
        await s.assertRestores(level);
        await assertNothingLeft(s.vm, 1);
      }
      assertStringIncludes(
        (await succeed(["info", "--socket", socket, "--via-hmp", hmp])).stdout,
        "disk0",
      );
    });
  }
  await t.step("what is not a human monitor is named", async () => {
    const args = ["info", "--socket", socket, "--via-hmp", s.secondSocket, "--timeout", "2"];
    const { code, stderr } = await tool(args);
    assertEquals(code, 1);
    assertStringIncludes(stderr, "shows no prompt: check that it is QEMU's human monitor");
    const spaces = ["info", "--socket", "/a b", "--via-hmp", hmp];
    assertEquals((await tool(spaces)).code, 2);
  });
});
