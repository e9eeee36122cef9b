import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { BINARY_RIGHTS } from "../support/program.ts";
import { compare, create } from "../support/qemu_img.ts";
import { type Scene, scene } from "../support/scene.ts";
import { leaveDeadRun } from "../support/next_run.ts";
import { tempDir } from "../support/temp_dir.ts";
import { topic } from "../support/readme.ts";
import { ended, succeed, type ToolResult } from "../support/tool.ts";
import type { DiskSpec } from "../support/vm.ts";

const ROOT = fromFileUrl(new URL("../../", import.meta.url));

/** Deno 2.4 asks for no right to the network for a unix socket, and does not know its name. */
const IS_OLD = Deno.version.deno.startsWith("2.4.");

/** The list in the topic "permissions": subcommands, and the flags for them. */
async function rightsOfTopic(): Promise<Map<string, string[]>> {
  const text = (await topic("permissions")).replaceAll(/\n {2}(?=`)/g, " ");
  const words = (text: string) => [...text.matchAll(/`([^`]+)`/g)].map(([, word = ""]) => word);
  const items = text.matchAll(/^- (`[^-][^:\n]*`): ((?:`--allow-[^`]*` ?)+)$/gm);
  return new Map(
    [...items].flatMap(([, subcommands = "", flags = ""]) =>
      words(subcommands).map((subcommand): [string, string[]] => [subcommand, words(flags)])
    ),
  );
}

async function run(rights: string[], args: string[]): Promise<ToolResult> {
  const flags = ["run", "--no-prompt", "--quiet", ...rights, `${ROOT}main.ts`, ...args];
  const child = new Deno.Command(Deno.execPath(), {
    args: flags,
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  return await ended(child);
}

/** All ways to have one right less: a flag that is gone, or one of the things it lists. */
function lessRights(rights: string[]): { rights: string[]; flag: string }[] {
  return rights.flatMap((right, i) => {
    const [flag = "", list] = right.split("=");
    const values = list?.split(",") ?? [""];
    return values.map((_, j) => {
      const rest = values.toSpliced(j, 1);
      const less = rest.length > 0 ? [`${flag}=${rest.join(",")}`] : [];
      return { flag, rights: rights.toSpliced(i, 1, ...less) };
    });
  });
}

interface Given {
  s: Scene;
  target: string;
  out: string;
}

/** The rest of each command line. */
const LINES: Record<string, (given: Given) => string[]> = {
  "backup": ({ s, target }) => ["--socket", s.vm.socket, "--level", "inc", "--target", target],
  "restore merge": ({ target, out }) => ["--dir", target, "--target-dir", out],
  "restore vm": ({ target, out }) => ["--dir", target, "--target-dir", out],
  "restore verify": ({ target }) => ["--dir", target],
  "restore attach": ({ target, out }) => ["--dir", target, "--target-dir", out],
  "restore rollback": ({ s, target }) => [
    ...["--socket", s.vm.socket, "--dir", target, "--until", "2100-01-01"],
  ],
  "restore rebase": ({ target }) => ["--dir", `${target}/disk0`],
  "restore commit": ({ target }) => ["--dir", `${target}/disk0`],
  "restore snapshotrebase": ({ target }) => ["--dir", `${target}/disk0`],
  "info --show blockdev": ({ s }) => ["--socket", s.vm.socket],
  "info --show bitmaps": ({ s }) => ["--socket", s.vm.socket],
  "info --show backups": ({ target }) => ["--dir", target],
  "list": ({ target }) => ["--dir", target],
  "cleanup --remove-bitmap": ({ s }) => ["--socket", s.vm.socket],
  "cleanup --prune": ({ target }) => ["--target", target, "--keep-last", "1"],
  "cleanup --recover": ({ s, target }) => ["--socket", s.vm.socket, "--target", target],
};

/** A scene with a full backup and an increment; disks, target and restored files in folders of their own. */
async function backedUp(): Promise<Scene> {
  await using stack = new AsyncDisposableStack();
  const s = stack.use(await scene({ disks: 1, diskBytes: 32 << 20, diskFolder: "disks" }));
  await succeed(s.backupArgs("full"));
  await s.vm.write("vd0", 0x41, 0, 1 << 20);
  await succeed(s.backupArgs("inc"));
  await s.vm.write("vd0", 0x42, 1 << 20, 1 << 20);
  stack.move();
  return s;
}

for (const [subcommand, line] of Object.entries(LINES)) {
  Deno.test(`\`${subcommand}\` needs just the rights that \`permissions\` says`, async (t) => {
    await using s = await backedUp();
    await s.remember("now");
    if (subcommand === "cleanup --recover") await leaveDeadRun(s);
    const given = { s, target: s.target, out: s.dir.join("out") };
    await Deno.mkdir(given.out);
    const paths: Record<string, string> = {
      SOCKET: s.vm.socket,
      TARGET: given.target,
      DISKS: s.dir.join("disks"),
      OUT: given.out,
    };
    const rights = (await rightsOfTopic()).get(subcommand)
      ?.filter((flag) => !IS_OLD || !flag.startsWith("--allow-net=unix:"))
      .map((flag) => flag.replaceAll(/[A-Z]{3,}/g, (name) => paths[name] ?? name));
    assert(rights, "in the list");
    const args = [...subcommand.split(" "), ...line(given)];
    for (const less of lessRights(rights)) {
      await t.step(`without one of ${less.flag}`, async () => {
        const { code, stderr } = await run(less.rights, args);
        assert(code === 1 || code === 2, stderr);
        assertMatch(stderr, /^Error: [^\n]+\n(?!.)/m);
        assertStringIncludes(stderr, `add ${less.flag}`);
        assert(!/\n\s+at |bug of qmpbackup/.test(stderr), stderr);
      });
    }
    await t.step("with all of them", async () => {
      const { code, stderr } = await run(rights, args);
      assertEquals(code, 0, stderr);
      if (subcommand === "backup") await s.assertRestores("now");
    });
  });
}

Deno.test("`permissions` lists no rights that are not tested", async () => {
  assertEquals([...(await rightsOfTopic()).keys()].sort(), Object.keys(LINES).sort());
});

Deno.test("what `permissions` says that flags need on top is enough", async () => {
  await using s = await backedUp();
  const hook = s.dir.join("hook");
  await Deno.writeTextFile(hook, "#!/bin/sh\nexec cat >/dev/null\n", { mode: 0o755 });
  const folders = ["metrics", "log"].map((name) => s.dir.join(name));
  for (const folder of folders) await Deno.mkdir(folder);
  const paths = [s.vm.socket, s.target, s.dir.join("disks")];
  const rights = [
    `--allow-read=${[...paths, hook, ...folders]}`,
    `--allow-write=${[...paths, ...folders]}`,
    "--allow-run=qemu-img,timeout",
    "--allow-sys=hostname,statfs",
    ...(IS_OLD ? [] : [`--allow-net=unix:${s.vm.socket}`]),
  ];
  const files = folders.map((folder) => `${folder}/file`);
  const args = s.backupArgs("inc", "--before", hook, "--after", hook, "--strict");
  const [metrics = "", logfile = ""] = files;
  const all = [...args, "--metrics-file", metrics, "--logfile", logfile];
  const { code, stderr } = await run(rights, all);
  assertEquals(code, 0, stderr);
  for (const file of files) assert((await Deno.readTextFile(file)).length > 0, file);
});

Deno.test("what prints completions, help, the manual or the units needs no rights", async () => {
  for (const args of [["completions", "bash"], ["manual"], ["units"], ["help", "failures"]]) {
    const { code, stderr, stdout } = await run([], args);
    assertEquals([code, stderr], [0, ""]);
    assert(stdout.length > 1000);
  }
  await using root = await tempDir();
  const { code, stderr } = await run(
    [`--allow-read=${root.path}`, `--allow-write=${root.path}`],
    ["units", "--root", root.path],
  );
  assertEquals(code, 0, stderr);
});

Deno.test("a guard that may not be started is named, with the flag", async () => {
  await using s = await backedUp();
  const args = [...s.backupArgs("inc"), "--pause", "--strict"];
  const rights = ["--allow-read", "--allow-write", "--allow-net", "--allow-sys=hostname,statfs"];
  const { code, stderr } = await run([...rights, "--allow-run=qemu-img"], args);
  assertEquals(code, 3, stderr);
  assertStringIncludes(stderr, `add --allow-run=${Deno.execPath()}`);
  const both = await run([...rights, `--allow-run=qemu-img,${Deno.execPath()}`], args);
  assertEquals([both.code, both.stderr.includes("guard")], [0, false], both.stderr);
});

Deno.test("a link that could not be made is refused before anything is", async () => {
  await using s = await scene({ disks: 1 });
  const args = s.backupArgs("full", "--no-timestamp");
  const rights = ["--allow-net", "--allow-run=qemu-img", "--allow-sys=hostname,statfs"];
  const scoped = [`--allow-read=${s.dir.path}`, `--allow-write=${s.dir.path}`];
  const { code, stderr } = await run([...rights, ...scoped], args);
  assertEquals(code, 1);
  assertStringIncludes(stderr, "add --allow-read\n");
  await s.remember("full");
  const all = await run([...rights, "--allow-read", "--allow-write"], args);
  assertEquals(all.code, 0, all.stderr);
  await compare(s.dir.join("full.vd0.raw"), "raw", `${s.target}/disk0/disk0.qcow2`, "qcow2");
});

Deno.test({
  name: "`deno run -P` gives the rights of the binary",
  ignore: IS_OLD,
  async fn() {
    await using s = await scene({ disks: 1 });
    const { code, stderr } = await run(["-P"], s.backupArgs("full", "--strict"));
    assertEquals(code, 0, stderr);
  },
});

/** A device with these contents, where it may be made; else a file in a place as hard to reach. */
async function deviceOf(
  file: string,
): Promise<Pick<DiskSpec, "path" | "protocol"> & AsyncDisposable> {
  const losetup = (...args: string[]) =>
    new Deno.Command("losetup", { args }).output().catch(() => null);
  const made = await losetup("--find", "--show", file);
  if (made?.success) {
    const path = new TextDecoder().decode(made.stdout).trim();
    return {
      ...{ path, protocol: "host_device" } as const,
      [Symbol.asyncDispose]: async () => void await losetup("--detach", path),
    };
  }
  const path = await Deno.makeTempFile({ dir: "/dev/shm" });
  await Deno.copyFile(file, path);
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path) };
}

Deno.test("a disk on a block device is backed up with the rights of the binary", async () => {
  await using s = await scene({ disks: 1 });
  const file = s.dir.join("device");
  await create(file, 32 << 20, { format: "raw" });
  await using device = await deviceOf(file);
  await s.vm.addDisk({ id: "vd1", node: "disk1", format: "raw", ...device });
  for (const level of ["full", "inc"]) {
    await s.vm.write("vd1", level.length, 1 << 20, 1 << 20);
    await s.vm.snapshotContents("vd1", s.dir.join(level));
    const { code, stderr } = await run([BINARY_RIGHTS], s.backupArgs(level, "--include-raw"));
    assertEquals(code, 0, stderr);
    assertMatch(
      stderr,
      /What the guest overwrites on disk1 is kept on the target during the backup/,
    );
    const restored = s.dir.join(`${level}.raw`);
    const args = ["--dir", `${s.target}/disk1`, "--format", "raw", "--targetfile", restored];
    await succeed(["restore", "merge", ...args]);
    await compare(s.dir.join(level), "raw", restored, "raw");
  }
});

Deno.test("a hook that may not be run, and a log that may not be sent, are named with the flag", async () => {
  await using s = await scene({ disks: 1 });
  const rights = ["--allow-read", "--allow-write", "--allow-net", "--allow-sys=hostname,statfs"];
  for (const [program, ...more] of [["timeout", "--before", "/bin/true"], ["logger", "--syslog"]]) {
    const { code, stderr } = await run(
      [...rights, "--allow-run=qemu-img"],
      s.backupArgs("full", ...more),
    );
    assertEquals(code, 1, stderr);
    assertStringIncludes(stderr, `add --allow-run=${program}\n`);
  }
});
