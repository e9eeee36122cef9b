import { assertEquals } from "@std/assert";
import { chainSource } from "../../src/qemu_img/chain_source.ts";
import { mergeGroups } from "../../src/restore/groups.ts";
import type { Layer } from "../../src/restore/points.ts";
import { deadline } from "../support/deadline.ts";
import { qemuImg } from "../support/qemu_img.ts";
import { tempDir } from "../support/temp_dir.ts";
import { firstDifference, KIB, makeLayer, names, type Write } from "./_images.ts";

const MIB = 1024 * KIB;

/** A disk that grows and shrinks, with zeroes that hide data, in clusters of several sizes. */
const IMAGES: { sizeBytes: number; clusterBytes: number; writes: Write[] }[] = [
  { sizeBytes: 2 * MIB, clusterBytes: 64 * KIB, writes: [[0, 2 * MIB, 0x11]] },
  { sizeBytes: 2 * MIB, clusterBytes: 4 * KIB, writes: [[4 * KIB, 4 * KIB, 0x21]] },
  { sizeBytes: 2 * MIB, clusterBytes: 64 * KIB, writes: [[64 * KIB, 128 * KIB, 0]] },
  { sizeBytes: 3 * MIB, clusterBytes: 64 * KIB, writes: [[2 * MIB, 64 * KIB, 0x41]] },
  { sizeBytes: 1 * MIB, clusterBytes: 64 * KIB, writes: [[0, 64 * KIB, 0x51]] },
  { sizeBytes: 2 * MIB, clusterBytes: 8 * KIB, writes: [[MIB + 8 * KIB, 8 * KIB, 0x61]] },
  { sizeBytes: 2 * MIB, clusterBytes: 64 * KIB, writes: [[512 * KIB, 64 * KIB, 0x71]] },
];

async function read(paths: string[], output: string): Promise<Uint8Array> {
  await qemuImg(["convert", "-O", "raw", chainSource(paths), output]);
  return await Deno.readFile(output);
}

const OPTIONS = { rateLimitBytesPerSecond: 0, deadline, signal: new AbortController().signal };

async function makeImages(folder: string, clusterBytes?: number): Promise<Layer[]> {
  const layers: Layer[] = [];
  for (const [i, image] of IMAGES.entries()) {
    const path = `${folder}/image${i}`;
    await makeLayer(path, image.sizeBytes, image.writes, {
      clusterBytes: clusterBytes ?? image.clusterBytes,
    });
    layers.push({ path, parent: layers.at(-1)?.path ?? null, timeMs: i });
  }
  return layers;
}

for (const cuts of [[3, 6], [2, 4, 6], [4, 6], [5, 6], [6]]) {
  Deno.test(`mergeGroups() changes nothing that is read, cut at ${cuts.join(", ")}`, async () => {
    await using dir = await tempDir();
    const layers = await makeImages(dir.path);
    const before = await names(dir.path);
    const cut = (paths: string[]) =>
      cuts.map((end, i) => paths.slice((cuts[i - 1] ?? 0) + 1, end + 1));
    const paths = layers.map(({ path }) => path);
    const expected = await read(paths, dir.join("expected"));
    const percents: number[] = [];
    {
      await using made = new AsyncDisposableStack();
      const onPercent = (percent: number) => void percents.push(percent);
      const [fewer, onRest] = await mergeGroups(
        layers,
        dir.join("out"),
        OPTIONS,
        onPercent,
        made,
        cut,
      );
      assertEquals(fewer.length, cuts.length + 1);
      const actual = await read(fewer.map(({ path }) => path), dir.join("actual"));
      assertEquals(firstDifference(actual, expected), null);
      onRest(100);
    }
    assertEquals(percents, percents.toSorted((a, b) => a - b));
    assertEquals(percents.at(-1), 100);
    assertEquals(await names(dir.path), ["actual", "expected", ...before].sort());
  });
}

Deno.test("mergeGroups() leaves images alone whose clusters are too small to be committed", async () => {
  await using dir = await tempDir();
  const layers = await makeImages(dir.path, 512);
  await using made = new AsyncDisposableStack();
  const cut = (paths: string[]) => [paths.slice(1, 4), paths.slice(4)];
  const [same] = await mergeGroups(layers, dir.join("out"), OPTIONS, () => {}, made, cut);
  assertEquals(same, layers);
});
