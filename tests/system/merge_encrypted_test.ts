/**
 * A prune of encrypted increments: QEMU calls an image otherwise once it is told a key, and zeroes in an increment
 * hide what lies below it.
 *
 * @module
 */

import { assertEquals } from "@std/assert";
import { mergeImages } from "../../src/prune/merge_images.ts";
import { keyObject } from "../../src/qemu_img/key.ts";
import { chainSource } from "../../src/qemu_img/chain_source.ts";
import { createQcow2, linkImage } from "../../src/qemu_img/qemu_img.ts";
import type { DiskRecord } from "../../src/repo/record.ts";
import { requireImage } from "../../src/restore/require_image.ts";
import { deadline } from "../support/deadline.ts";
import { qemuImg } from "../support/qemu_img.ts";
import { mustRun } from "../support/run.ts";
import { tempDir } from "../support/temp_dir.ts";

const NAMES = ["full", "inc1", "inc2", "inc3"] as const;
type Name = typeof NAMES[number];

/** What a guest wrote before each backup; a `-z` write leaves zero clusters. */
const WRITES: Record<Name, string[]> = {
  full: ["write -P 0x11 0 16M"],
  inc1: ["write -z 0 2M", "write -P 0x22 20M 1M", "write -P 0x23 6M 1M"],
  inc2: ["write -z 4M 1M", "write -z 20M 512k", "write -P 0 8M 1M"],
  inc3: ["write -P 0x44 1M 64k"],
};

Deno.test("encrypted increments are merged, and read as before", async () => {
  await using dir = await tempDir();
  const keyFile = dir.join("key");
  await Deno.writeTextFile(keyFile, "0123456789abcdef0123456789abcdef", { mode: 0o600 });
  await Deno.mkdir(dir.join("disk0"));
  const fileOf = (name: Name) => dir.join("disk0", `${name}.qcow2`);
  const source = (names: readonly Name[]) => {
    const paths = names.map(fileOf);
    return chainSource(paths, new Set(paths));
  };
  const read = async (...names: Name[]) => {
    const output = dir.join("output");
    await qemuImg(["convert", "--object", keyObject(keyFile), "-O", "raw", source(names), output]);
    return await mustRun("sha256sum", [output]);
  };
  const recorded = async (name: Name) => {
    const { fingerprint } = await requireImage(deadline, fileOf(name));
    return { file: `disk0/${name}.qcow2`, encrypted: true, fingerprint } as DiskRecord;
  };
  const signal = new AbortController().signal;
  const merge = async (names: Name[], parent: Name | null) => {
    const layers: DiskRecord[] = [];
    for (const name of names) layers.push(await recorded(name));
    await using merged = await mergeImages(layers, parent && await recorded(parent), {
      ...{ deadline, target: dir.path, rateLimitBytesPerSecond: 0, keyFile, signal },
    });
    await merged.publish(fileOf(names.at(-1) as Name));
  };

  for (const [i, name] of NAMES.entries()) {
    const [path, parent] = [fileOf(name), NAMES[i - 1]];
    await createQcow2(deadline, path, { virtualSizeBytes: 32 << 20 }, { keyFile });
    const commands = WRITES[name].flatMap((command) => ["-c", command]);
    const chain = source(NAMES.slice(0, i + 1));
    await mustRun("qemu-io", ["--object", keyObject(keyFile), ...commands, chain]);
    if (parent) await linkImage(deadline, path, `${parent}.qcow2`, { keyFile });
  }
  const before = [await read("full", "inc1", "inc2"), await read(...NAMES)];

  await merge(["inc1", "inc2"], "full");
  assertEquals([await read("full", "inc2"), await read("full", "inc2", "inc3")], before);
  const info = JSON.parse(await qemuImg(["info", "--output=json", fileOf("inc2")]));
  assertEquals([info.encrypted, info["backing-filename"]], [true, "full.qcow2"]);

  await merge(["full", "inc2"], null);
  assertEquals([await read("inc2"), await read("inc2", "inc3")], before);
});
