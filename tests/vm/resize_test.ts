import { assertEquals, assertMatch } from "@std/assert";
import { countingProxy } from "../support/counting_proxy.ts";
import { assertNothingLeft, type Scene, scene } from "../support/scene.ts";
import { succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;

/** The commands after which the disk grows: all lie between the plan and the end of the switch. */
const MOMENTS = [
  "block-dirty-bitmap-add",
  "copy-before-write",
  "qom-set",
  "blockdev-reopen",
  "snapshot-access",
];

async function qemuMajor(s: Scene): Promise<number> {
  return (await s.vm.execute("query-version") as { qemu: { major: number } }).qemu.major;
}

for (const how of ["full", "inc", "compare"]) {
  for (const moment of MOMENTS) {
    Deno.test(`a disk that grows at ${moment} is backed up as it is, or not at all (${how})`, async () => {
      await using s = await scene({ disks: 1 });
      await succeed(s.backupArgs("full"));
      if (how === "compare") await s.restart();
      let isSeen = false, hasGrown = false;
      const onMessage = async (message: string) => {
        if (isSeen || !message.startsWith("→") || !message.includes(`"${moment}"`)) return;
        isSeen = true;
        hasGrown = await s.vm.execute("block_resize", { "node-name": "disk0", size: 80 * MIB })
          .then(() => true, () => false);
        // From QEMU 10.0 on, a node that lies above one that grows by its name does not hear of it: for the
        // milliseconds in which a gate leads to the disk, the guest can't see what was added.
        const isDeaf = moment === "qom-set" && await qemuMajor(s) >= 10;
        if (hasGrown && !isDeaf) await s.vm.write("vd0", 0x66, 70 * MIB, MIB);
      };
      await using line = countingProxy(s.dir.join("counted.qmp"), s.vm.socket, onMessage);
      const { code, stdout } = await tool([
        ...["backup", "--socket", line.path, "--level", how === "full" ? "full" : "auto"],
        ...["--target", s.target],
        ...(how === "compare" ? ["--on-lost-bitmap", "compare"] : []),
      ]);
      assertEquals(isSeen, true);
      await s.remember("now");
      if (code === 0) await s.assertRestores("now");
      else {assertMatch(
          stdout,
          /disk0 +(full|inc) +failed .*"disk0" was resized meanwhile: run again/,
        );}
      assertEquals(code === 1, hasGrown, stdout);
      await succeed(s.backupArgs("auto", "--on-lost-bitmap", "compare"));
      await s.assertRestores("now");
      await assertNothingLeft(s.vm, 1);
    });
  }
}
