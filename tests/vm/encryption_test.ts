/**
 * Encrypted backups: made, verified, restored, merged, and nowhere the key.
 *
 * @module
 */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { basename, join } from "@std/path";
import { compare, qemuImg } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { assertNothingLeft, filesOf, leftInQemu, type Scene, scene } from "../support/scene.ts";
import { textsIn } from "../support/texts.ts";
import { ended, startTool, succeed, tool } from "../support/tool.ts";

const MIB = 1 << 20;
/** With a newline at its end, as most programs write a line. */
const KEY = "correct-horse-battery-staple-f00d\n";

/** What a key looks like in a text, as it is and as QMP has it. */
function assertNoKey(text: string, where: string) {
  for (const form of [KEY.trim(), btoa(KEY), btoa(KEY.trim()).slice(0, 40)]) {
    assert(!text.includes(form), `The key is in ${where}`);
  }
}

/** A program of this name that notes its command line and its environment, and then is the real one. */
async function spyOn(s: Scene, program: string): Promise<{ PATH: string; seen: string }> {
  const folder = s.dir.join("spy");
  const seen = s.dir.join("seen");
  const path = Deno.env.get("PATH") ?? "";
  const real = (await mustRun("sh", ["-c", `command -v ${program}`])).trim();
  await Deno.mkdir(folder);
  const script = `#!/bin/sh\n{ echo "$0 $*"; env; } >>${seen}\nexec ${real} "$@"\n`;
  await Deno.writeTextFile(join(folder, program), script, { mode: 0o755 });
  return { PATH: `${folder}:${path}`, seen };
}

/** The images of the only disk, the oldest first. */
async function imagesOf(target: string): Promise<string[]> {
  const files = (await filesOf(target)).filter((file) => file.endsWith(".qcow2"));
  const time = (file: string) => Number(/-(\d+)-/.exec(file)?.[1]);
  return files.toSorted((a, b) => time(a) - time(b)).map((file) => join(target, file));
}

Deno.test("encrypted backups are restored by us and by plain qemu-img, verified and pruned, and the key is nowhere", async (t) => {
  await using s = await scene({ disks: 1 });
  const keyFile = s.dir.join("key");
  const wrongFile = s.dir.join("wrong");
  await Deno.writeTextFile(keyFile, KEY, { mode: 0o600 });
  await Deno.writeTextFile(wrongFile, KEY.trim(), { mode: 0o600 });
  const key = ["--key-file", keyFile];
  const folder = join(s.target, "disk0");
  let restores = 0;
  async function assertRestores(dir: string, moment: string, ...more: string[]) {
    const file = s.dir.join(`out${restores++}.qcow2`);
    await succeed(["restore", "merge", "--dir", dir, "--targetfile", file, ...key, ...more]);
    await compare(s.dir.join(`${moment}.vd0.raw`), "raw", file, "qcow2");
  }

  await t.step("what can't be had is refused before anything is written", async () => {
    for (
      const [words, ...more] of [
        ["--key-file FILE", "--encrypt"],
        ["--compress does not go together", "--encrypt", ...key, "--compress"],
        [`"${s.dir.join("none")}" can't be read`, "--encrypt", "--key-file", s.dir.join("none")],
      ] as const
    ) {
      const { code, stderr } = await tool(s.backupArgs("full", ...more));
      assertEquals(code, 2, stderr);
      assertStringIncludes(stderr, words);
    }
    await assertNothingLeft(s.vm, 0);
  });

  await t.step("a full backup and increments, with the key over systemd too", async () => {
    const { PATH, seen } = await spyOn(s, "qemu-img");
    const log = s.dir.join("log");
    const debug = ["--debug", "--logfile", log, "--verify"];
    await s.remember("first");
    const env = { PATH };
    const full = await ended(
      startTool(s.backupArgs("full", "--encrypt", ...key, ...debug), { env }),
    );
    assertEquals(full.code, 0, full.stderr);
    await s.vm.write("vd0", 0x61, 30 * MIB, MIB);
    await s.remember("second");
    const folder = s.dir.join("credentials");
    await Deno.mkdir(folder);
    await Deno.copyFile(keyFile, join(folder, "qmpbackup-key"));
    const inc = await ended(
      startTool(s.backupArgs("inc", ...debug), { env: { PATH, CREDENTIALS_DIRECTORY: folder } }),
    );
    assertEquals(inc.code, 0, inc.stderr);
    assertStringIncludes(inc.stderr, "the image holds what the disk held");
    const logged = await Deno.readTextFile(log);
    assertMatch(logged, /"execute":"object-add","arguments":"\*\*\*"/);
    assertNoKey(logged, "the log");
    const spied = await Deno.readTextFile(seen);
    assertStringIncludes(spied, keyFile);
    assertNoKey(spied, "the command line or environment of qemu-img");
    for (const { stdout, stderr } of [full, inc]) assertNoKey(stdout + stderr, "the output");
    assertNoKey(await textsIn(s.target), "the target");
    await assertNothingLeft(s.vm, 1);
  });

  await t.step("another key, or none, is refused and leaves all as it was", async () => {
    const before = await filesOf(s.target);
    for (
      const [words, ...more] of [
        ["holds encrypted backups"],
        ["is not the one that", "--key-file", wrongFile],
      ] as const
    ) {
      const { code, stderr } = await tool(s.backupArgs("inc", ...more));
      assert(code === 2, stderr);
      assertStringIncludes(stderr, words);
      for (const command of ["merge", "verify"]) {
        const out = command === "merge" ? ["--targetfile", s.dir.join("never.qcow2")] : [];
        const { code, stderr } = await tool(["restore", command, "--dir", folder, ...out, ...more]);
        assert(code === 2, stderr);
        assertStringIncludes(stderr, more.length > 0 ? words : "name the file with its key");
      }
    }
    assertEquals(await filesOf(s.target), before);
    await assertNothingLeft(s.vm, 1);
  });

  await t.step("the key that a killed run has left in QEMU goes with the next run", async () => {
    const id = "qmpbackup-0badf00d-0-key";
    await s.vm.execute("object-add", { "qom-type": "secret", id, data: KEY });
    assertEquals(await leftInQemu(s.vm), [id]);
    await s.vm.write("vd0", 0x62, 40 * MIB, MIB);
    await s.vm.write("vd0", 0, 20 * MIB, MIB / 2);
    await s.remember("third");
    const { stderr } = await succeed(s.backupArgs("inc", ...key));
    assertStringIncludes(stderr, `Removing the key ${id} from QEMU`);
    await assertNothingLeft(s.vm, 1);
  });

  const [full = "", second = "", third = ""] = await imagesOf(s.target);

  await t.step("each point is restored, with records and without", async () => {
    const moments = [["first", full], ["second", second], ["third", third]] as const;
    const copy = s.dir.join("copy");
    await mustRun("cp", ["-a", folder, copy]);
    for (const [moment, image] of moments) {
      for (const dir of [folder, copy]) await assertRestores(dir, moment, "--until", image);
    }
  });

  await t.step("plain qemu-img opens a chain with the key alone, as RESTORE.txt says", async () => {
    for (const image of [full, second, third]) {
      const { encrypted } = JSON.parse(await qemuImg(["info", "--output=json", image]));
      assertEquals(encrypted, true);
    }
    const out = s.dir.join("by-hand");
    const text = (await Deno.readTextFile(join(s.target, "RESTORE.txt")))
      .replaceAll("/new/folder", out).replaceAll("/path/of/the/key", keyFile);
    const lines = text.split("\n").filter((line) => /^ {2}(mkdir|qemu-img) /.test(line));
    await mustRun("sh", ["-ec", `cd ${s.target}\n${lines.join("\n")}`]);
    await compare(s.dir.join("third.vd0.raw"), "raw", join(out, "disk0.qcow2"), "qcow2");
  });

  await t.step(
    "a point is opened in place with its key, by overlays, by NBD and by a VM",
    async () => {
      const raw = s.dir.join("third.vd0.raw");
      const object = `secret,id=backup-key,file=${keyFile}`;
      const attach = ["restore", "attach", "--dir", s.target, ...key];
      const tried = s.dir.join("tried");
      const { stdout } = await succeed([...attach, "--target-dir", tried]);
      assertStringIncludes(stdout, `-object ${object}`);
      const overlay = join(tried, "disk0.qcow2");
      await qemuImg(["compare", "--object", object, "-f", "raw", "-F", "qcow2", raw, overlay]);
      await succeed([...attach, "--nbd", "--target-dir", s.dir.join("nbd"), "--json"])
        .then(async ({ stdout }) => {
          const { disks: [disk] } = JSON.parse(stdout);
          await qemuImg(["compare", "-f", "raw", "-F", "raw", raw, disk.open]);
        });
      await succeed(["restore", "attach", "--dir", s.target, "--detach", "all"]);
      const parts = await succeed(["restore", "files", "--dir", folder, "--list", ...key]);
      assertStringIncludes(parts.stdout, "64 MiB");
      // Nothing on the disk boots: QEMU has opened it, and that is all.
      const boot = ["restore", "test", "--dir", s.target, "--accel", "tcg", "--timeout", "1"];
      const { stdout: booted, stderr } = await tool([...boot, ...key, "--json"]);
      assertEquals(JSON.parse(booted).state, "failed", stderr);
      assertNoKey(await textsIn(s.target), "the target");
    },
  );

  await t.step("a whole VM is restored with the key", async () => {
    const out = s.dir.join("vm");
    await succeed(["restore", "vm", "--dir", s.target, "--target-dir", out, ...key]);
    await compare(s.dir.join("third.vd0.raw"), "raw", join(out, "disk0.qcow2"), "qcow2");
  });

  await t.step("verify finds no damage, and what opens an image in place refuses it", async () => {
    await succeed(["restore", "verify", "--dir", s.target, ...key]);
    for (
      const [command, ...more] of [
        ...[["attach", "--nbd"], ["test"], ["files", "--list"], ["rebase"], ["commit"]],
        ...[["snapshotrebase"], ["vm", "--instant", "--target-dir", s.dir.join("never")]],
      ]
    ) {
      const dir = command === "vm" ? s.target : folder;
      const args = ["restore", command as string, "--dir", dir, ...more];
      const { code, stderr } = await tool(args);
      assertEquals(code, 2, stderr);
      assertStringIncludes(stderr, "encrypted");
    }
    const vm = ["--socket", s.vm.socket, "--until", basename(full)];
    const { code, stderr } = await tool(["restore", "rollback", "--dir", s.target, ...vm]);
    assertEquals(code, 2, stderr);
    assertStringIncludes(stderr, "encrypted");
  });

  await t.step("a prune keeps what it keeps, encrypted", async () => {
    const args = ["cleanup", "--prune", "--target", s.target, "--keep-last", "1"];
    const refused = await tool(args);
    assertEquals(refused.code, 2);
    assertStringIncludes(refused.stderr, "name the file with its key");
    await succeed([...args, ...key]);
    const [only = "", ...others] = await imagesOf(s.target);
    assertEquals(others, []);
    const { encrypted } = JSON.parse(await qemuImg(["info", "--output=json", only]));
    assertEquals(encrypted, true);
    await assertRestores(folder, "third");
    await succeed(["restore", "verify", "--dir", s.target, ...key]);
    assertNoKey(await textsIn(s.target), "the target");
  });
});
