/**
 * Which restore points are kept. Pure.
 *
 * The rules have the meaning that they have in Proxmox Backup Server, with restic's "within" before them. They
 * are applied in the order of `RULES`. Each one takes the newest point of as many hours (days, …) as it says:
 * only hours that have points count, and only those of which no rule before it keeps a point. In restic a point
 * that one rule keeps counts for the others too, so that it keeps fewer.
 *
 * Source: Proxmox Backup Server's manual, "Pruning" ("The next option does not take care of already covered
 * backups. It will only consider older backups"), and its tests/prune.rs; restic's doc/060_forget.rst.
 *
 * @module
 */

import { before, type Duration } from "../duration.ts";

/** What is to be kept; a rule that is not given keeps nothing. */
export interface KeepRules {
  within?: Duration;
  last?: number;
  hourly?: number;
  daily?: number;
  weekly?: number;
  monthly?: number;
  yearly?: number;
}

/** A restore point of all disks that a run holds. */
export interface PolicyPoint {
  timeMs: number;
  /** All disks of the run are done: of an hour (a day, …) such a point is kept rather than another. */
  isWhole: boolean;
  /** Why it stays whatever the rules say, and without being counted; null where they decide. */
  stays: string | null;
  /** Why it stays if no rule keeps it; null where it may go. */
  needed: string | null;
}

/** What becomes of a point. */
export interface Verdict<P> {
  point: P;
  /** Why it is kept; none if it goes. */
  reasons: string[];
}

type Rule = Exclude<keyof KeepRules, "within">;

const two = (value: number) => String(value).padStart(2, "0");
const day = (date: Date) => `${month(date)}-${two(date.getDate())}`;
const month = (date: Date) => `${date.getFullYear()}-${two(date.getMonth() + 1)}`;

/** The rules in their order, each with the name of the stretch of local time that a moment lies in. */
const RULES: Record<Rule, (date: Date, index: number) => string> = {
  last: (_date, index) => String(index),
  hourly: (date) => `${day(date)} ${two(date.getHours())}`,
  daily: day,
  weekly: isoWeek,
  monthly: month,
  yearly: (date) => String(date.getFullYear()),
};

/** "2026-W48": weeks begin on Monday, and belong to the year that their Thursday lies in (ISO 8601). */
export function isoWeek(date: Date): string {
  const thursday = new Date(date.getFullYear(), date.getMonth(), date.getDate());
  thursday.setDate(thursday.getDate() + 3 - (thursday.getDay() + 6) % 7);
  const first = new Date(thursday.getFullYear(), 0, 1);
  const days = Math.round((thursday.getTime() - first.getTime()) / 86_400_000);
  return `${thursday.getFullYear()}-W${two(Math.floor(days / 7) + 1)}`;
}

/** Whether any rule keeps anything: without one, everything would go. */
export function keepsAnything({ within, ...counts }: KeepRules): boolean {
  return within !== undefined || Object.values(counts).some((count) => count > 0);
}

/**
 * Applies the rules.
 *
 * @param points The oldest first.
 * @param nowMs What is later than this was made with a wrong clock: it is kept within any duration.
 * @returns A verdict for each, in the same order.
 */
export function applyRules<P extends PolicyPoint>(
  points: readonly P[],
  rules: KeepRules,
  nowMs: number,
): Verdict<P>[] {
  const reasons = new Map<P, string[]>(points.map((point) => [point, []]));
  const indexOf = new Map(points.map((point, index) => [point, index]));
  const keep = (point: P | undefined, reason: string) => point && reasons.get(point)?.push(reason);
  const newestFirst = points.toReversed();
  for (const point of newestFirst) if (point.stays !== null) keep(point, point.stays);
  // What is decided is not looked at by later rules; what stays anyway is looked at by none.
  const decided = new Set(points.filter(({ stays }) => stays !== null));
  const counted: P[] = [];
  const take = (point: P, reason: string) => {
    keep(point, reason);
    counted.push(point);
    decided.add(point);
  };
  if (rules.within) {
    const newest = newestFirst.find(({ timeMs }) => timeMs <= nowMs);
    const limitMs = newest ? before(newest.timeMs, rules.within) : -Infinity;
    for (const point of newestFirst) {
      if (!decided.has(point) && point.timeMs > limitMs) take(point, "within");
    }
  }
  for (const [rule, stretchOf] of Object.entries(RULES)) {
    const count = rules[rule as Rule] ?? 0;
    const nameOf = (point: P) => stretchOf(new Date(point.timeMs), indexOf.get(point) ?? 0);
    const covered = new Set(counted.map(nameOf));
    const open = newestFirst.filter((point) => !decided.has(point) && !covered.has(nameOf(point)));
    for (const group of [...Map.groupBy(open, nameOf).values()].slice(0, count)) {
      take(group.find(({ isWhole }) => isWhole) ?? group[0] as P, rule);
      for (const point of group) decided.add(point);
    }
  }
  for (const point of points) {
    if (point.needed !== null && reasons.get(point)?.length === 0) keep(point, point.needed);
  }
  return points.map((point) => ({ point, reasons: reasons.get(point) ?? [] }));
}
