import { assert, assertEquals } from "@std/assert";
import { measureTarget } from "../../src/backup/measure_target.ts";
import { deadline } from "../support/deadline.ts";
import { tempDir } from "../support/temp_dir.ts";
import { aDisk, aRequest } from "../unit/_fixtures.ts";

const LARGE = [
  aDisk("disk0", { allocatedBytes: 1 << 29 }),
  aDisk("disk1", { allocatedBytes: 1 << 29 }),
];

async function namesIn(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).toSorted();
}

Deno.test("measureTarget() measures a target once, and removes what it wrote", async () => {
  await using dir = await tempDir();
  const records = dir.join("_qmpbackup");
  await Deno.mkdir(records);
  // A run that was killed may have left its own.
  await Deno.writeTextFile(dir.join("_qmpbackup/speed.tmp"), "left");
  const request = aRequest({ target: dir.path, digest: false });
  const measured = await measureTarget(deadline, request, LARGE);
  assert(measured);
  assertEquals(await namesIn(records), ["speed.json"]);
  // A second look would have another time.
  assertEquals(await measureTarget(deadline, request, LARGE), measured);
});

Deno.test("measureTarget() writes nothing for little, or where the user has said how", async () => {
  await using dir = await tempDir();
  await Deno.mkdir(dir.join("_qmpbackup"));
  const request = aRequest({ target: dir.path, digest: false });
  const small = [aDisk("disk0", { allocatedBytes: 1 << 20 })];
  assertEquals(await measureTarget(deadline, request, small), null);
  const asked = { ...request, directTarget: false };
  assertEquals(await measureTarget(deadline, asked, LARGE), null);
  assertEquals(await namesIn(dir.join("_qmpbackup")), []);
});

Deno.test("measureTarget() lets the backup go on where it can't measure", async () => {
  await using dir = await tempDir();
  assertEquals(
    await measureTarget(deadline, aRequest({ target: dir.join("gone"), digest: false }), LARGE),
    null,
  );
});
