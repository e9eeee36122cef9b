import { assertEquals, assertThrows } from "@std/assert";
import { localTime } from "../../../src/time.ts";
import { Failure, UsageError } from "../../../src/errors.ts";
import {
  parseTime,
  pickPoint,
  pointsOfNames,
  type RestorePoint,
} from "../../../src/restore/points.ts";
import { aDiskRecord, aRun } from "../_fixtures.ts";

const DIR = "/backup/vm1/disk0";
const FULL = "FULL-1000-disk0.qcow2", INC1 = "INC-2000-disk0.qcow2", INC2 = "INC-3000-disk0.qcow2";

const pathsOf = (point: RestorePoint | undefined) => point?.layers().map(({ path }) => path);
const namesOf = (points: RestorePoint[]) => points.map(({ name }) => name);

Deno.test("pointsOfNames() goes by the time in the names", () => {
  assertEquals(namesOf(pointsOfNames(DIR, [INC2, FULL, INC1])), [FULL, INC1, INC2]);
});

Deno.test("pointsOfNames() does not sort times as texts", () => {
  const names = ["FULL-999-disk0.qcow2", "INC-1000-disk0.qcow2"];
  assertEquals(namesOf(pointsOfNames(DIR, names)), names);
});

Deno.test("pointsOfNames() chains the increments to the full backup before them", () => {
  const [, , point] = pointsOfNames(DIR, [FULL, INC1, INC2]);
  assertEquals(point?.layers(), [
    { path: `${DIR}/${FULL}`, parent: null, timeMs: 1_000_000 },
    { path: `${DIR}/${INC1}`, parent: `${DIR}/${FULL}`, timeMs: 2_000_000 },
    { path: `${DIR}/${INC2}`, parent: `${DIR}/${INC1}`, timeMs: 3_000_000 },
  ]);
});

Deno.test("pointsOfNames() says time and folder, and no run", () => {
  const [point] = pointsOfNames(DIR, [FULL]);
  assertEquals([point?.timeMs, point?.folder, point?.runId], [1_000_000, "disk0", null]);
});

Deno.test("pointsOfNames() starts a new chain at each full backup", () => {
  const points = pointsOfNames(DIR, [FULL, INC1, "FULL-4000-disk0.qcow2", "INC-5000-disk0.qcow2"]);
  assertEquals(pathsOf(points.at(-1)), [
    `${DIR}/FULL-4000-disk0.qcow2`,
    `${DIR}/INC-5000-disk0.qcow2`,
  ]);
});

Deno.test("pointsOfNames() keeps a copy out of the chain", () => {
  const points = pointsOfNames(DIR, [FULL, "COPY-1500-disk0.qcow2", INC1]);
  assertEquals(pathsOf(points[1]), [`${DIR}/COPY-1500-disk0.qcow2`]);
  assertEquals(pathsOf(points[2]), [`${DIR}/${FULL}`, `${DIR}/${INC1}`]);
});

Deno.test("pointsOfNames() passes over what is no image", () => {
  const names = ["uuid", "disk0.qcow2.config", "image", "FULL-1-x.partial", FULL];
  assertEquals(namesOf(pointsOfNames(DIR, names)), [FULL]);
});

Deno.test("pointsOfNames() refuses two images of one time", () => {
  const names = [FULL, INC1, "INC-2000-other.qcow2"];
  assertThrows(() => pointsOfNames(DIR, names), Failure, "have the same time");
});

Deno.test("pointsOfNames() refuses an increment without a full backup before it", () => {
  const names = [INC1, "FULL-4000-disk0.qcow2"];
  assertThrows(() => pointsOfNames(DIR, names), Failure, "no full backup before it");
});

Deno.test("pointsOfNames() does not take a copy for the full backup of an increment", () => {
  const names = ["COPY-1500-disk0.qcow2", INC1];
  assertThrows(() => pointsOfNames(DIR, names), Failure, "no full backup before it");
});

Deno.test("pointsOfNames() refuses a folder without images", () => {
  assertThrows(() => pointsOfNames(DIR, ["uuid"]), UsageError, `no backups in "${DIR}"`);
});

function aPoint(name: string, timeMs: number, runId: string | null = null): RestorePoint {
  return {
    name,
    path: `/backup/disk0/${name}`,
    folder: "disk0",
    disk: "disk0",
    timeMs,
    level: "full",
    format: null,
    runId,
    target: null,
    layers: () => [],
    layersNow: () => Promise.resolve([]),
  };
}

const T0 = Date.parse("2026-11-20T12:00:00.400Z");
const HOUR = 3600_000;
const POINTS = [
  aPoint(FULL, T0, "run1"),
  aPoint(INC1, T0 + HOUR, "run2"),
  aPoint(INC2, T0 + 2 * HOUR, "run3"),
];
const pick = (until: string | null, points = POINTS) => pickPoint(points, until).name;

Deno.test("pickPoint() takes the newest where nothing is said", () => {
  assertEquals(pick(null), INC2);
});

Deno.test("pickPoint() takes a file's name", () => assertEquals(pick(INC1), INC1));

Deno.test("pickPoint() takes a file's path", () => assertEquals(pick(`disk0/${INC1}`), INC1));

Deno.test("pickPoint() takes a run's id", () => assertEquals(pick("run2"), INC1));

Deno.test("pickPoint() takes the last point before a time", () => {
  assertEquals(pick("2026-11-20T13:59:59Z"), INC1);
});

Deno.test("pickPoint() takes the last point of a day", () => {
  const day = localTime(new Date(T0 + 2 * HOUR)).slice(0, 10);
  assertEquals(pick(day), INC2);
});

for (const point of POINTS) {
  Deno.test(`pickPoint() takes the time of ${point.name} as info prints it`, () => {
    assertEquals(pick(localTime(new Date(point.timeMs))), point.name);
  });
}

Deno.test("pickPoint() takes a point's time in local time, without the zone", () => {
  assertEquals(pick(localTime(new Date(T0)).slice(0, 19)), FULL);
});

Deno.test("pickPoint() takes the newest run where the clock was set back", () => {
  const points = [aPoint("a", T0), aPoint("b", T0 - HOUR)];
  assertEquals(pick("2026-11-20T13:00Z", points), "b");
});

Deno.test("pickPoint() refuses a time before the first point, with the first", () => {
  assertThrows(
    () => pick("2026-11-20T11:00Z"),
    UsageError,
    'no restore point before "2026-11-20T11:00Z": the first is of ' + localTime(new Date(T0)),
  );
});

for (const until of ["INC-9999-disk0.qcow2", "disk0", "yesterday", "2026-13-01", "run"]) {
  Deno.test(`pickPoint() refuses "${until}", with the newest image`, () => {
    assertThrows(() => pick(until), UsageError, `the newest image is "${INC2}"`);
  });
}

Deno.test("pickPoint() says what became of a run that holds nothing, and why", () => {
  const runs = [
    aRun([], { id: "night", state: "failed", error: "It is off" }),
    aRun([aDiskRecord("disk0", { result: "failed", error: "No space" })], {
      id: "full",
      state: "failed",
    }),
    aRun([aDiskRecord("disk0", { result: "pending" })], { id: "dead", state: "running" }),
  ];
  const time = localTime(new Date("2026-11-21T23:00:00Z"));
  for (
    const [id, words] of [
      ["night", "failed: It is off"],
      ["full", "failed: No space"],
      ["dead", "is still running, or was killed"],
    ] as const
  ) {
    assertThrows(
      () => pickPoint(POINTS, id, runs),
      UsageError,
      `The run "${id}" of ${time} ${words}. It holds nothing to restore here: name another one`,
    );
  }
});

Deno.test("pickPoint() refuses where there is no point", () => {
  assertThrows(() => pick(null, []), UsageError, "no restore point");
});

const local = (...parts: [number, number, number, number, number, number?, number?]) =>
  new Date(...parts).getTime();

Deno.test("parseTime() reads local time", () => {
  const end = local(2026, 10, 22, 23, 5, 7, 999);
  assertEquals(parseTime("2026-11-22 23:05:07"), end);
  assertEquals(parseTime("2026-11-22T23:05:07"), end);
});

Deno.test("parseTime() takes a day, a minute and a second for their ends", () => {
  assertEquals(parseTime("2026-11-22"), local(2026, 10, 22, 23, 59, 59, 999));
  assertEquals(parseTime("2026-11-22 23:05"), local(2026, 10, 22, 23, 5, 59, 999));
});

for (const zone of ["Z", "+00:00", "+0000", "-0000"]) {
  Deno.test(`parseTime() reads the zone "${zone}"`, () => {
    assertEquals(parseTime(`2026-11-22 23:05${zone}`), Date.UTC(2026, 10, 22, 23, 5, 59, 999));
  });
}

Deno.test("parseTime() reads a zone away from Greenwich", () => {
  assertEquals(parseTime("2026-11-22T23:05+0530"), Date.UTC(2026, 10, 22, 17, 35, 59, 999));
  assertEquals(parseTime("2026-11-22T23:05-05:00"), Date.UTC(2026, 10, 23, 4, 5, 59, 999));
});

Deno.test("parseTime() reads parts of a second", () => {
  assertEquals(parseTime("2026-11-22T23:05:07.250Z"), Date.UTC(2026, 10, 22, 23, 5, 7, 250));
});

const NO_TIMES = [
  ...[
    "",
    "now",
    "2026",
    "2026-11",
    "20261122",
    "22.11.2026",
    "2026-11-22 23",
    "23:05",
    "1763852400",
  ],
  ...[
    "2026-13-01",
    "2026-11-31",
    "2026-02-30",
    "2026-11-22 25:00",
    "2026-11-22 23:60",
    "2026-00-01",
  ],
  ...["2026-11-22 23:05 tomorrow", "2026-11-22Z"],
];
for (const text of NO_TIMES) {
  Deno.test(`parseTime() refuses "${text}"`, () => assertEquals(parseTime(text), null));
}

Deno.test("pointsOfNames() takes images of two disks for no chain", () => {
  const names = ["FULL-100-a", "FULL-150-b", "INC-200-a", "INC-250-b"];
  assertThrows(() => pointsOfNames("/d", names), Failure, "holds images of several disks");
});

Deno.test("pointsOfNames() follows a disk whose file got another name", () => {
  const points = pointsOfNames("/d", ["FULL-100-a", "INC-150-a", "INC-200-over", "FULL-250-over"]);
  assertEquals(points.map((point) => point.layers().length), [1, 2, 3, 1]);
});
