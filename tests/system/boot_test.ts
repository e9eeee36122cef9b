import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ATTACHED_FOLDER, BOOTED_FOLDER } from "../../src/repo/layout.ts";
import { BOOT_DISK_BYTES, bootDisk, TEXT_AT } from "../support/boot_sector.ts";
import { qemuImg, qemuIo } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";
import { names } from "./_images.ts";

const NAMES = ["FULL-1700000000-d", "INC-1700000100-d", "INC-1700000200-d", "INC-1700000300-d"];

/** A full backup and three increments, without links: each has its own text. */
async function makeChain(dir: TempDir): Promise<string> {
  const folder = dir.join("disk0");
  await Deno.mkdir(folder);
  await Deno.writeFile(dir.join("raw"), bootDisk("point 0\n"));
  for (const [i, name] of NAMES.entries()) {
    const image = `${folder}/${name}`;
    if (i === 0) {
      await qemuImg(["convert", "-f", "raw", "-O", "qcow2", dir.join("raw"), image]);
      continue;
    }
    await qemuImg(["create", "-q", "-f", "qcow2", image, String(BOOT_DISK_BYTES)]);
    await Deno.writeFile(dir.join("text"), bootDisk(`point ${i}\n`).slice(TEXT_AT, TEXT_AT + 512));
    await qemuIo(image, "qcow2", `write -q -s ${dir.join("text")} ${TEXT_AT} 512`);
  }
  await Deno.remove(dir.join("raw"));
  await Deno.remove(dir.join("text"));
  return folder;
}

const test = (folder: string, ...words: string[]) => [
  ...["restore", "test", "--dir", folder, "--accel", "tcg", "--timeout", "60"],
  ...words,
];

Deno.test("`restore test` boots the points of a full backup and three increments", async (t) => {
  await using dir = await tempDir();
  const folder = await makeChain(dir);
  const before = await mustRun("sha256sum", NAMES, { cwd: folder });

  for (const [i, name] of NAMES.entries()) {
    await t.step(`${name}, which prints its own text`, async () => {
      const words = ["--expect", `point ${i}`, "--until", name, "--json"];
      const { stdout } = await succeed(test(folder, ...words));
      const summary = JSON.parse(stdout);
      assertEquals([summary.state, summary.images], ["booted", [name]]);
    });
  }

  await t.step("the newest, until it shuts down, with a picture and metrics", async () => {
    const metrics = dir.join("metrics");
    const words = ["--screenshot", dir.join("screen.png"), "--metrics-file", metrics];
    const { stdout } = await succeed(test(folder, "--wait-for", "shutdown", ...words));
    assertStringIncludes(stdout, "boots: the guest shut down after");
    // QEMU before 7.1 knows PPM alone.
    const path = /^Screenshot: (.*)$/m.exec(stdout)?.[1] ?? "";
    const start = new TextDecoder().decode((await Deno.readFile(path)).slice(0, 4));
    assertMatch(start, path.endsWith(".png") ? /PNG/ : /^P6/);
    assertStringIncludes(await Deno.readTextFile(metrics), 'qmpbackup_boot_test_ok{vm="disk0"');
  });

  await t.step("and fails where the sign of life does not come, with the last lines", async () => {
    const wrong: [words: string[], says: string][] = [
      [["--expect", "point 2"], "before the text on the serial console came"],
      [[], "before the guest agent's answer came"],
    ];
    for (const [words, says] of wrong) {
      const { code, stdout } = await tool(test(folder, ...words));
      assertEquals(code, 1);
      assertStringIncludes(stdout, says);
      assertStringIncludes(stdout, "\n  point 3\n");
    }
  });

  await t.step("but nothing that it can't boot, or is told twice", async () => {
    const wrong: [words: string[], code: number, says: string][] = [
      [["--firmware", dir.join("none.fd")], 2, "which is not on this host"],
      [["--expect", "x", "--wait-for", "agent"], 2, "don't go together"],
    ];
    for (const [words, code, says] of wrong) {
      const result = await tool(test(folder, ...words));
      assertEquals(result.code, code);
      assertStringIncludes(result.stderr, says);
    }
  });

  // The images are as they were, nothing is open any more, and each boot has its result.
  assertEquals(await mustRun("sha256sum", NAMES, { cwd: folder }), before);
  assertEquals((await names(`${folder}/${BOOTED_FOLDER}`)).length, NAMES.length + 3);
  assert(!(await names(`${folder}/_qmpbackup`)).includes("attached"), ATTACHED_FOLDER);
});

Deno.test("`restore test --wait-for exit` does as the guest says", async () => {
  await using dir = await tempDir();
  for (const [value, code, says] of [[0, 0, "exited with 0"], [7, 1, "exited with 7"]] as const) {
    const folder = dir.join(`disk${value}`);
    await Deno.mkdir(folder);
    await Deno.writeFile(dir.join("raw"), bootDisk("tested\n", value));
    await qemuImg([
      ...["convert", "-f", "raw", "-O", "qcow2", dir.join("raw"), `${folder}/${NAMES[0]}`],
    ]);
    const result = await tool(test(folder, "--wait-for", "exit"));
    assertEquals(result.code, code, result.stderr);
    assertStringIncludes(result.stdout, says);
  }
});

Deno.test("a VM that is started as `restore attach` says boots the newest point", async () => {
  await using dir = await tempDir();
  const folder = await makeChain(dir);
  const attach = ["restore", "attach", "--dir", folder];
  const { stdout } = await succeed([...attach, "--json", "--target-dir", dir.join("try")]);
  const { commands } = JSON.parse(stdout);
  const [vm] = commands as { line: string }[];
  // A test has no screen, and no KVM.
  const line = `${vm?.line.replace("-accel kvm ", "")} -display none -serial stdio`;
  assertStringIncludes(await mustRun("sh", ["-c", line]), "point 3\n");
  await succeed([...attach, "--detach", "all"]);
  assertEquals(await names(dir.join("try")), []);
});
