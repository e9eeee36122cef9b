/**
 * The result of `info --dir` for a folder of several VMs: a line each, the worst first; and the line of a
 * monitoring plugin. Pure.
 *
 * @module
 */

import { type Health, HEALTHS, type VmHealth } from "../../overview/health.ts";
import { localTime, span } from "../../time.ts";
import { printable, size, table } from "./text.ts";

/** What people are told of each. */
export const HEALTH_WORDS: Record<Health, string> = {
  unreadable: "UNREADABLE",
  never: "NO BACKUP",
  broken: "BROKEN",
  old: "OLD",
  failed: "FAILED",
  warned: "warnings",
  ok: "ok",
};

/** @param all The worst first. */
export function fleetText(all: readonly VmHealth[], columns = Infinity): string {
  const rows = all.map((one) => [
    HEALTH_WORDS[one.health],
    one.vm === one.name ? one.name : `${one.name} (${one.vm})`,
    one.lastComplete ? localTime(new Date(one.lastComplete.timeMs)) : "-",
    one.ageMs === null ? "-" : span(one.ageMs),
    one.lastComplete ? size(one.lastComplete.sizeBytes) : "-",
    one.reason,
  ]);
  return table([["STATE", "VM", "LAST BACKUP", "AGE", "SIZE", "NOTE"], ...rows], columns) +
    `${countsText(all)}\n`;
}

/** "12 VMs: 1 old, 11 ok". */
export function countsText(all: readonly VmHealth[]): string {
  const counts = Map.groupBy(all, ({ health }) => health);
  const parts = HEALTHS.flatMap((health) => {
    const count = counts.get(health)?.length ?? 0;
    return count > 0 ? `${count} ${HEALTH_WORDS[health].toLowerCase()}` : [];
  });
  return `${all.length} ${all.length === 1 ? "VM" : "VMs"}: ${parts.join(", ")}`;
}

/** Whether a VM has no backup that can be relied on: what `--max-age` exits with 1 for. */
export function isCritical({ health }: VmHealth): boolean {
  return health !== "failed" && health !== "warned" && health !== "ok";
}

/** What a plugin prints and exits with: https://www.monitoring-plugins.org/doc/guidelines.html */
export interface PluginResult {
  line: string;
  exitCode: 0 | 1 | 2 | 3;
}

const PLUGIN_WORDS = ["OK", "WARNING", "CRITICAL", "UNKNOWN"] as const;

/**
 * One line: the state, what is wrong with which VM, and the age of each VM's newest backup as performance
 * data.
 *
 * @param all The worst first.
 */
export function pluginResult(all: readonly VmHealth[], maxAgeMs: number): PluginResult {
  if (all.length === 0) return pluginUnknown("no backups found");
  const exitCode = all.some(isCritical) ? 2 : all.some(({ health }) => health !== "ok") ? 1 : 0;
  const bad = all.filter(({ health }) => health !== "ok")
    .map(({ name, health, reason }) => `${name} ${HEALTH_WORDS[health].toLowerCase()}: ${reason}`);
  const words = [countsText(all), ...bad].join("; ");
  const data = all.map(({ name, ageMs }) =>
    // "U": the value could not be determined.
    `${label(name)}=${ageMs === null ? "U" : `${Math.floor(ageMs / 1000)}s`};;${maxAgeMs / 1000};0`
  );
  return { line: `${head(exitCode)} - ${pluginWords(words)} | ${data.join(" ")}\n`, exitCode };
}

/** What could not be found out. */
export function pluginUnknown(message: string): PluginResult {
  return { line: `${head(3)} - ${pluginWords(message)}\n`, exitCode: 3 };
}

const head = (exitCode: 0 | 1 | 2 | 3) => `QMPBACKUP ${PLUGIN_WORDS[exitCode]}`;

/** One line, in which the bar has a meaning. Longer ones are cut off by some, and the data with them. */
function pluginWords(text: string): string {
  return [...printable(text).replaceAll("|", "/")].slice(0, 1000).join("");
}

/** In quotes, which are doubled inside; an equals sign may not stand in it. */
function label(name: string): string {
  return `'${printable(name).replaceAll("=", "_").replaceAll("|", "/").replaceAll("'", "''")}'`;
}
