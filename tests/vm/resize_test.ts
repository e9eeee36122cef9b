import { assertEquals, assertMatch } from "@std/assert";
import { countingProxy } from "../support/counting_proxy.ts";
import { assertNothingLeft, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

/** The commands after which the disk grows: all lie between the plan and the end of the switch. */
const MOMENTS = [
  ["block-dirty-bitmap-add"],
  ["copy-before-write"],
  ["qom-set"],
  // The last look at its size.
  ["qom-set", "query-named-block-nodes"],
  ["blockdev-reopen"],
  ["snapshot-access"],
];

for (const how of ["full", "inc", "compare"]) {
  for (const moment of MOMENTS) {
    Deno.test(`a disk that grows at ${moment.join(", ")} is backed up as it is, or not at all (${how})`, async () => {
      await using s = await scene({ disks: 1 });
      await succeed(s.backupArgs("full"));
      if (how === "compare") await s.restart();
      let seen = 0, hasGrown = false;
      const writeThere = () => s.vm.write("vd0", 0x66, 70 * MIB, MIB);
      const onMessage = async (message: string) => {
        // The guest uses what was added at once, at every moment of the run that is left. An error is no
        // harm then: QEMU has told nobody of the new size yet.
        if (hasGrown && message.startsWith("→")) await writeThere().catch(() => {});
        if (!message.startsWith("→") || !message.includes(`"${moment[seen]}"`)) return;
        if (++seen < moment.length) return;
        hasGrown = await s.vm.execute("block_resize", { "node-name": "disk0", size: 80 * MIB })
          .then(() => true, () => false);
      };
      await using line = countingProxy(s.dir.join("counted.qmp"), s.vm.socket, onMessage);
      const { code, stderr } = await tool([
        ...["backup", "--socket", line.path, "--level", how === "full" ? "full" : "auto"],
        ...["--target", s.target],
        ...(how === "compare" ? ["--on-lost-bitmap", "compare"] : []),
      ]);
      assertEquals(seen, moment.length);
      if (hasGrown) await writeThere();
      await s.remember("now");
      if (code === 0) await s.assertRestores("now");
      else assertMatch(stderr, /"disk0" was resized meanwhile: run again/);
      assertEquals(code === 1, hasGrown, stderr);
      await succeed(s.backupArgs("auto", "--on-lost-bitmap", "compare"));
      await s.assertRestores("now");
      await assertNothingLeft(s.vm, 1);
    });
  }
}
