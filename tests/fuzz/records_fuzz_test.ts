import { assert, assertEquals } from "@std/assert";
import { join } from "@std/path";
import { chainFault } from "../../src/plan/last_backup.ts";
import { ChainError, chainOf, images, restorePoints } from "../../src/repo/chains.ts";
import { ATTACHMENT_HEAD, parseAttachment } from "../../src/repo/attachment.ts";
import { HALF_WAY_HEAD, halfWayWords, parseHalfWay } from "../../src/repo/half_way.ts";
import { orderByName } from "../../src/python/name_order.ts";
import { isChainId } from "../../src/repo/layout.ts";
import {
  type DiskRecord,
  formatRecord,
  parseRecord,
  RecordError,
  type RunRecord,
} from "../../src/repo/record.ts";
import { backupsText } from "../../src/cli/output/backups.ts";
import { fleetText, pluginResult } from "../../src/cli/output/fleet.ts";
import { healthOf } from "../../src/overview/health.ts";
import { nightsOf } from "../../src/overview/nights.ts";
import { chainTotals, outlookOf } from "../../src/overview/totals.ts";
import { backupText, imagesText } from "../../src/cli/output/report.ts";
import { localTime } from "../../src/time.ts";
import { Failure, UsageError } from "../../src/errors.ts";
import { parseSpeed } from "../../src/repo/target_speed.ts";
import { parseTime, pickPoint, pointsOfNames } from "../../src/restore/points.ts";
import { aDiskRecord, aRun, aTarget } from "../unit/_fixtures.ts";
import { Dice, dice, fuzz, mayThrow } from "./_fuzz.ts";
import { jsonText, mutateText, nearlyRight, word } from "./_nonsense.ts";

const RUN = aRun([aDiskRecord("disk0")], {
  leftOut: [{ device: "cd0", reason: "read-only" }],
  warnings: ["Slow"],
});

fuzz("parseRecord() throws RecordError alone, and what it takes can be used", dice, (seed) => {
  const dice = new Dice(seed);
  const text = jsonText(nearlyRight(dice, RUN));
  const record = mayThrow(
    RecordError,
    () => parseRecord("r.json", dice.once(2) ? text : mutateText(dice, text)),
  );
  if (!record) return;
  assertEquals(JSON.stringify(parseRecord("r.json", formatRecord(record))), JSON.stringify(record));
  backupText(record, { target: "/backup", freeBytes: 1 });
  imagesText(aTarget([record]));
  const target = aTarget([RUN, record]);
  const health = healthOf(
    { path: "/backup/vm1", name: "vm1", targets: [target], error: null },
    new Map(),
    { nowMs: Date.now(), maxAgeMs: 1 },
  );
  const nights = nightsOf(target.runs, new Map());
  const chains = chainTotals([target], new Map());
  const view = { health, nights, last: null, chains, outlook: outlookOf(nights, 1) };
  backupsText(view, dice.below(200));
  fleetText([health], dice.below(200));
  assert(pluginResult([health], 1).line.split("\n").length === 2);
  for (const { file, folder, parent } of record.disks) {
    for (const path of [file, folder === "." ? file : folder, parent ?? file]) {
      assert(join("/backup/vm1", path).startsWith("/backup/vm1/"), path);
    }
  }
  assert(isChainId(record.chain) && Number.isSafeInteger(record.sequence));
  for (const time of [record.started, record.pointInTime, record.finished]) {
    assert(time === null || !Number.isNaN(Date.parse(time)), `${time}`);
  }
});

const HALF_WAY = {
  ...HALF_WAY_HEAD,
  ...{ since: "2026-11-22T23:00:00.000Z", run: "20261122T230000Z-0123abcd" },
  ...{ disks: ["disk0"], wasRunning: true },
};

fuzz("parseHalfWay() never throws, and what it takes can be said", dice, (seed) => {
  const dice = new Dice(seed);
  const text = jsonText(nearlyRight(dice, HALF_WAY));
  const halfWay = parseHalfWay(dice.once(2) ? text : mutateText(dice, text));
  if (halfWay) assert(halfWayWords("/backup", halfWay).length > 0);
});

const ATTACHMENT = {
  ...ATTACHMENT_HEAD,
  ...{ name: "0123abcd", host: "h", since: RUN.started, kind: "nbd" },
  disks: [{
    ...{ disk: "disk0", point: "INC-2-a", pointInTime: RUN.started, images: ["disk0/FULL-1-a"] },
    ...{ virtualSizeBytes: 1, open: "/out/disk0.qcow2" },
  }],
  files: ["/out/disk0.qcow2"],
  sockets: { nbd: "/run/a.nbd", qmp: "/run/a.qmp" },
};

fuzz("parseSpeed() never throws, and takes only what was measured lately", dice, (seed) => {
  const dice = new Dice(seed);
  const measured = new Date(dice.below(2 ** 32) * 1000);
  const ms = () => dice.pick([null, "slow", dice.below(1000), -1, word(dice)]);
  const device = dice.below(3);
  const text = JSON.stringify({ measured, device, directMs: ms(), cachedMs: ms() });
  const now = new Date(dice.below(2 ** 32) * 1000);
  const found = parseSpeed(dice.once(2) ? text : mutateText(dice, text), now, 1);
  if (found === null) return;
  assertEquals(found.device, 1);
  assert(Date.parse(found.measured) <= now.getTime());
  for (const value of [found.directMs, found.cachedMs]) {
    assert(value === null || value === "slow" || value >= 0);
  }
});

fuzz("parseAttachment() never throws, and names only whole paths to be removed", dice, (seed) => {
  const dice = new Dice(seed);
  const text = jsonText(nearlyRight(dice, ATTACHMENT));
  const found = parseAttachment(dice.once(2) ? text : mutateText(dice, text));
  for (const path of [...found?.files ?? [], ...Object.values(found?.sockets ?? {})]) {
    assertEquals(
      join("/", path).replace(/\/$/, ""),
      path.replaceAll(/\/+/g, "/").replace(/\/$/, ""),
    );
  }
});

const FILES = ["disk0/FULL-1-a", "disk0/INC-2-a", "disk0/INC-3-a", "disk1/FULL-1-a", "a", "b"];

/** Valid records that may contradict each other: circles, two of one name, links that lead nowhere. */
function someRuns(dice: Dice): RunRecord[] {
  const disk = (): DiskRecord =>
    aDiskRecord(dice.pick(["disk0", "disk1"]), {
      file: dice.pick(FILES),
      parent: dice.once(2) ? null : dice.pick(FILES),
      level: dice.pick(["full", "inc", "inc", "copy"]),
      result: dice.pick(["pending", "done", "done", "done", "failed", "cancelled", "superseded"]),
    });
  return dice.some(5, () => aRun(dice.some(2, disk), { sequence: 1 + dice.below(5) }));
}

fuzz("chainOf() gives a chain from a full backup on, or throws ChainError", dice, (seed) => {
  const dice = new Dice(seed);
  const runs = someRuns(dice);
  const all = images(runs), points = restorePoints(runs);
  assertEquals(new Set(points.map(({ disk }) => disk.file)).size, points.length);
  for (const [index, { run, disk }] of points.entries()) {
    assertEquals(disk.result, "done");
    assert((points[index + 1]?.run.sequence ?? Infinity) >= run.sequence);
  }
  const file = dice.pick(FILES);
  const chain = mayThrow(ChainError, () => chainOf(all, file));
  const present = new Map([["disk0", FILES.slice(0, 3).map((path) => path.slice(6))]]);
  assert(chain || chainFault(all, file, present) !== null);
  if (!chain) return;
  assertEquals(chain.at(-1)?.disk.file, file);
  assertEquals(chain.map(({ disk }) => disk.parent), [
    null,
    ...chain.map(({ disk }) => disk.file).slice(0, -1),
  ]);
  assertEquals(new Set(chain).size, chain.length);
  assert(chain[0]?.disk.level !== "inc");
});

/** What may lie in a folder of images. */
function fileName(dice: Dice): string {
  const name = `${dice.pick(["FULL", "INC", "COPY", "inc"])}-${dice.below(12)}-${
    dice.pick(["a", "b"])
  }`;
  return dice.pick([name, name, name, "a", "FULL-a", mutateText(dice, name), word(dice)]);
}

fuzz("orderByName() gives an order that the names bear out, or throws ChainError", dice, (seed) => {
  const dice = new Dice(seed);
  const names = [...new Set(dice.some(6, () => fileName(dice)))];
  const order = mayThrow(ChainError, () => orderByName("/backup/disk0", names));
  if (!order) return;
  const before = new Map<string, string>();
  let last = { level: "", unixSeconds: -1 };
  for (const { name, level, unixSeconds, parent } of order) {
    assert(names.includes(name));
    // A prune that was killed leaves both an increment and the full backup that it made of it.
    const isTwin = last.level === "inc" && level === "full" && unixSeconds === last.unixSeconds;
    assert(unixSeconds > last.unixSeconds || unixSeconds === 0 || isTwin, `${names}`);
    last = { level, unixSeconds };
    assertEquals(parent !== null, level === "inc");
    if (parent !== null) assert(["full", "inc"].includes(before.get(parent) ?? ""), parent);
    before.set(name, level);
  }
});

fuzz("pickPoint() picks a point of any folder, or throws Failure", dice, (seed) => {
  const dice = new Dice(seed);
  const names = dice.some(6, () => fileName(dice));
  const until = dice.pick([null, fileName(dice), "1970-01-01 00:00:05Z", word(dice)]);
  const layers = mayThrow(Failure, () => {
    const points = pointsOfNames("/backup/disk0", names, new Set(dice.some(1, () => "a")));
    return pickPoint(points, until).layers();
  });
  if (!layers) return;
  assertEquals(layers.map(({ parent }) => parent), [
    null,
    ...layers.map(({ path }) => path).slice(0, -1),
  ]);
});

fuzz("pointsOfNames() throws UsageError where there is no image", dice, (seed) => {
  const dice = new Dice(seed);
  const names = dice.some(3, () => word(dice).replace(/^(FULL|INC|COPY)-/, "_"));
  assertEquals(mayThrow(UsageError, () => pointsOfNames("/backup/disk0", names)), undefined);
});

fuzz("parseTime() gives a time or null, and reads what is printed", dice, (seed) => {
  const dice = new Dice(seed);
  const written = dice.pick([
    "2026-11-22 23:00",
    "2026-11-22",
    "2026-11-22T23:00:01.5Z",
    word(dice),
  ]);
  const timeMs = parseTime(mutateText(dice, written));
  assert(timeMs === null || !Number.isNaN(new Date(timeMs).getTime()));
  const date = new Date(dice.below(2 ** 32) * 1000 + dice.below(1000));
  const printed = parseTime(localTime(date)) ?? NaN;
  assertEquals(Math.floor(printed / 1000), Math.floor(date.getTime() / 1000), localTime(date));
});
