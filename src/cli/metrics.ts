/**
 * The result of a VM's last run in Prometheus' text format, for node_exporter's textfile collector.
 *
 * Source: Prometheus' "Exposition formats", version 0.0.4; node_exporter's README, "Textfile Collector".
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { getLogger } from "@logtape/logtape";
import { basename, dirname, join, resolve } from "@std/path";
import { createFile, lookAt } from "../fs/create.ts";
import { printable } from "./output/text.ts";
import type { RunRecord } from "../repo/record.ts";
import { removeFile, renameDurably } from "../fs/durable.ts";
import { readUpTo } from "../fs/open.ts";
import { Failure, messageOf } from "../errors.ts";

const log = getLogger(["qmpbackup", "metrics"]);

/** What is written of a run. */
export interface RunMetrics {
  /** The target as it was asked for. */
  target: string;
  started: Date;
  finished: Date;
  exitCode: number;
  /** Null where the run ended before it began: refused, locked, QEMU out of reach. */
  record: RunRecord | null;
}

interface Metric {
  name: string;
  help: string;
  /** None where it is not known. */
  samples: [labels: Record<string, string>, value: number][];
}

const LAST_SUCCESS = "qmpbackup_last_success_timestamp_seconds";

/**
 * The text.
 *
 * @param before What the file held: the last success is kept, and the VM's name where it can't be asked.
 */
export function metricsText(run: RunMetrics, before: string): string {
  const { target, started, finished, exitCode, record } = run;
  const known = lastSuccess(before);
  const vm = record?.vm.name || known?.vm || basename(target);
  const success = record?.state === "done" ? finished.getTime() / 1000 : known?.seconds;
  const disks = record?.disks ?? [];
  const metrics: Metric[] = [
    {
      name: "qmpbackup_last_run_timestamp_seconds",
      help: "When the last run ended, in Unix time.",
      samples: [[{ vm }, finished.getTime() / 1000]],
    },
    {
      name: "qmpbackup_last_run_duration_seconds",
      help: "How long the last run took.",
      samples: [[{ vm }, (finished.getTime() - started.getTime()) / 1000]],
    },
    {
      name: "qmpbackup_last_run_exit_code",
      help: "The exit code of the last run: 0 is success, qmpbackup --help lists the others.",
      samples: [[{ vm }, exitCode]],
    },
    {
      name: "qmpbackup_last_run_warnings",
      help: "How many warnings the last run gave.",
      samples: [[{ vm }, record?.warnings.length ?? 0]],
    },
    {
      name: "qmpbackup_disks_left_out",
      help: "How many devices with data the last run left out without being asked to.",
      samples: record
        ? [[{ vm }, record.leftOut.filter(({ unasked }) => unasked === true).length]]
        : [],
    },
    {
      name: LAST_SUCCESS,
      help: "When the last successful run ended, in Unix time.",
      samples: success === undefined ? [] : [[{ vm }, success]],
    },
    {
      name: "qmpbackup_disk_result",
      help: "How the last run ended for a disk: see the label result. The value is always 1.",
      samples: disks.map(({ name, level, result }) => [{ vm, disk: name, level, result }, 1]),
    },
    {
      name: "qmpbackup_disk_written_bytes",
      help: "The size of the image that the last run made of a disk.",
      samples: disks.map(({ name, level, bytesWritten }) => [
        { vm, disk: name, level },
        bytesWritten,
      ]),
    },
  ];
  return textOf(metrics) + keptFamilies(before, (name) => isOfVerify(name) || isOfBoot(name));
}

/** What is written of a verification of one target. */
export interface VerifyMetrics {
  target: string;
  vm: string;
  finished: Date;
  damages: number;
  spoiledPoints: number;
}

/** The text of what `restore verify` found, before what a backup wrote into the same file. */
export function verifyMetricsText(all: readonly VerifyMetrics[], before: string): string {
  const samples = (of: (one: VerifyMetrics) => number) =>
    all.map((one): Metric["samples"][number] => [{ vm: one.vm, target: one.target }, of(one)]);
  const metrics: Metric[] = [
    {
      name: "qmpbackup_last_verified_timestamp_seconds",
      help: "When the last verification ended, in Unix time.",
      samples: samples(({ finished }) => finished.getTime() / 1000),
    },
    {
      name: "qmpbackup_verify_ok",
      help: "Whether the last verification found no damage: 1 or 0.",
      samples: samples(({ damages }) => damages === 0 ? 1 : 0),
    },
    {
      name: "qmpbackup_verify_damages",
      help: "How many damages the last verification found.",
      samples: samples(({ damages }) => damages),
    },
    {
      name: "qmpbackup_verify_spoiled_points",
      help: "How many restore points need a damaged file.",
      samples: samples(({ spoiledPoints }) => spoiledPoints),
    },
  ];
  return textOf(metrics) + keptFamilies(before, (name) => !isOfVerify(name));
}

/** The text of what `restore test` found, before what others wrote into the same file. */
export function bootMetricsText(
  { vm, target, result }: {
    vm: string;
    target: string;
    result: { started: string; booted: boolean; seconds: number };
  },
  before: string,
): string {
  const sample = (value: number): Metric["samples"] => [[{ vm, target }, value]];
  const metrics: Metric[] = [
    {
      name: "qmpbackup_last_boot_test_timestamp_seconds",
      help: "When the last boot test began, in Unix time.",
      samples: sample(Date.parse(result.started) / 1000),
    },
    {
      name: "qmpbackup_boot_test_ok",
      help: "Whether the last boot test found the guest alive: 1 or 0.",
      samples: sample(result.booted ? 1 : 0),
    },
    {
      name: "qmpbackup_boot_test_duration_seconds",
      help: "How long the last boot test waited for the guest.",
      samples: sample(result.seconds),
    },
  ];
  return textOf(metrics) + keptFamilies(before, (name) => !isOfBoot(name));
}

const isOfBoot = (name: string) => /^qmpbackup_(last_boot|boot)_/.test(name);

const isOfVerify = (name: string) => /^qmpbackup_(last_verified|verify)_/.test(name);

/** The metrics in a text that we wrote which the other subcommand keeps up to date. */
function keptFamilies(before: string, isKept: (name: string) => boolean): string {
  const families = before.split(/^(?=# HELP )/m);
  return families.filter((family) => {
    const name = /^# HELP (qmpbackup_\w+) /.exec(family)?.[1];
    return name !== undefined && isKept(name);
  }).join("");
}

function textOf(metrics: Metric[]): string {
  return metrics.filter(({ samples }) => samples.length > 0).map(familyText).join("");
}

function familyText({ name, help, samples }: Metric): string {
  const lines = samples.map(([labels, value]) => {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escaped(text)}"`);
    return `${name}{${pairs.join(",")}} ${value}\n`;
  });
  return [`# HELP ${name} ${help}\n`, `# TYPE ${name} gauge\n`, ...lines].join("");
}

/** As the format wants it, a line end too; anything else that would drive a terminal is shown. */
function escaped(text: string): string {
  const lines = text.split("\n").map((line) =>
    printable(line).replaceAll("\\", "\\\\").replaceAll('"', '\\"')
  );
  return lines.join("\\n");
}

function unescaped(text: string): string {
  return text.replace(/\\(.)/g, (_, c) => c === "n" ? "\n" : c);
}

/** The last success in a text that we wrote, with the VM's name. */
function lastSuccess(text: string): { vm: string; seconds: number } | null {
  const pattern = new RegExp(
    `^${LAST_SUCCESS}\\{vm="((?:[^"\\\\\n]|\\\\.)*)"\\} (\\d+(?:\\.\\d+)?)$`,
    "m",
  );
  const [, vm, seconds] = pattern.exec(text) ?? [];
  return vm === undefined ? null : { vm: unescaped(vm), seconds: Number(seconds) };
}

/** What we write is some kilobytes. */
const MAX_BYTES = 1 << 20;

/**
 * Writes the file, and warns if it can't be: nothing fails for that.
 *
 * @returns Whether it was written.
 */
export async function tryToWriteMetrics(
  deadline: Deadline,
  file: string,
  textAfter: (before: string) => string,
): Promise<boolean> {
  const path = resolve(file);
  try {
    await writeMetrics(deadline, path, textAfter);
    return true;
  } catch (error) {
    const words = messageOf(error);
    log.warn('The metrics could not be written to "{path}": {words}', { path, words });
    return false;
  }
}

/**
 * Writes the file whole or not at all, for every user to read; the collector is another one, and its folder
 * may belong to that one.
 *
 * @param textAfter Makes the text; it gets what the file held.
 */
export async function writeMetrics(
  deadline: Deadline,
  path: string,
  textAfter: (before: string) => string,
): Promise<void> {
  const present = await lookAt(deadline, path);
  // A link is replaced, not followed. What a reader waits at, or a device, is not.
  if (present && !present.isFile && !present.isSymlink) {
    throw new Failure("it exists, but is not a regular file: name another one");
  }
  const before = await readUpTo(deadline, path, MAX_BYTES).catch(() => null) ?? "";
  // A run that is refused may write at the same time as the one that holds the lock.
  const fresh = join(dirname(path), `.qmpbackup-${crypto.randomUUID()}`);
  try {
    await createFile(deadline, fresh, 0o644, textAfter(before));
    await renameDurably(deadline, fresh, path);
  } catch (error) {
    await removeFile(deadline, fresh).catch(() => {});
    throw error;
  }
}
