import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { compare } from "../support/qemu_img.ts";
import { topic } from "../support/readme.ts";
import { type Scene, scene } from "../support/scene.ts";
import { succeed } from "../support/tool.ts";

/** A command line as it is written, for this VM's target and folders. */
function argsOf(line: string, s: Scene): string[] {
  const [program, ...words] = line.split(/\s+/);
  assertEquals(program, "qmpbackup", line);
  return words.map((word) =>
    word.replace(/^\/backup\/vm1/, s.target).replace(/^\/backup/, s.dir.path)
      .replace(/^\/(vm|var\/www\/html)\//, `${s.dir.path}/`)
  );
}

async function linesOfReadme(): Promise<string[]> {
  const readme = await Deno.readTextFile(new URL("../../README.md", import.meta.url));
  const day2 = readme.split("## Day 2")[1]?.split("\n## ")[0] ?? "";
  return [...day2.matchAll(/`(qmpbackup [^`…]*)`/g)].map(([, line = ""]) => line);
}

Deno.test("README's commands of day 2 do what they say, as they are written", async () => {
  await using s = await scene({ disks: 1 });
  await s.remember("full");
  await succeed(s.backupArgs("full"));
  const lines = await linesOfReadme();
  assert(lines.length >= 5, lines.join());
  const restored: string[] = [];
  for (const line of lines) {
    const args = argsOf(line, s);
    await succeed(args);
    if (args.includes("--target-dir")) restored.push(args.at(args.indexOf("--target-dir") + 1)!);
  }
  assertEquals(restored.length, 2);
  for (const folder of restored) {
    await compare(s.dir.join("full.vd0.raw"), "raw", join(folder, "disk0.qcow2"), "qcow2");
  }
});

Deno.test("the commands of the topic day-2 do what they say, as they are written", async () => {
  await using s = await scene({ disks: 1 });
  for (const level of ["full", "inc"]) await succeed(s.backupArgs(level));
  const blocks = [...(await topic("day-2")).matchAll(/^```sh\n(.*?)^```/gms)];
  const lines = blocks.flatMap(([, text = ""]) => text.trimEnd().split("\n"))
    .map((line) => line.replace(/ *#.*/, ""));
  assert(lines.length >= 7, lines.join());
  for (const line of lines) {
    const { stdout } = await succeed(argsOf(line, s));
    if (line.includes("--nagios")) assert(stdout.startsWith("QMPBACKUP OK"), stdout);
  }
});
