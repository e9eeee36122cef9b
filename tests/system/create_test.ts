import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { createFile, folderMode, makeFolder, refuseLink } from "../../src/fs/create.ts";
import { createFolders, createInside, replaceSymlink, writeDurably } from "../../src/fs/durable.ts";
import { holderNow, takeDeadLock, takeLock } from "../../src/fs/flock.ts";
import {
  createTarget,
  readTarget,
  refuseLinks,
  writeBeside,
  writeRun,
} from "../../src/repo/repository.ts";
import { Failure } from "../../src/errors.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { names } from "./_images.ts";
import { deadline } from "../support/deadline.ts";

const modeOf = async (path: string) => ((await Deno.lstat(path)).mode ?? 0) & 0o7777;

/** The umask of this process, until disposed. */
function umask(mask: number): Disposable {
  const before = Deno.umask(mask);
  return { [Symbol.dispose]: () => void Deno.umask(before) };
}

async function fifo(path: string) {
  const { success } = await new Deno.Command("mkfifo", { args: [path] }).output();
  assertEquals(success, true, path);
}

for (const [file, folder] of [[0o600, 0o700], [0o660, 0o770], [0o640, 0o750], [0o664, 0o775]]) {
  Deno.test(`\`folderMode()\` lets those enter who may read: ${file?.toString(8)}`, () => {
    assertEquals(folderMode(file ?? 0), folder);
  });
}

for (const mask of [0o000, 0o022, 0o077, 0o777]) {
  Deno.test(`what is made has the mode asked for at the umask ${mask.toString(8)}`, async () => {
    await using dir = await tempDir();
    using _mask = umask(mask);
    for (const mode of [0o600, 0o660, 0o644]) {
      await createFile(deadline, dir.join(`f${mode}`), mode);
      await makeFolder(deadline, dir.join(`d${mode}`), mode);
      await writeDurably(deadline, dir.join(`w${mode}`), "text", { mode });
      assertEquals(await modeOf(dir.join(`f${mode}`)), mode);
      assertEquals(await modeOf(dir.join(`w${mode}`)), mode);
      assertEquals(await modeOf(dir.join(`d${mode}`)), folderMode(mode));
    }
    await createFolders(deadline, dir.join("a", "b", "c"));
    for (const path of ["a", "a/b", "a/b/c"]) assertEquals(await modeOf(dir.join(path)), 0o700);
  });
}

Deno.test("a folder keeps the group of its parent, where that has the set-group-ID bit", async () => {
  await using dir = await tempDir();
  await Deno.chown(dir.path, null, 65534);
  await Deno.chmod(dir.path, 0o2770);
  await createInside(deadline, dir.join("disk0"), 0o660);
  await createTarget(deadline, dir.join("t"), 0o640);
  await createFile(deadline, dir.join("disk0", "f"), 0o660);
  const made: [string, number][] = [
    ["disk0", 0o2770],
    ["t", 0o2750],
    ["t/_qmpbackup/runs", 0o2750],
    ["disk0/f", 0o660],
  ];
  for (const [path, mode] of made) {
    assertEquals([await modeOf(dir.join(path)), (await Deno.stat(dir.join(path))).gid], [
      mode,
      65534,
    ]);
  }
});

Deno.test("`createFile()` never follows a link, dangling or not, and replaces nothing", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("file"), "precious");
  await Deno.symlink("file", dir.join("link"));
  await Deno.symlink("nowhere", dir.join("dangling"));
  for (const name of ["file", "link", "dangling"]) {
    await assertRejects(
      () => createFile(deadline, dir.join(name), 0o666),
      Deno.errors.AlreadyExists,
    );
  }
  assertEquals(await Deno.readTextFile(dir.join("file")), "precious");
  assertEquals(await names(dir.path), ["dangling", "file", "link"]);
});

Deno.test("`createInside()` takes a folder that is there, and nothing else", async () => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("folder"), { mode: 0o755 });
  await Deno.symlink("folder", dir.join("link"));
  await Deno.symlink("nowhere", dir.join("dangling"));
  await Deno.writeTextFile(dir.join("file"), "");
  await fifo(dir.join("pipe"));
  await createInside(deadline, dir.join("folder"));
  assertEquals(await modeOf(dir.join("folder")), 0o755);
  for (const name of ["link", "dangling", "file", "pipe"]) {
    const path = dir.join(name);
    const error = await assertRejects(() => createInside(deadline, path), Failure);
    assertStringIncludes(
      error.message,
      `"${path}" is ${/link|dang/.test(name) ? "a sym" : "not a folder made by qmpbackup"}`,
    );
  }
  assertEquals(await names(dir.path), ["dangling", "file", "folder", "link", "pipe"]);
});

Deno.test("`writeDurably()` replaces a link and a leftover, and keeps the mode of what is there", async () => {
  await using dir = await tempDir();
  await Deno.writeTextFile(dir.join("victim"), "precious");
  const path = dir.join("a.json");
  for (const planted of [path, `${path}.tmp`]) {
    await Deno.symlink("victim", planted);
    await writeDurably(deadline, path, "new");
    assertEquals([await Deno.readTextFile(path), await modeOf(path)], ["new", 0o600]);
    assertEquals(await Deno.readTextFile(dir.join("victim")), "precious");
    await Deno.remove(path);
  }
  await Deno.writeTextFile(`${path}.tmp`, "of a run that was killed, longer than the new one");
  await writeDurably(deadline, path, "new", { mode: 0o660 });
  await writeDurably(deadline, path, "newer");
  assertEquals([await Deno.readTextFile(path), await modeOf(path)], ["newer", 0o660]);
  await fifo(`${path}.tmp`);
  await writeDurably(deadline, path, "newest");
  assertEquals(await names(dir.path), ["a.json", "victim"]);
});

Deno.test("`replaceSymlink()` replaces links, and nothing else", async () => {
  await using dir = await tempDir();
  const path = dir.join("image");
  await Deno.symlink("leftover", `${path}.new`);
  for (const to of ["a", "b"]) {
    await replaceSymlink(deadline, path, to);
    assertEquals(await Deno.readLink(path), to);
  }
  await Deno.remove(path);
  await Deno.writeTextFile(path, "precious");
  await assertRejects(
    () => replaceSymlink(deadline, path, "a"),
    Failure,
    "is in the way of a link",
  );
  assertEquals(await Deno.readTextFile(path), "precious");
  assertEquals(await names(dir.path), ["image"]);
});

Deno.test("`writeBeside()` keeps what is not whole among the records", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  // Disks may be called so, where they have no folders.
  for (const name of ["uuid.tmp", "d.config.tmp"]) {
    await Deno.writeTextFile(dir.join(name), "an image");
  }
  await writeBeside(deadline, dir.path, "uuid", "id");
  await writeBeside(deadline, dir.path, "d.config", "{}", 0o640);
  assertEquals(await names(dir.path), [
    ...["_qmpbackup", "d.config", "d.config.tmp", "uuid", "uuid.tmp"],
  ]);
  assertEquals(await Deno.readTextFile(dir.join("uuid.tmp")), "an image");
  assertEquals(await modeOf(dir.join("d.config")), 0o640);
  assertEquals(await names(dir.join("_qmpbackup")), ["runs"]);
});

/** What may stand in the place of a lock, and what `takeLock()` says. */
const NO_LOCKS: Record<string, [plant: (path: string) => Promise<void>, says: string]> = {
  "a link": [(path) => Deno.symlink("victim", path), "is a symbolic link"],
  "a dangling link": [(path) => Deno.symlink("nowhere", path), "is a symbolic link"],
  "a pipe": [fifo, "is in the place of our lock"],
  "a folder": [(path) => Deno.mkdir(path), "is in the place of our lock"],
};
for (const [what, [plant, says]] of Object.entries(NO_LOCKS)) {
  Deno.test(`\`takeLock()\` and \`takeDeadLock()\` refuse ${what}`, async () => {
    await using dir = await tempDir();
    await Deno.writeTextFile(dir.join("victim"), "precious");
    await plant(dir.join("lock"));
    await assertRejects(
      () => takeLock(deadline, dir.join("lock"), holderNow("run-1")),
      Failure,
      says,
    );
    await assertRejects(() => takeDeadLock(deadline, dir.join("lock")), Failure, says);
    assertEquals(await names(dir.path), ["lock", "victim"]);
    assertEquals(await Deno.readTextFile(dir.join("victim")), "precious");
  });
}

Deno.test("`takeLock()` makes its file as it is told, and takes one whatever stands in it", async () => {
  await using dir = await tempDir();
  const path = dir.join("lock");
  {
    using _lock = await takeLock(deadline, path, holderNow("run-1"), 0o660);
    assertEquals(await modeOf(path), 0o660);
  }
  await Deno.truncate(path, 2 ** 40);
  using _lock = await takeLock(deadline, path, holderNow("run-2"));
  assertEquals((await Deno.stat(path)).size < 1000, true);
});

/** A target with one run of "disk0". */
async function targetDir(): Promise<TempDir> {
  const dir = await tempDir();
  await createTarget(deadline, dir.path);
  await writeRun(deadline, dir.path, aRun([aDiskRecord()]));
  await Deno.mkdir(dir.join("disk0"));
  return dir;
}

for (const name of ["_qmpbackup", "_qmpbackup/runs", "_qmpbackup/lock", "disk0"]) {
  Deno.test(`\`refuseLinks()\` names a link in the place of ${name}`, async () => {
    await using dir = await targetDir();
    await refuseLinks(deadline, await readTarget(deadline, dir.path));
    await using outside = await tempDir();
    const path = dir.join(name);
    await Deno.rename(path, outside.join("moved")).catch(() => {});
    await Deno.symlink(outside.join("moved"), path);
    const refuse = async () => await refuseLinks(deadline, await readTarget(deadline, dir.path));
    await assertRejects(refuse, Failure, `"${path}" is a symbolic link`);
  });
}

Deno.test("`refuseLinks()` lets pass what is nothing of ours, and a target that is a link", async () => {
  await using dir = await targetDir();
  await Deno.symlink("/etc", dir.join("disk7"));
  await Deno.symlink(dir.path, `${dir.path}.link`);
  try {
    await refuseLinks(deadline, await readTarget(deadline, `${dir.path}.link`));
    await refuseLink(deadline, dir.path);
  } finally {
    await Deno.remove(`${dir.path}.link`);
  }
});
