import { assert, assertEquals } from "@std/assert";
import { filesOfTar, makeTar } from "../../src/repo/tar.ts";
import { Dice, dice, fuzz } from "./_fuzz.ts";

fuzz("filesOfTar() never throws, and reads no more than there is", dice, (seed) => {
  const dice = new Dice(seed);
  const files = Array.from({ length: dice.below(4) }, (_, i) => ({
    name: `${i}`,
    contents: Uint8Array.from({ length: dice.below(1200) }, () => dice.below(256)),
  }));
  const tar = makeTar(files);
  assertEquals(filesOfTar(tar), files.length === 0 ? null : files);
  for (let n = dice.below(4); n >= 0; n--) tar[dice.below(tar.length)] = dice.below(256);
  const found = filesOfTar(tar.subarray(0, dice.below(tar.length + 1))) ?? [];
  const foundBytes = found.reduce((sum, { contents }) => sum + contents.length, 0);
  assert(foundBytes <= tar.length);
}, { inputs: 5_000 });
