import { assert, assertEquals } from "@std/assert";
import {
  diskFileName,
  type DiskLevel,
  imageName,
  isChainId,
  parseImageName,
  PARTIAL_SUFFIX,
  plainImageName,
  REPLACED_SUFFIX,
  runId,
  tagOf,
} from "../../src/repo/layout.ts";
import { bitmapName, isBackupBitmap } from "../../src/vm/names.ts";
import { planPasses, rawSource } from "../../src/restore/passes.ts";
import { Dice, dice, fuzz } from "./_fuzz.ts";
import { anyJson, jsonText, mutateText, word } from "./_nonsense.ts";

const LEVELS: DiskLevel[] = ["full", "inc", "copy"];
const SOURCES = [
  ...["/vm/disk.qcow2", "rbd:pool/image:id=admin", "nbd+unix:///export?socket=/run/s", "/"],
  ...['json:{"driver":"qcow2","file":{"driver":"file","filename":"/vm/a.qcow2"}}', "nbd://h:1/e"],
];

/** What QEMU may call a disk's file, and what it may not. */
function aSource(dice: Dice): string {
  switch (dice.below(4)) {
    case 0:
      return word(dice);
    case 1:
      return `json:${jsonText({ file: { [dice.pick(["filename", "path"])]: word(dice) } })}`;
    case 2:
      return `json:${jsonText(anyJson(dice))}`;
    default:
      return mutateText(dice, dice.pick(SOURCES));
  }
}

const sizeOf = (text: string) => new TextEncoder().encode(text).length;

/** A name for one file in the folder it is written to, and the same when it is read again. */
function checkFileName(name: string) {
  assert(!["", ".", ".."].includes(name), JSON.stringify(name));
  assert(!/[/\p{Cc}]/u.test(name) && name.isWellFormed(), JSON.stringify(name));
  assert(sizeOf(name) <= 255, name);
}

fuzz(
  "diskFileName() makes one safe name of any source, imageName() a long enough one",
  dice,
  (seed) => {
    const dice = new Dice(seed);
    const name = diskFileName(aSource(dice));
    assertEquals(diskFileName(name), name);
    const level = dice.pick(LEVELS), unixSeconds = dice.below(2 ** 32) * dice.pick([1, 20]);
    const image = imageName(level, unixSeconds, name);
    assertEquals(parseImageName(image), { level, unixSeconds, diskFileName: name });
    assertEquals(parseImageName(image + PARTIAL_SUFFIX), null);
    checkFileName(image + PARTIAL_SUFFIX);
    checkFileName(`${name}.config.tmp`);
    const plain = plainImageName(name);
    for (const suffix of ["", PARTIAL_SUFFIX, REPLACED_SUFFIX]) checkFileName(plain + suffix);
    // Not what the target calls its own files, or takes for something else on their way.
    assert(!/^(uuid|image|_qmpbackup)$|\.(partial|replaced|config|tmp|new)$/.test(plain), plain);
    assert(!/^(FULL|INC|COPY)-/.test(plain), plain);
    for (const other of [`_${name}`, `${name}_`]) assert(plainImageName(other) !== plain, plain);
  },
);

fuzz("parseImageName() reads only what imageName() writes", dice, (seed) => {
  const dice = new Dice(seed);
  const name = mutateText(
    dice,
    imageName(dice.pick(LEVELS), dice.below(9999), diskFileName(word(dice))),
  );
  const parsed = parseImageName(name);
  if (!parsed) return;
  // A time may have been written with noughts before it.
  const again = imageName(parsed.level, parsed.unixSeconds, parsed.diskFileName);
  assertEquals(again, name.replace(/^([A-Z]+-)0+(?=\d)/, "$1"));
});

fuzz("bitmapName() and runId() name a run's things by its tag", dice, (seed) => {
  const dice = new Dice(seed);
  const tag = (dice.below(2 ** 32) >>> 0).toString(16).padStart(8, "0");
  assertEquals(tagOf(runId(new Date(dice.below(2 ** 32) * 1000), tag)), tag);
  const chain = word(dice);
  if (!isChainId(chain)) return;
  assert(isBackupBitmap(bitmapName("disk0", tag, chain), chain));
});

fuzz("planPasses() names each layer once and in order", dice, (seed) => {
  const dice = new Dice(seed);
  const layers = ["/first", ...dice.some(12, () => `/${word(dice)}`)];
  const limits = { layers: 2 + dice.below(5), bytes: dice.pick([10, 500, 100_000]) };
  const passes = planPasses(layers, (pass) => `between ${pass}`, limits);
  const read = passes.flatMap(({ source }) => pathsOf(JSON.parse(source.slice("json:".length))));
  assertEquals(read.filter((path) => !path.startsWith("between ")), layers);
  assertEquals(passes.map(({ isLast }) => isLast), passes.map((_, i) => i === passes.length - 1));
  for (const [index, { source }] of passes.entries()) {
    if (index > 0) assertEquals(source.includes(`"between ${index}"`), true);
  }
  assertEquals(JSON.parse(rawSource(layers[0] as string).slice(5)).file.filename, layers[0]);
});

/** The files in what `chainSource()` writes, the one at the bottom first. */
function pathsOf(
  options: { file: { filename: string }; backing: typeof options | null },
): string[] {
  return [...(options.backing ? pathsOf(options.backing) : []), options.file.filename];
}
