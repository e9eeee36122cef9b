import { assertEquals } from "@std/assert";
import { applyRules, isoWeek, type KeepRules, keepsAnything } from "../../../src/prune/policy.ts";
import { parseDuration } from "../../../src/duration.ts";

interface P {
  name: string;
  timeMs: number;
  isWhole: boolean;
  stays: string | null;
  needed: string | null;
}

/** Points by their local times; "!" is a protected one, "?" one that lacks a disk, "*" one that is needed. */
function pointsOf(times: string[]): P[] {
  return times.map((text) => {
    const name = text.replace(/[!?*]$/, "");
    return {
      name,
      timeMs: new Date(name).getTime(),
      isWhole: !text.endsWith("?"),
      stays: text.endsWith("!") ? "protected" : null,
      needed: text.endsWith("*") ? "newest of disk0" : null,
    };
  });
}

const NOW = new Date("2030-01-01T00:00:00").getTime();

function kept(times: string[], rules: KeepRules, now = NOW): string[] {
  return applyRules(pointsOf(times), rules, now).filter(({ reasons }) => reasons.length > 0)
    .map(({ point }) => point.name);
}

const within = (text: string) => parseDuration(text) ?? { years: 0, months: 0, days: 0, hours: 0 };

const HOURS = ["09:39", "10:49", "10:59", "11:39", "11:49", "11:59"].map((t) =>
  `2019-11-15T${t}:15`
);
const YEARS = [
  ...["2018-11-15", "2019-11-15", "2019-11-21", "2019-11-22", "2019-11-29", "2019-12-01"],
  ...["2019-12-02", "2019-12-03", "2019-12-04"],
].map((day) => `${day}T11:59:15`);
const DAYS = ["02T11", "03T11", "04T11", "04T12"].map((t) => `2019-12-${t}:59:15`);
/** restic's manual: "you have only made one backup every Sunday for 12 weeks". */
const SUNDAYS = [
  ...["09-01", "09-08", "09-15", "09-22", "09-29", "10-06", "10-13", "10-20", "10-27", "11-03"],
  ...["11-10", "11-17"],
].map((day) => `2019-${day}T11:00:00`);
/** One at noon of every day of three months, the last on a Wednesday. */
const QUARTER = Array.from({ length: 92 }, (_, i) => {
  const date = new Date(2026, 8, 1 + i, 12);
  const two = (n: number) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T12:00:00`;
});
const noon = (...days: string[]) => days.map((day) => `2026-${day}T12:00:00`);

const TABLE: [what: string, times: string[], rules: KeepRules, kept: string[]][] = [
  // Proxmox Backup Server, tests/prune.rs
  ["3 hourly", HOURS, { hourly: 3 }, [0, 2, 5].map((i) => HOURS[i] ?? "")],
  ["2 hourly", HOURS, { hourly: 2 }, [2, 5].map((i) => HOURS[i] ?? "")],
  ["1 daily", YEARS, { daily: 1 }, YEARS.slice(8)],
  ["the last and 1 daily: another day", YEARS, { last: 1, daily: 1 }, YEARS.slice(7)],
  ["1 daily and 1 weekly: another week", YEARS, { daily: 1, weekly: 1 }, [
    YEARS[5] ?? "",
    YEARS[8] ?? "",
  ]],
  [
    "1 daily, 1 weekly and 1 monthly: a month before both",
    YEARS,
    { daily: 1, weekly: 1, monthly: 1 },
    [YEARS[3] ?? "", YEARS[5] ?? "", YEARS[8] ?? ""],
  ],
  ["1 monthly and 1 yearly", YEARS, { monthly: 1, yearly: 1 }, [YEARS[0] ?? "", YEARS[8] ?? ""]],
  ["the last 4", DAYS, { last: 4 }, DAYS],
  ["the last 3", DAYS, { last: 3 }, DAYS.slice(1)],
  ["the last 1", DAYS, { last: 1 }, DAYS.slice(3)],
  ["the last 2 and 2 daily", DAYS, { last: 2, daily: 2 }, DAYS],
  ["3 daily", DAYS, { daily: 3 }, [DAYS[0] ?? "", DAYS[1] ?? "", DAYS[3] ?? ""]],
  ["2 daily", DAYS, { daily: 2 }, [DAYS[1] ?? "", DAYS[3] ?? ""]],
  ["5 weekly, all in one week", DAYS, { weekly: 5 }, DAYS.slice(3)],
  ["1 daily, 5 weekly, all in one week", DAYS, { daily: 1, weekly: 5 }, DAYS.slice(3)],
  ["6 monthly, all in one month", DAYS, { monthly: 6 }, DAYS.slice(3)],
  [
    "weeks, months and years of one week",
    DAYS,
    { weekly: 5, monthly: 6, yearly: 7 },
    DAYS.slice(3),
  ],
  // restic, doc/060_forget.rst
  ["4 daily of what is weekly", SUNDAYS, { daily: 4 }, SUNDAYS.slice(8)],
  ["within 2 weeks of the newest", SUNDAYS, { within: within("14d") }, SUNDAYS.slice(10)],
  ["within 14 days and an hour", SUNDAYS, { within: within("14d1h") }, SUNDAYS.slice(9)],
  ["within a month: by the calendar", SUNDAYS, { within: within("1m") }, SUNDAYS.slice(7)],
  ["nothing but what is within an hour", SUNDAYS, { within: within("1h") }, SUNDAYS.slice(11)],
  // By hand. November 30 2026 is a Monday, December 1 a Tuesday.
  ["7 daily", QUARTER, { daily: 7 }, QUARTER.slice(-7)],
  [
    "3 daily, then 2 weeks that those are not in",
    QUARTER,
    { daily: 3, weekly: 2 },
    noon("11-15", "11-22", "11-29", "11-30", "12-01"),
  ],
  [
    "the last 2, 2 daily, 1 weekly, 2 monthly",
    QUARTER.slice(0, -1),
    { last: 2, daily: 2, weekly: 1, monthly: 2 },
    noon("09-30", "10-31", "11-22", "11-27", "11-28", "11-29", "11-30"),
  ],
  [
    "within a week, then 2 daily before it",
    QUARTER,
    { within: within("3d"), daily: 2 },
    noon("11-27", "11-28", "11-29", "11-30", "12-01"),
  ],
  // Ours.
  ["a protected one is kept, and not counted", DAYS.map((t, i) => i === 0 ? `${t}!` : t), {
    last: 1,
  }, [
    DAYS[0] ?? "",
    DAYS[3] ?? "",
  ]],
  [
    "a protected newest one leaves its place to the next",
    DAYS.map((t, i) => i === 3 ? `${t}!` : t),
    {
      daily: 1,
    },
    DAYS.slice(2),
  ],
  ["what is needed is kept last", DAYS.map((t, i) => i === 1 ? `${t}*` : t), { last: 1 }, [
    DAYS[1] ?? "",
    DAYS[3] ?? "",
  ]],
  ["a day's newest point that has all disks", ["2026-01-01T10:00", "2026-01-01T11:00?"], {
    daily: 1,
  }, [
    "2026-01-01T10:00",
  ]],
  ["a day's newest point where none has all disks", ["2026-01-01T10:00?", "2026-01-01T11:00?"], {
    daily: 1,
  }, ["2026-01-01T11:00"]],
  ["what a wrong clock made", ["2026-01-01T10:00", "2029-12-31T11:00", "2099-01-01T11:00"], {
    within: within("1d"),
  }, ["2029-12-31T11:00", "2099-01-01T11:00"]],
];
for (const [what, times, rules, expected] of TABLE) {
  Deno.test(`\`applyRules()\` keeps ${what}`, () => {
    assertEquals(kept(times, rules), expected);
  });
}

Deno.test("`applyRules()` says why: one rule for each point", () => {
  const verdicts = applyRules(pointsOf(["2026-01-01T10:00!", ...DAYS.map((t) => t)]), {
    last: 1,
    daily: 1,
  }, NOW);
  assertEquals(verdicts.map(({ reasons }) => reasons.join()), [
    "protected",
    "",
    "daily",
    "",
    "last",
  ]);
});

const WEEKS: [day: string, week: string][] = [
  ["2024-12-29", "2024-W52"],
  ["2024-12-30", "2025-W01"],
  ["2025-01-01", "2025-W01"],
  ["2026-12-31", "2026-W53"],
  ["2027-01-03", "2026-W53"],
  ["2027-01-04", "2027-W01"],
  ["2021-01-03", "2020-W53"],
  ["2026-03-29", "2026-W13"],
  ["2026-10-25", "2026-W43"],
];
for (const [day, week] of WEEKS) {
  Deno.test(`\`isoWeek()\` puts ${day} into ${week}`, () => {
    assertEquals(isoWeek(new Date(`${day}T00:00:00`)), week);
    assertEquals(isoWeek(new Date(`${day}T23:59:59`)), week);
  });
}

const DURATIONS: [text: string, read: ReturnType<typeof parseDuration>][] = [
  ["30d", { years: 0, months: 0, days: 30, hours: 0 }],
  ["2y5m7d3h", { years: 2, months: 5, days: 7, hours: 3 }],
  ["1h", { years: 0, months: 0, days: 0, hours: 1 }],
  ["", null],
  ["0d", null],
  ["1w", null],
  ["30", null],
  ["d", null],
  ["3h2d", null],
  ["-3d", null],
  ["99999d", null],
  ["1d ", null],
];
for (const [text, read] of DURATIONS) {
  Deno.test(`\`parseDuration()\` reads ${JSON.stringify(text)} as ${JSON.stringify(read)}`, () => {
    assertEquals(parseDuration(text), read);
  });
}

Deno.test("`keepsAnything()` takes 0 for nothing", () => {
  assertEquals(keepsAnything({ last: 0, daily: 0 }), false);
  assertEquals(keepsAnything({}), false);
  assertEquals(keepsAnything({ last: 0, yearly: 1 }), true);
  assertEquals(keepsAnything({ within: within("1d") }), true);
});
