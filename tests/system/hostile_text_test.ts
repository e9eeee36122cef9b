/**
 * What somebody else may have put into a target, or what a peer sends: refused at once, with little memory, and
 * without a message as long as what is refused.
 *
 * @module
 */

import { assert, assertEquals, assertInstanceOf } from "@std/assert";
import { join } from "@std/path";
import { LOCK_FILE, RUNS_FOLDER, UUID_FILE } from "../../src/repo/layout.ts";
import { formatRecord } from "../../src/repo/record.ts";
import { createTarget, readTarget } from "../../src/repo/repository.ts";
import { holderNow, takeLock } from "../../src/fs/flock.ts";
import { Failure, messageOf } from "../../src/errors.ts";
import { parseImageFacts } from "../../src/qemu_img/qemu_img.ts";
import { JsonStream } from "../../src/wire/json_stream.ts";
import { tempDir } from "../support/temp_dir.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { deadline } from "../support/deadline.ts";

const MIB = 1 << 20;

/** Far more than it takes, for a machine that is busy; what is refused took half a minute, and 746 MB. */
const LIMIT_MS = 15_000, LIMIT_BYTES = 200 * MIB, LIMIT_LETTERS = 2_000;

async function assertRefusedAtOnce(work: () => unknown) {
  let refusal: unknown = null;
  await assertOverAtOnce(async () => {
    try {
      await work();
    } catch (error) {
      refusal = error;
    }
  });
  assertInstanceOf(refusal, Failure);
  const { length } = messageOf(refusal);
  assert(length < LIMIT_LETTERS, `${length} letters`);
}

async function assertOverAtOnce(work: () => unknown) {
  const before = Deno.memoryUsage().rss;
  const start = performance.now();
  await work();
  const tookMs = performance.now() - start;
  assert(tookMs < LIMIT_MS, `${tookMs} ms`);
  const grown = Deno.memoryUsage().rss - before;
  assert(grown < LIMIT_BYTES, `${Math.round(grown / MIB)} MiB`);
}

const record = (change: object) => JSON.stringify({ ...aRun([aDiskRecord()]), ...change });
const long = "x".repeat(3 * MIB);

const RECORDS: Record<string, string[]> = {
  "15 MB of [": ["[".repeat(15_000_000)],
  "4 MiB of [": ["[".repeat(4 * MIB)],
  "a deep field": [
    record({ x: 0 }).slice(0, -1) + `,"y":${"[".repeat(2 * MIB)}${"]".repeat(2 * MIB - 100)}}`,
  ],
  "a million disks that are none": [`${record({}).slice(0, -1)},"disks":[${"{},".repeat(MIB)}{}]}`],
  "a level of 3 MiB": [record({ level: long })],
  "an id of 3 MiB": [record({ id: long })],
  "a disk's name of 3 MiB": [record({ disks: [{ ...aDiskRecord(), name: `/${long}` }] })],
  "a time of 3 MiB": [record({ started: long })],
  "40 records of 15 MB": Array.from({ length: 40 }, () => " ".repeat(15_000_000)),
};
for (const [what, texts] of Object.entries(RECORDS)) {
  Deno.test(`a record is refused at once: ${what}`, async () => {
    await using dir = await tempDir();
    await createTarget(deadline, dir.path);
    for (const [i, text] of texts.entries()) {
      await Deno.writeTextFile(dir.join(RUNS_FOLDER, `r${i}.json`), text);
    }
    await assertRefusedAtOnce(() => readTarget(deadline, dir.path));
  });
}

Deno.test("a disk's name of 3 MiB, in two records of one number, is not printed", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  const disks = [aDiskRecord("disk0", { name: long })];
  for (const id of ["a", "b"]) {
    await Deno.writeTextFile(
      dir.join(RUNS_FOLDER, `${id}.json`),
      formatRecord(aRun(disks, { id })),
    );
  }
  await assertRefusedAtOnce(() => readTarget(deadline, dir.path));
});

Deno.test("records of more than 256 MiB together are refused; one as large as may be is read", async () => {
  await using dir = await tempDir();
  await createTarget(deadline, dir.path);
  const warnings = ["w".repeat(4 * MIB - 4000)];
  for (let i = 1; i <= 65; i++) {
    // We write none so long.
    const run = aRun([aDiskRecord()], { id: `r${i}`, sequence: i, warnings });
    await Deno.writeTextFile(dir.join(RUNS_FOLDER, `r${i}.json`), JSON.stringify(run));
    if (i === 1) {
      assert((await readTarget(deadline, dir.path)).runs[0]?.warnings[0] === warnings[0]);
    }
  }
  const error = await readTarget(deadline, dir.path).then(() => null, (error) => error);
  assertInstanceOf(error, Failure);
  assert(error.message.includes("larger than 256 MiB together"), error.message);
});

for (const name of [UUID_FILE, LOCK_FILE]) {
  Deno.test(`what stands in ${name} is not read where it is large`, async () => {
    await using dir = await tempDir();
    await createTarget(deadline, dir.path);
    const path = join(dir.path, name);
    using holder = name === LOCK_FILE ? await takeLock(deadline, path, holderNow("r")) : null;
    await Deno.writeTextFile(path, "[".repeat(15_000_000));
    assert(name === UUID_FILE || holder);
    await assertRefusedAtOnce(() =>
      name === LOCK_FILE ? takeLock(deadline, path, holderNow("s")) : readTarget(deadline, dir.path)
    );
  });
}

const HEADERS: Record<string, string> = {
  "1 MiB of [": "[".repeat(MIB),
  "a data file of 900 KiB, of a wrong type": JSON.stringify({
    format: 1,
    x: long.slice(0, 900_000),
  }),
  "100 000 snapshots that are none": `{"format":"qcow2","virtual-size":1,"snapshots":[${
    "{},".repeat(100_000)
  }{}]}`,
};
for (const [what, text] of Object.entries(HEADERS)) {
  Deno.test(`a header is refused at once: ${what}`, async () => {
    await assertRefusedAtOnce(() => parseImageFacts(text));
  });
}

Deno.test("QEMU's message of 15 MB of [ is refused at once", async () => {
  await assertRefusedAtOnce(() =>
    pushDeep(new JsonStream({ maxMessageBytes: 64 * MIB, lenient: false }))
  );
});

Deno.test("an agent's message of 15 MB of [ is passed over at once, and the next one is read", async () => {
  const stream = new JsonStream({ maxMessageBytes: 64 * MIB, lenient: true });
  await assertOverAtOnce(() => assertEquals(pushDeep(stream), []));
  const next = [0xff, ...new TextEncoder().encode('{"return":1}')];
  assertEquals(stream.push(new Uint8Array(next)), [{ return: 1 }]);
});

function pushDeep(stream: JsonStream): unknown[] {
  const bytes = new TextEncoder().encode(`{"return":${"[".repeat(15_000_000)}`);
  const messages: unknown[] = [];
  for (let at = 0; at < bytes.length; at += 65536) {
    messages.push(...stream.push(bytes.subarray(at, at + 65536)));
  }
  return messages;
}
