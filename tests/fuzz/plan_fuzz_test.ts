import fc from "fast-check";
import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import type { DiskPlan, Plan } from "../../src/plan/plan.ts";
import type { Facts } from "../../src/plan/facts.ts";
import { planBackup } from "../../src/plan/plan_backup.ts";
import { isListed } from "../../src/plan/last_backup.ts";
import { claimsOf } from "../../src/backup/space.ts";
import { chainOf, images, restorePoints } from "../../src/repo/chains.ts";
import {
  isChainId,
  parseImageName,
  PARTIAL_SUFFIX,
  RECORDS_FOLDER,
  REPLACED_SUFFIX,
  UUID_FILE,
} from "../../src/repo/layout.ts";
import { formatRecord, parseRecord } from "../../src/repo/record.ts";
import { Failure } from "../../src/errors.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { facts, request } from "./_facts.ts";
import { fuzz, mayThrow } from "./_fuzz.ts";

function assertUnique(names: string[]) {
  const twice = names.filter((name, index) => names.indexOf(name) !== index);
  assertEquals(twice, [], "Twice the same");
}

/** All that a disk's backup writes below the target, under the names it bears on the way too. */
function pathsOf({ file, replaces, link, configFile }: DiskPlan): string[] {
  const folder = file.slice(0, file.lastIndexOf("/") + 1);
  return [
    ...[file, file + PARTIAL_SUFFIX, configFile, `${configFile}.tmp`],
    ...(replaces ? [file + REPLACED_SUFFIX] : []),
    ...(link === null ? [] : [folder + link, `${folder}${link}.new`]),
  ];
}

/** No two write to one place, and none writes outside, or over what is ours. */
function checkPaths({ disks }: Plan) {
  const paths = disks.flatMap(pathsOf);
  assertUnique([...paths, UUID_FILE, `${UUID_FILE}.tmp`]);
  for (const path of paths) {
    assert(join("/backup/vm1", path).startsWith("/backup/vm1/"), path);
    const [first = "", ...rest] = path.split("/");
    assert(first !== RECORDS_FOLDER && rest.length <= 1, path);
    for (const name of [first, ...rest]) {
      assert(new TextEncoder().encode(name).length <= 255, name);
    }
  }
  const fleeces = disks.map(({ fleeceFile }) => fleeceFile);
  assertUnique([...fleeces, ...paths.map((path) => join("/backup/vm1", path))]);
}

/** What is there stays, unless it is what a backup without a time in its name replaces. */
function checkNothingLost({ disks, request }: Plan, { files, target }: Facts) {
  const all = images(target.runs);
  for (const { disk, level, file, folder, replaces, link, configFile } of disks) {
    const name = file.slice(folder === "." ? 0 : folder.length + 1);
    const isThere = files.get(folder)?.includes(name) ?? false;
    assertEquals(replaces, isThere);
    if (isThere) assert(!request.timestamp && level !== "inc", `"${file}" would be overwritten`);
    const above = all.filter((image) => image.disk.parent === file);
    assert(!above.some((image) => isListed(files, image.disk.file)), `"${file}" is built on`);
    const last = all.findLast((image) => image.disk.file === file)?.disk;
    assert(
      !isThere || !last || last.id === disk.id || last.source === disk.source,
      `"${file}" is another's`,
    );
    const written = [configFile, link === null ? configFile : join(folder, link)];
    assert(!all.some((image) => written.includes(image.disk.file)), `${written} is an image`);
    // What looks like an image in no record makes every backup a full one.
    assert(link === null || parseImageName(link) === null, `${link} looks like an image`);
    // Names bear out the order.
    const seconds = parseImageName(name)?.unixSeconds ?? Infinity;
    const mayBePlain = !request.timestamp && level !== "inc";
    // A full backup that nobody asked for gets a time where its place is taken.
    if (seconds === Infinity) assert(mayBePlain, name);
    else assert(!mayBePlain || (request.level === "auto" && level === "full"), name);
    for (const other of [...files.values()].flat()) {
      assert((parseImageName(other)?.unixSeconds ?? -1) < seconds, `${other} is later`);
    }
  }
}

/** An increment has all it builds on, and a bitmap that missed nothing since. */
function checkIncrement(planned: DiskPlan, facts: Facts) {
  const { disk, parent, previousBitmap, folder, compare } = planned;
  const { runs } = facts.target;
  const points = restorePoints(runs);
  const last = points.findLast((point) => point.disk.file === parent);
  assert(parent !== null && last && last.disk.level !== "copy");
  assertEquals(last.disk.folder, folder);
  const later = points.slice(points.indexOf(last) + 1);
  assert(!later.some(({ disk: { id, level } }) => id === last.disk.id && level !== "copy"));
  for (const { disk } of chainOf(images(runs), parent)) assert(isListed(facts.files, disk.file));
  // What is compared needs none.
  assertEquals(previousBitmap === null, compare);
  if (compare) return;
  assertEquals(last.disk.bitmap, previousBitmap);
  const bitmap = disk.bitmaps.find(({ name }) => name === previousBitmap);
  assert(bitmap?.recording && !bitmap.busy && !bitmap.inconsistent);
  assertEquals(bitmap.granularityBytes, last.disk.granularityBytes);
  assert(disk.virtualSizeBytes >= last.disk.virtualSizeBytes);
  const { sentinel } = last.disk;
  assertEquals(planned.previousSentinel, sentinel);
  const watching = disk.bitmaps.find(({ name }) => name === sentinel?.bitmap);
  assert(
    !sentinel || (watching?.recording === false && watching.countBytes === sentinel.countBytes),
  );
}

/** A bitmap is spent only by the backup that replaces it, and only if it is this target's. */
function checkBitmaps(planned: DiskPlan, { target, disks }: Facts) {
  const { disk, level, nextBitmap, obsoleteBitmaps } = planned;
  assertEquals(nextBitmap === null, level === "copy");
  if (level === "copy") assertEquals(obsoleteBitmaps, []);
  const present = disks.flatMap(({ bitmaps }) => bitmaps.map(({ name }) => name));
  assert(nextBitmap === null || !present.includes(nextBitmap) && nextBitmap.length <= 1023);
  const recorded = target.runs.flatMap((run) =>
    run.disks.flatMap(({ bitmap, sentinel }) => [bitmap, sentinel?.bitmap])
  );
  assert(!obsoleteBitmaps.includes(planned.sentinel?.bitmap ?? ""), "the sentinel is still needed");
  assertEquals(planned.sentinel === null, level === "copy");
  for (const name of obsoleteBitmaps) {
    assert(recorded.includes(name) && disk.bitmaps.some((bitmap) => bitmap.name === name), name);
  }
}

function checkPlan(plan: Plan, facts: Facts) {
  const { disks, leftOut, request } = plan;
  const missing = leftOut.filter(({ reason }) =>
    reason.startsWith("it was in the last backup, but the")
  );
  const accounted = disks.length + leftOut.length - missing.length;
  assertEquals(accounted, facts.disks.length + facts.leftOut.length);
  for (const { device } of missing) assert(!facts.disks.some(({ name }) => name === device));
  assertUnique(disks.map(({ disk }) => disk.id));
  assertUnique(disks.flatMap(({ nodes }) => Object.values(nodes)));
  assertUnique(disks.map(({ job }) => job));
  // Restore tells disks by their folders, and a chain by its links.
  assertUnique(disks.map(({ folder }) => folder).filter((folder) => folder !== "."));
  assertUnique(disks.flatMap(({ parent }) => parent ?? []));
  for (const name of disks.flatMap(({ nodes }) => Object.values(nodes))) assert(name.length < 32);
  checkPaths(plan);
  checkNothingLost(plan, facts);
  for (const planned of disks) {
    checkBitmaps(planned, facts);
    if (planned.level === "inc") checkIncrement(planned, facts);
    else assertEquals([planned.parent, planned.previousBitmap], [null, null]);
    if (request.level !== "auto") assertEquals(planned.level, request.level);
    assert(request.level === "copy" || planned.level !== "copy");
    if (!facts.features.longCbwTimeout) assert((planned.cbwTimeoutSeconds ?? 0) <= 4);
  }
  assert(facts.target.runs.every(({ sequence }) => sequence < plan.sequence));
  assertEquals(plan.chainId, facts.target.chainId ?? facts.newChainId);
  assert(isChainId(plan.chainId));
  for (const { sizeBytes } of claimsOf(plan)) assert(Number.isSafeInteger(sizeBytes));
  // What a run of this plan would record can be read again: a target with a bad record is of no use.
  const rows = disks.map(({ disk, folder, file, parent, nextBitmap, level }) =>
    aDiskRecord(disk.name, { id: disk.id, folder, file, parent, level, bitmap: nextBitmap })
  );
  const { runId: id, sequence, chainId: chain } = plan;
  parseRecord("r.json", formatRecord(aRun(rows, { id, sequence, chain })));
}

fuzz(
  "planBackup() throws Failure or plans what loses nothing",
  fc.tuple(request, facts),
  ([request, facts]) => {
    const plan = mayThrow(Failure, () => planBackup(request, facts));
    if (plan) checkPlan(plan, facts);
  },
);
