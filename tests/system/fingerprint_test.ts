import { assert, assertEquals, assertNotEquals, assertStringIncludes } from "@std/assert";
import {
  type Fingerprint,
  type ImageLook,
  isFault,
  lookAtImage,
  sealImage,
} from "../../src/repo/fingerprint.ts";
import { compare, create, qemuImg, qemuIo } from "../support/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;

async function seen(path: string, recorded?: Fingerprint): Promise<ImageLook> {
  const look = await lookAtImage(deadline, path, recorded);
  assert(!isFault(look), JSON.stringify(look));
  return look;
}

async function reason(path: string, recorded?: Fingerprint): Promise<string> {
  const look = await lookAtImage(deadline, path, recorded);
  assert(isFault(look));
  return look.reason;
}

async function image(path: string) {
  await create(path, 64 * MIB);
  await qemuIo(path, "qcow2", "write -P 0x11 3M 2M");
}

Deno.test("`lookAtImage()` sees the same in a copy, and says what the header does", async () => {
  await using dir = await tempDir();
  await image(dir.join("a"));
  await create(dir.join("b"), 64 * MIB, { backing: "a" });
  await Deno.copyFile(dir.join("b"), dir.join("copy"));
  const { fingerprint, backing, virtualSizeBytes } = await seen(dir.join("b"));
  assertEquals([backing, virtualSizeBytes], ["a", 64 * MIB]);
  assertEquals((await seen(dir.join("copy"), fingerprint)).fingerprint, fingerprint);
  assertEquals(fingerprint.sizeBytes, (await Deno.stat(dir.join("b"))).size);
});

Deno.test("`sealImage()` makes equal images differ, and reading leaves a seal", async () => {
  await using dir = await tempDir();
  await image(dir.join("a"));
  await Deno.copyFile(dir.join("a"), dir.join("b"));
  for (const name of ["a", "b"]) await sealImage(deadline, dir.join(name));
  const { fingerprint } = await seen(dir.join("a"));
  assertNotEquals((await seen(dir.join("b"))).fingerprint.digest, fingerprint.digest);
  await qemuImg(["check", "-q", dir.join("a")]);
  await compare(dir.join("a"), "qcow2", dir.join("b"), "qcow2");
  await create(dir.join("overlay"), 64 * MIB, { backing: "a" });
  await qemuIo(dir.join("overlay"), "qcow2", "write -P 0x22 0 64k");
  await seen(dir.join("a"), fingerprint);
  // Opened for writing, and nothing written.
  await qemuIo(dir.join("a"), "qcow2", "read 0 64k");
  assertStringIncludes(await reason(dir.join("a"), fingerprint), "was changed");
});

Deno.test("`lookAtImage()` sees a write without a seal, too, where it needs room or hits the beginning", async () => {
  await using dir = await tempDir();
  for (const command of ["write -P 0x22 20M 64k", "write -P 0x22 3M 512", "write -z 3M 1M"]) {
    const path = dir.join(crypto.randomUUID());
    await image(path);
    const { fingerprint } = await seen(path);
    await qemuIo(path, "qcow2", command);
    assertStringIncludes(await reason(path, fingerprint), "was changed");
  }
});

Deno.test("`lookAtImage()` names what is not an image of ours", async () => {
  await using dir = await tempDir();
  const path = dir.join("x");
  const says = async (text: string) => {
    assertStringIncludes(await reason(path), text);
    await Deno.remove(path, { recursive: true });
  };
  assertEquals(await lookAtImage(deadline, path), { state: "missing", reason: "is missing" });
  assertEquals(await lookAtImage(deadline, `${path}/y`), {
    state: "missing",
    reason: "is missing",
  });
  await Deno.mkdir(path);
  await says("is not a regular file");
  await new Deno.Command("mkfifo", { args: [path] }).output();
  await says("is not a regular file");
  await Deno.symlink("/dev/zero", path);
  await says("is a symbolic link");
  await Deno.writeFile(path, new Uint8Array(MIB));
  await says("is not a qcow2 image");
  await Deno.writeFile(path, new Uint8Array(0));
  await says("is not a qcow2 image");
  await create(path, MIB, { options: [`data_file=${dir.join("data")}`] });
  await says("keeps its data in another file");
});

Deno.test("`lookAtImage()` reads little, whatever a header says", async () => {
  await using dir = await tempDir();
  const path = dir.join("x");
  for (const byte of [0x00, 0x7f, 0xff]) {
    await create(path, MIB);
    using file = await Deno.open(path, { write: true });
    await file.truncate(2 ** 40);
    // Offsets and counts of everything; the features stay.
    for (const [offset, length] of [[8, 12], [36, 24]] as const) {
      await file.seek(offset, Deno.SeekMode.Start);
      await file.write(new Uint8Array(length).fill(byte));
    }
    const before = await bytesRead();
    await seen(path);
    assert(await bytesRead() - before < 64 << 10);
    await Deno.remove(path);
  }
});

/** What this process has read so far (proc(5), `rchar`). */
async function bytesRead(): Promise<number> {
  return Number(/^rchar: (\d+)/m.exec(await Deno.readTextFile("/proc/self/io"))?.[1]);
}
