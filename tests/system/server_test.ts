import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ensurePrograms } from "../support/install_qemu.ts";
import { mustRun, run } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { succeed, tool } from "../support/tool.ts";

await ensurePrograms({ groff: "groff-base", mandoc: "mandoc", "systemd-analyze": "systemd" });

Deno.test("manual: groff and mandoc have nothing to say against it", async () => {
  await using dir = await tempDir();
  const page = dir.join("qmpbackup.1");
  await Deno.writeTextFile(page, (await succeed(["manual"])).stdout);
  const groff = await run("groff", ["-man", "-Tutf8", "-ww", page]);
  assertEquals([groff.code, groff.stderr], [0, ""]);
  const mandoc = await run("mandoc", ["-T", "lint", page]);
  assertEquals([mandoc.code, mandoc.stdout, mandoc.stderr], [0, "", ""]);
  const shown = await mustRun("mandoc", ["-T", "ascii", page]);
  // What is struck over to be bold, is plain.
  const text = shown.replace(/.[\b]/g, "").replace(/\s+/g, " ");
  assertStringIncludes(text, "-t, --target DIR where the backups go; made if missing");
  assertStringIncludes(text, 'a local time such as "2026-11-22 23:00" (the newest image;');
});

/** The units in a folder, with a program in the place of ours, which is not installed here. */
async function writtenUnits(root: string): Promise<string[]> {
  await succeed(["units", "--root", root]);
  const folder = `${root}/etc/systemd/system`;
  const services = ["qmpbackup", "qmpbackup-verify"].map((name) => `${folder}/${name}@.service`);
  for (const service of services) {
    const text = await Deno.readTextFile(service);
    await Deno.writeTextFile(service, text.replace("/usr/local/bin/qmpbackup", Deno.execPath()));
  }
  return [...services, ...services.map((service) => service.replace(/service$/, "timer"))];
}

Deno.test("units: systemd has nothing to say against them", async () => {
  await using dir = await tempDir();
  const files = await writtenUnits(dir.path);
  const { code, stdout, stderr } = await run("systemd-analyze", ["verify", "--man=no", ...files]);
  assertEquals([code, stdout, stderr], [0, "", ""]);
});

Deno.test("units: an instance that goes astray can do little", async () => {
  await using dir = await tempDir();
  for (const service of (await writtenUnits(dir.path)).slice(0, 2)) {
    const args = ["security", "--offline=true", "--no-pager", "--threshold=26", service];
    const { code, stdout, stderr } = await run("systemd-analyze", args);
    assertEquals(code, 0, stderr + stdout);
    assertMatch(stdout, /Overall exposure level .*: [12]\.\d/);
  }
});

Deno.test("units --root overwrites nothing, and then writes nothing", async () => {
  await using dir = await tempDir();
  const timer = dir.join("etc/systemd/system/qmpbackup@.timer");
  await Deno.mkdir(dir.join("etc/systemd/system"), { recursive: true });
  await Deno.writeTextFile(timer, "mine");
  const { code, stderr } = await tool(["units", "--root", dir.path]);
  assertEquals(code, 2);
  assertStringIncludes(stderr, `"${timer}" exists already, and is not overwritten`);
  assertEquals(await Deno.readTextFile(timer), "mine");
  assertEquals((await Array.fromAsync(Deno.readDir(dir.join("etc/systemd/system")))).length, 1);
});

Deno.test("units --root names what it wrote, which is what it prints without", async () => {
  await using dir = await tempDir();
  const { stdout } = await succeed(["units", "--root", dir.path]);
  const printed = (await succeed(["units"])).stdout;
  const paths = stdout.trim().split("\n");
  assertEquals(paths.length, 5);
  for (const path of paths) {
    assert(path.startsWith(dir.path));
    const text = `# ${path.slice(dir.path.length)}\n${await Deno.readTextFile(path)}`;
    assertStringIncludes(printed, text);
  }
});
