import { assertEquals, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { createTarget } from "../../src/repo/repository.ts";
import { writeRestoreFile } from "../../src/repo/restore_file.ts";
import { tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { deadline } from "../support/deadline.ts";

const SUBDIR = [aRun([aDiskRecord("disk0")])];
const NO_SUBDIR = [aRun([aDiskRecord("disk0", { folder: ".", file: "FULL-1-disk0" })])];

/** The names in a folder, sorted. */
const namesIn = async (path: string) =>
  (await Array.fromAsync(Deno.readDir(path), ({ name }) => name)).sort();

Deno.test("writeRestoreFile() writes over no file of somebody else's", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  for (const present of ["my notes", "", "x".repeat(2 << 20)]) {
    await Deno.writeTextFile(dir.join("RESTORE.txt"), present);
    await writeRestoreFile(deadline, dir.path, SUBDIR);
    assertEquals(await Deno.readTextFile(dir.join("RESTORE.txt")), present);
    assertStringIncludes(await Deno.readTextFile(dir.join("_qmpbackup/RESTORE.txt")), "disk0");
  }
});

Deno.test("writeRestoreFile() moves among the records when images come to lie beside it", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  await writeRestoreFile(deadline, dir.path, SUBDIR);
  await writeRestoreFile(deadline, dir.path, SUBDIR);
  assertEquals(await namesIn(dir.path), ["RESTORE.txt", "_qmpbackup"]);
  await writeRestoreFile(deadline, dir.path, [...SUBDIR, ...NO_SUBDIR]);
  assertEquals(await namesIn(dir.path), ["_qmpbackup"]);
  assertEquals(await namesIn(join(dir.path, "_qmpbackup")), ["RESTORE.txt", "runs"]);
});
