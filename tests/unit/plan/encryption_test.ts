import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { Failure, UsageError } from "../../../src/errors.ts";
import { decideEncryption, imagesToTry } from "../../../src/plan/encryption.ts";
import { planBackup } from "../../../src/plan/plan_backup.ts";
import type { BackupRequest } from "../../../src/plan/request.ts";
import type { DiskRecord } from "../../../src/repo/record.ts";
import { aDiskRecord, aDiskWithBitmap, aRequest, aRun, factsAfter } from "../_fixtures.ts";

const runOf = (change: Partial<DiskRecord> = {}) => aRun([aDiskRecord("disk0", change)]);
const PLAIN = [runOf()];
const ENCRYPTED = [runOf({ encrypted: true })];
const keyFile = "/key";

for (
  const [what, request, runs, encrypt, warnings] of [
    ["nothing that was not asked for", {}, PLAIN, false, 0],
    ["what was asked for", { encrypt: true, keyFile }, [], true, 0],
    ["what begins after backups in clear", { encrypt: true, keyFile }, PLAIN, true, 0],
    ["what goes on in an encrypted target", { keyFile }, ENCRYPTED, true, 0],
    ["nothing where there is only a key, and warns", { keyFile }, PLAIN, false, 1],
    ["without comparing, and warns", { keyFile, onLostBitmap: "compare" }, ENCRYPTED, true, 1],
  ] as const
) {
  Deno.test(`decideEncryption() encrypts ${what}`, () => {
    const decided = decideEncryption(aRequest(request), runs);
    assertEquals(decided.request.encrypt, encrypt);
    assertEquals(decided.request.keyFile, encrypt ? keyFile : null);
    assertEquals(decided.request.onLostBitmap, "full");
    assertEquals(decided.warnings.length, warnings);
  });
}

for (
  const [what, request, runs, words] of [
    ["--encrypt without a key", { encrypt: true }, [], "--encrypt needs the file with the key"],
    ["an encrypted target without a key", {}, ENCRYPTED, "holds encrypted backups"],
    ["compression", { encrypt: true, keyFile, compress: "zstd" }, [], "--compress does not go"],
  ] as const
) {
  Deno.test(`decideEncryption() refuses ${what}`, () => {
    const asked: BackupRequest = aRequest(request);
    const error = assertThrows(() => decideEncryption(asked, runs), UsageError);
    assertStringIncludes(error.message, words);
  });
}

Deno.test("imagesToTry() names what increments build on, and the newest encrypted image", () => {
  const runs = [runOf({ encrypted: true, file: "disk0/new" })];
  assertEquals(imagesToTry({ encrypt: true }, ["disk0/old", null], runs), [
    "disk0/old",
    "disk0/new",
  ]);
  assertEquals(imagesToTry({ encrypt: true }, [null], PLAIN), []);
  assertEquals(imagesToTry({ encrypt: false }, ["disk0/old"], runs), []);
});

Deno.test("planBackup() never puts an encrypted increment onto an image in clear", () => {
  const plan = (level: BackupRequest["level"]) =>
    planBackup(
      aRequest({ level, encrypt: true, keyFile }),
      factsAfter(PLAIN, [aDiskWithBitmap()]),
    );
  const { disks: [disk] } = plan("auto");
  assertEquals([disk?.level, disk?.parent], ["full", null]);
  assertStringIncludes(disk?.reason ?? "", "is not encrypted");
  const { message } = assertThrows(() => plan("inc"), Failure);
  assertStringIncludes(message, "is not encrypted. Use --level auto");
});

Deno.test("planBackup() names a key for each disk of an encrypted run, and none otherwise", () => {
  const keys = (runs: typeof PLAIN, change: Partial<BackupRequest>) =>
    planBackup(aRequest({ level: "inc", ...change }), factsAfter(runs, [aDiskWithBitmap()]))
      .disks.map(({ keyId }) => keyId?.slice(-"-0-key".length));
  assertEquals(keys(ENCRYPTED, { keyFile }), ["-0-key"]);
  assertEquals(keys(PLAIN, {}), [undefined]);
});
