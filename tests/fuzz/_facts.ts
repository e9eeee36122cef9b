/**
 * Facts that a plan may be made from: few names, so that they meet in every way.
 *
 * @module
 */

import fc from "fast-check";
import type { Features } from "../../src/qmp/schema.ts";
import type { Facts } from "../../src/plan/facts.ts";
import type { BackupRequest } from "../../src/plan/request.ts";
import { diskFileName, imageName, plainImageName } from "../../src/repo/layout.ts";
import type { DiskRecord, RunRecord } from "../../src/repo/record.ts";
import type { Disk } from "../../src/vm/disks.ts";
import {
  aBackingImage,
  aBitmap,
  aDisk,
  aDiskRecord,
  aRequest,
  aRun,
  aTarget,
  CHAIN,
  factsAfter,
  NOW_SECONDS,
} from "../unit/_fixtures.ts";

const IDS = [
  ...["/machine/peripheral/v0/virtio-backend", "/machine/peripheral/v1/virtio-backend"],
  ...["/machine/peripheral-anon/device[0]"],
];
const NAMES = ["disk0", "disk1", "a.qcow2", "uuid", "a.config", "n".repeat(64)];
const LONG = `${"l".repeat(250)}.qcow2`;
const SOURCES = [
  ...["/vm/a.qcow2", "/other/a.qcow2", "/vm/disk0.a.qcow2", "/vm/disk1.a.qcow2", "/vm/disk0"],
  ...["/vm/uuid", "/vm/uuid_", "/vm/uuid.tmp", "/vm/FULL-a.qcow2", "/vm/INC-5-a.qcow2"],
  ...[
    "/vm/a.qcow2.new",
    "/vm/a.qcow2.replaced",
    `/vm/${LONG}`,
    `/other/${LONG}`,
    "rbd:p/a.qcow2",
    "/vm/1-a.qcow2",
  ],
];
const SIZES = [16 << 20, 16 << 20, 512, 1 << 30];
const BITMAPS = [...["b1", "b2"].map((name) => `qmpbackup-${name}-${CHAIN}`), "foreign"];

const pick = <T>(...items: T[]) => fc.constantFrom(...items);

/** Mostly the usual. */
const seldom = <T>(rare: fc.Arbitrary<T>, usual: T) =>
  fc.oneof({ weight: 4, arbitrary: fc.constant(usual) }, { weight: 1, arbitrary: rare });

const bitmap = fc.record({
  name: pick(...BITMAPS),
  granularityBytes: pick(65536, 65536, 65536, 4096),
  recording: seldom(fc.constant(false), true),
  busy: seldom(fc.constant(true), false),
  inconsistent: seldom(fc.constant(true), false),
}).map(({ name, ...change }) => aBitmap(name, change));

const SENTINELS = ["b1", "b2"].map((name) => `qmpbackup-${name}-${CHAIN}(end)`);

/** Mostly intact. */
const sentinel = fc.record({
  name: pick(...SENTINELS),
  recording: seldom(fc.constant(true), false),
  countBytes: seldom(fc.constant(0), 65536),
}).map(({ name, ...change }) => aBitmap(name, change));

const backing = seldom(fc.constant("b"), "a").map((name) => aBackingImage(name));

const disk = fc.record({
  id: pick(...IDS),
  name: pick(...NAMES),
  source: pick(...SOURCES),
  format: pick("qcow2", "qcow2", "qcow2", "raw"),
  virtualSizeBytes: pick(...SIZES),
  clusterSizeBytes: pick(null, 512, 65536, 2 << 20),
  holdsBitmaps: seldom(fc.constant(false), true),
  bitmaps: fc.tuple(
    fc.uniqueArray(bitmap, { maxLength: 3, selector: ({ name }) => name }),
    fc.uniqueArray(sentinel, { maxLength: 2, selector: ({ name }) => name }),
  ).map((both) => both.flat()),
  backing: fc.array(backing, { maxLength: 2 }),
}).map(({ name, ...change }) => aDisk(name, change));

/** QEMU's paths and node names are nobody else's. */
const disks: fc.Arbitrary<Disk[]> = fc.uniqueArray(disk, {
  minLength: 1,
  maxLength: 3,
  comparator: (a, b) => a.id === b.id || a.node === b.node,
});

const row = fc.record({
  id: pick(...IDS),
  name: pick(...NAMES),
  source: pick(...SOURCES),
  hasFolder: pick(true, true, false),
  hasTime: pick(true, true, false),
  level: pick<DiskRecord["level"]>("full", "inc", "inc", "copy"),
  bitmap: pick(...BITMAPS.slice(0, 2)),
  sentinel: fc.option(pick(...SENTINELS).map((bitmap) => ({ bitmap, countBytes: 65536 }))),
  backing: fc.option(fc.array(backing, { maxLength: 2 })),
  virtualSizeBytes: pick(...SIZES),
  result: pick<DiskRecord["result"]>("done", "done", "done", "failed", "superseded", "pending"),
  /** How far back the image lies that it builds on. */
  parent: fc.nat(3),
});

/** Records as runs leave them: an increment builds on an earlier image beside it. */
const runs: fc.Arbitrary<RunRecord[]> = fc.array(fc.array(row, { maxLength: 3 }), { maxLength: 4 })
  .map((rows) => {
    const earlier: DiskRecord[] = [];
    return rows.map((disks, index) => {
      const written = disks.map(({ hasFolder, hasTime, parent, ...disk }) => {
        const folder = hasFolder ? disk.name : ".";
        const fileName = diskFileName(disk.source);
        const seconds = NOW_SECONDS - 1000 + index;
        const beside = earlier.filter((other) => other.folder === folder);
        const below = disk.level === "inc" ? beside.at(-1 - parent) : undefined;
        const level = disk.level === "inc" && !below ? "full" : disk.level;
        const name = hasTime || level === "inc"
          ? imageName(level, seconds, fileName)
          : plainImageName(fileName);
        return aDiskRecord(disk.name, {
          ...disk,
          level,
          folder,
          file: folder === "." ? name : `${folder}/${name}`,
          parent: below?.file ?? null,
          ...(level === "copy" ? { bitmap: null, granularityBytes: null, sentinel: null } : {}),
        });
      });
      earlier.push(...written);
      return aRun(written, { sequence: index + 1, id: `20261121T230000Z-0000000${index}` });
    });
  });

const EXTRA_FILES = [
  ...["FULL-1-a.qcow2", "INC-1795388399-a.qcow2", "INC-999999999999-a.qcow2", "a.qcow2"],
  ...["COPY-5-a.qcow2", "uuid", "a.qcow2.config", "FULL-a.qcow2", "notes.txt", "x.partial"],
];
const extra = fc.record({ folder: pick(".", ...NAMES), name: pick(...EXTRA_FILES) });

export const facts: fc.Arbitrary<Facts> = fc.record({
  disks,
  runs,
  extras: seldom(fc.array(extra, { minLength: 1, maxLength: 2 }), []),
  /** An image that is gone. */
  lost: seldom<number | null>(fc.nat(5), null),
  beside: pick(null, "/vm"),
  hasIothreads: fc.boolean(),
  features: fc.record({
    fleecing: pick(true, true, true, false),
    reopen: pick<Features["reopen"]>("blockdev-reopen", "x-blockdev-reopen"),
    backupPerf: fc.boolean(),
    longCbwTimeout: fc.boolean(),
    busyIothreads: fc.boolean(),
    flatBlock: fc.boolean(),
    zstd: fc.boolean(),
    wideReads: fc.boolean(),
    preallocate: fc.boolean(),
  }),
}).map(({ disks, runs, extras, lost, beside, hasIothreads, features }) => {
  const isThere = ({ result }: DiskRecord) => result === "done" || result === "superseded";
  const there = runs.map((run) => aRun(run.disks.filter(isThere), { sequence: run.sequence }));
  const files = new Map<string, string[]>([[".", ["uuid"]]]);
  for (const { disks } of there) {
    for (const { folder, file } of disks) {
      const names = files.get(folder) ?? [];
      files.set(folder, [...new Set([...names, file.slice(file.indexOf("/") + 1)])]);
    }
  }
  const first = [...files.values()].at(-1) ?? [];
  if (lost !== null && lost < first.length) first.splice(lost, 1);
  for (const { folder, name } of extras) files.set(folder, [...files.get(folder) ?? [], name]);
  return factsAfter(runs, disks, {
    files,
    target: aTarget(runs),
    features,
    hasIothreads,
    besideDisk: new Map(disks.map(({ id }) => [id, beside])),
    newChainId: "0a6e5d1c-7b1f-4a6e-9a83-2f7f5f1f0c11",
  });
});

export const request: fc.Arbitrary<BackupRequest> = fc.record({
  level: pick<BackupRequest["level"]>("auto", "auto", "auto", "full", "full", "inc", "copy"),
  include: seldom(pick(...NAMES).map((name) => [name]), []),
  exclude: seldom(pick(...NAMES).map((name) => [name]), []),
  onLostBitmap: pick<BackupRequest["onLostBitmap"]>("full", "compare"),
  includeRaw: pick(true, true, true, false),
  fleeceDir: pick(null, "/fast"),
  cbwTimeoutSeconds: pick(null, 1, 45),
  subdir: fc.boolean(),
  timestamp: fc.boolean(),
  symlink: fc.boolean(),
}).map((change) => aRequest(change));
