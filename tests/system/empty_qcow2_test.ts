import { assertEquals } from "@std/assert";
import { type EmptyQcow2, emptyQcow2 } from "../../src/qcow2/empty.ts";
import { checkImage, createQcow2, imageFacts } from "../../src/qemu_img/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { deadline } from "../support/deadline.ts";

const TIB = 2 ** 40;

for (
  const [virtualSizeBytes, clusterSizeBytes] of [
    ...[[0, 65536], [512, 65536], [64 << 20, 65536], [TIB + 512, 65536], [63 * TIB, 65536]],
    ...[[TIB, 2 << 20], [TIB, 4096], [12345 * 512, 131072]],
  ] as [number, number][]
) {
  Deno.test(`\`emptyQcow2()\` of ${virtualSizeBytes} bytes in clusters of ${clusterSizeBytes} is sound, and holds zeroes and what is written`, async () => {
    await using dir = await tempDir();
    const path = dir.join("empty.qcow2");
    await Deno.writeFile(path, emptyQcow2({ virtualSizeBytes, clusterSizeBytes }));
    // Leaks, too: `checkImage()` lets those pass.
    const run = async (program: string, ...args: string[]) => {
      const { code, stdout, stderr } = await new Deno.Command(program, { args }).output();
      const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
      assertEquals(code, 0, decode(stdout) + decode(stderr));
      return decode(stdout);
    };
    await run("qemu-img", "check", path);
    await checkImage(deadline, path);
    const facts = await imageFacts(deadline, path);
    assertEquals([facts.virtualSizeBytes, facts.backing], [virtualSizeBytes, null]);
    const { "cluster-size": size } = JSON.parse(
      await run("qemu-img", "info", "--output=json", path),
    );
    assertEquals(size, clusterSizeBytes);
    if (virtualSizeBytes === 0) return;
    const end = virtualSizeBytes - 512;
    await run("qemu-io", "-c", `read -P 0 0 512`, "-c", `read -P 0 ${end} 512`, path);
    await run("qemu-io", "-c", `write -P 7 ${end} 512`, "-c", `read -P 7 ${end} 512`, path);
    await run("qemu-img", "check", path);
  });
}

for (
  const [what, image] of [
    ["nothing said", { virtualSizeBytes: 64 << 20 }],
    ["a size that is not a multiple of a sector", { virtualSizeBytes: (64 << 20) + 1 }],
    ["a parent", { virtualSizeBytes: 64 << 20, backing: "FULL-1-\u00fc.qcow2" }],
    ["zstd", { virtualSizeBytes: 64 << 20, compressionType: "zstd" }],
    ["all of it", {
      ...{ virtualSizeBytes: 64 << 20, clusterSizeBytes: 4096, lazyRefcounts: true },
      ...{ compressionType: "zstd", backing: "./json:FULL-1.qcow2" },
    }],
  ] as [string, EmptyQcow2][]
) {
  Deno.test(`\`emptyQcow2()\` with ${what} is for QEMU what \`qemu-img create\` makes of it`, async () => {
    await using dir = await tempDir();
    const [ours, theirs] = [dir.join("ours.qcow2"), dir.join("theirs.qcow2")];
    await Deno.writeFile(ours, emptyQcow2(image));
    const { virtualSizeBytes } = image;
    await createQcow2(deadline, theirs, {
      ...image,
      virtualSizeBytes: Math.ceil(virtualSizeBytes / 512) * 512,
    });
    const seen = await Promise.all([ours, theirs].map((path) => info(path)));
    assertEquals(seen[0], seen[1]);
  });
}

/** What `qemu-img` says of an image, but for its name and how large its file is. */
async function info(path: string): Promise<unknown> {
  const args = ["info", "--output=json", "-f", "qcow2", path];
  const { stdout } = await new Deno.Command("qemu-img", { args }).output();
  const { filename: _name, "actual-size": _size, children: _children, ...rest } = JSON.parse(
    new TextDecoder().decode(stdout),
  );
  assertEquals(rest["virtual-size"] > 0, true);
  return rest;
}
