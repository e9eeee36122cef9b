import { assert, assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { DigestError } from "../../src/digest/format.ts";
import { digestFile } from "../../src/digest/digest.ts";
import { digestsFile, forgetDigest, readDigests, recordDigest } from "../../src/digest/store.ts";
import { Failure } from "../../src/errors.ts";
import { temporaries } from "../../src/repo/repository.ts";
import { create, qemuIo } from "../support/qemu_img.ts";
import { type TempDir, tempDir } from "../support/temp_dir.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;
const IMAGE = "disk0/FULL-1-a";

async function image(dir: TempDir): Promise<string> {
  await Deno.mkdir(dir.join("disk0"));
  const path = dir.join(IMAGE);
  await create(path, 64 * MIB);
  await qemuIo(path, "qcow2", "write -P 0x11 0 40M");
  return path;
}

/** Of each 16 MiB, as another program computes it. */
async function sha256sums(path: string): Promise<string[]> {
  const script = 'split -b 16M --filter=sha256sum "$1" | cut -c1-64';
  const { stdout } = await new Deno.Command("bash", { args: ["-c", script, "bash", path] })
    .output();
  return new TextDecoder().decode(stdout).trim().split("\n");
}

Deno.test("`recordDigest()` records what `sha256sum` says of each part", async () => {
  await using dir = await tempDir();
  const path = await image(dir);
  let readBytes = 0;
  await recordDigest(deadline, dir.path, IMAGE, { onBytes: (bytes) => readBytes += bytes });
  const digests = await readDigests(deadline, dir.path, IMAGE);
  assert(digests);
  assertEquals(digests.parts, await sha256sums(path));
  assertEquals(digests.parts.length, 3);
  assertEquals([readBytes, digests.fingerprint?.sizeBytes], [digests.sizeBytes, digests.sizeBytes]);
  assertEquals(await readDigests(deadline, dir.path, "disk0/FULL-2-a"), null);
  await forgetDigest(deadline, dir.path, IMAGE);
  await forgetDigest(deadline, dir.path, IMAGE);
  assertEquals(await readDigests(deadline, dir.path, IMAGE), null);
});

Deno.test("`digestFile()` differs in the part whose byte differs, and reads no further where it is told to stop", async () => {
  await using dir = await tempDir();
  const path = await image(dir);
  const before = await digestFile(deadline, path);
  const file = await Deno.open(path, { write: true });
  await file.seek(17 * MIB, Deno.SeekMode.Start);
  await file.write(new Uint8Array([0x10]));
  file.close();
  const after = await digestFile(deadline, path);
  assertEquals(after.parts.map((part, i) => part === before.parts[i]), [true, false, true]);
  assertNotEquals(after.parts[1], before.parts[1]);
  const stop = new AbortController();
  const onBytes = () => stop.abort(new Failure("Stopped"));
  await assertRejects(
    () => digestFile(deadline, path, { signal: stop.signal, onBytes }),
    Failure,
    "Stopped",
  );
});

Deno.test("`digestFile()` follows no link, and waits at no pipe", async () => {
  await using dir = await tempDir();
  await Deno.symlink(await image(dir), dir.join("link"));
  await new Deno.Command("mkfifo", { args: [dir.join("pipe")] }).output();
  for (const name of ["link", "pipe", "disk0"]) {
    await assertRejects(() => digestFile(deadline, dir.join(name)), Failure, "not a regular file");
  }
});

Deno.test("`readDigests()` refuses digests that were swapped, and what is not a file", async () => {
  await using dir = await tempDir();
  await image(dir);
  await recordDigest(deadline, dir.path, IMAGE);
  const other = digestsFile(dir.path, "disk0/b");
  await Deno.copyFile(digestsFile(dir.path, IMAGE), other);
  await assertRejects(
    () => readDigests(deadline, dir.path, "disk0/b"),
    DigestError,
    "to another image",
  );
  await Deno.remove(other);
  await Deno.symlink("FULL-1-a.json", other);
  await assertRejects(
    () => readDigests(deadline, dir.path, "disk0/b"),
    DigestError,
    "not a regular file",
  );
});

Deno.test("`temporaries()` finds what a run that was killed left of digests", async () => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("_qmpbackup", "runs"), { recursive: true });
  assertEquals(await temporaries(deadline, dir.path), []);
  await image(dir);
  await recordDigest(deadline, dir.path, IMAGE);
  const left = digestsFile(dir.path, IMAGE) + ".tmp";
  await Deno.writeTextFile(left, "{");
  await Deno.mkdir(dir.join("_qmpbackup", "verified"));
  const result = dir.join("_qmpbackup", "verified", "20261122T230000Z-00000000.json.tmp");
  await Deno.writeTextFile(result, "{");
  assertEquals(await temporaries(deadline, dir.path), [left, result]);
});
