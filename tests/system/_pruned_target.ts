/**
 * A target made of QEMU's tools and records alone, and what each of its points holds.
 *
 * @module
 */

import { deadline } from "../support/deadline.ts";
import { assert, assertStringIncludes } from "@std/assert";
import { basename } from "@std/path";
import { Failure } from "../../src/errors.ts";
import { LOCK_FILE } from "../../src/repo/layout.ts";
import { formatRecord, type RunRecord } from "../../src/repo/record.ts";
import { createTarget, readTarget, recordFingerprints } from "../../src/repo/repository.ts";
import { lookAtImage } from "../../src/repo/fingerprint.ts";
import { restorePoints } from "../../src/repo/chains.ts";
import { aDiskRecord, aRun } from "../unit/_fixtures.ts";
import { contentsOf, firstDifference, KIB, makeLayer, readImage, type Write } from "./_images.ts";
import { merge } from "../../src/restore/merge.ts";
import { pointsOfNames, pointsOfTarget, type RestorePoint } from "../../src/restore/points.ts";
import { tempDir } from "../support/temp_dir.ts";
import { Buffer } from "node:buffer";

export const SIZE = 2 * 1024 * KIB;
/** Of what takes more than its metadata. */
export const LARGE = 8 * 1024 * KIB;

export interface MadePoint {
  id: string;
  contents: Map<string, Uint8Array>;
}

export interface MakeOptions {
  disks?: string[];
  /** What the full backup holds. */
  full?: Write[];
  /** The level of each point; "-" is a disk that failed. */
  levels: readonly ("full" | "inc" | "copy" | "-")[];
  diskBytes?: number;
  /** Seconds between two points. */
  stepSeconds?: number;
  start?: string;
  /** Don't link the images, as the Python tools leave them. */
  isUnlinked?: boolean;
  /** Of each point; the last one is for all after it. */
  clusterBytes?: number[];
  isCompressed?: boolean;
}

export function runIdOf(index: number): string {
  return `run${String(index).padStart(3, "0")}-0000${String(index).padStart(4, "0")}`;
}

/** Makes it; each increment writes something new, covers something old, and zeroes something. */
export async function makeTarget(path: string, options: MakeOptions): Promise<MadePoint[]> {
  const {
    levels,
    stepSeconds = 86_400,
    start = "2026-01-01T12:00:00Z",
    disks = ["disk0"],
    diskBytes = SIZE,
  } = options;
  await createTarget(deadline, path);
  await Deno.writeTextFile(`${path}/uuid`, aRun([]).chain);
  const state = new Map(
    disks.map((name) => [name, { writes: [] as Write[], last: null as string | null }]),
  );
  const made: MadePoint[] = [];
  const images: string[] = [];
  for (const [index, level] of levels.entries()) {
    const seconds = Date.parse(start) / 1000 + index * stepSeconds;
    const rows: RunRecord["disks"] = [];
    const contents = new Map<string, Uint8Array>();
    for (const [n, name] of disks.entries()) {
      const own = state.get(name);
      if (!own) continue;
      if (level === "-" && n === disks.length - 1) {
        rows.push(
          aDiskRecord(name, {
            result: "failed",
            error: "no",
            file: `${name}/INC-${seconds}-d`,
            bitmap: null,
          }),
        );
        continue;
      }
      const now: Write[] = level === "full"
        ? options.full ?? [[0, diskBytes / 2, 0x11 + n]]
        : changesOf(index, n);
      const all = level === "full" ? now : [...own.writes, ...now];
      const kind = level === "-" ? "inc" : level;
      const file = `${name}/${kind.toUpperCase()}-${seconds}-${name}.qcow2`;
      await Deno.mkdir(`${path}/${name}`, { recursive: true });
      const clusterBytes = options.clusterBytes?.[index] ?? options.clusterBytes?.at(-1);
      const link = kind === "inc" && own.last && !options.isUnlinked ? basename(own.last) : null;
      await makeLayer(`${path}/${file}`, diskBytes, kind === "copy" ? all : now, {
        ...(link ? { link } : {}),
        ...(clusterBytes ? { clusterBytes } : {}),
        isCompressed: options.isCompressed ?? false,
      });
      await Deno.chmod(`${path}/${file}`, 0o400);
      images.push(file);
      const { blocks } = await Deno.stat(`${path}/${file}`);
      rows.push(aDiskRecord(name, {
        level: kind,
        file,
        parent: kind === "inc" ? own.last : null,
        bitmap: kind === "copy"
          ? null
          : `qmpbackup-${name}-${String(index).padStart(8, "0")}-${aRun([]).chain}`,
        virtualSizeBytes: diskBytes,
        bytesWritten: (blocks ?? 0) * 512,
      }));
      if (kind !== "copy") {
        own.last = file;
        own.writes = all;
      }
      contents.set(name, contentsOf(diskBytes, all));
    }
    const time = new Date(seconds * 1000).toISOString();
    const run = aRun(rows, {
      id: runIdOf(index),
      sequence: index + 1,
      state: rows.every(({ result }) => result === "done") ? "done" : "failed",
      started: time,
      pointInTime: time,
      finished: time,
    });
    await Deno.writeTextFile(`${path}/_qmpbackup/runs/${run.id}.json`, formatRecord(run));
    made.push({ id: run.id, contents });
  }
  await Deno.writeTextFile(`${path}/${LOCK_FILE}`, "");
  const prints = new Map();
  for (const file of images) {
    const look = await lookAtImage(deadline, `${path}/${file}`);
    if ("fingerprint" in look) prints.set(file, look.fingerprint);
  }
  await recordFingerprints(deadline, path, prints);
  return made;
}

function changesOf(index: number, disk: number): Write[] {
  const at = (cluster: number) => (cluster % 31) * 64 * KIB;
  return [
    [at(index * 3), 64 * KIB, 0x20 + index + disk],
    [at(index * 3 + 5), 64 * KIB, 0],
    [at(index), 64 * KIB, 0x60 + index + disk],
  ];
}

/** The runs that can be restored, by their ids. */
export async function idsOf(path: string): Promise<string[]> {
  const { runs } = await readTarget(deadline, path);
  return [...new Set(restorePoints(runs).map(({ run }) => run.id))];
}

/** Restores points by what the records say, and compares them. */
export async function assertRestores(path: string, points: readonly MadePoint[]): Promise<void> {
  const all = await pointsOfTarget(deadline, await readTarget(deadline, path));
  await using dir = await tempDir();
  for (const [index, { id, contents }] of points.entries()) {
    for (const [name, bytes] of contents) {
      const point = all.find(({ runId, folder }) => runId === id && folder === name);
      if (!point) throw new Error(`${id} ${name} is not a point`);
      const targetFile = dir.join(`${index}.${name}`);
      await mergeRaw(point, targetFile);
      assertSame(`${id} ${name}`, await Deno.readFile(targetFile), bytes);
    }
  }
}

async function mergeRaw(point: RestorePoint, targetFile: string) {
  await merge([{ point, targetFile }], {
    deadline,
    format: "raw",
    skipCheck: true,
    keyFile: null,
    rateLimitBytesPerSecond: 0,
    signal: new AbortController().signal,
    onProgress: () => {},
  });
}

function assertSame(what: string, a: Uint8Array, b: Uint8Array) {
  if (!Buffer.from(a.buffer).equals(b)) throw new Error(`${what}: ${firstDifference(a, b)}`);
}

/** Reads points as QEMU's tools do, by the links in the images. */
export async function assertReadsPlain(path: string, points: readonly MadePoint[]): Promise<void> {
  const { runs } = await readTarget(deadline, path);
  for (const { run, disk } of restorePoints(runs)) {
    const bytes = points.find(({ id }) => id === run.id)?.contents.get(disk.name);
    if (!bytes) continue;
    assertSame(`plain ${disk.file}`, await readImage(`${path}/${disk.file}`, "qcow2"), bytes);
  }
}

/** Restores the newest increment of a chain by the images' names alone, as from a folder that was copied alone. */
export async function assertNewestByName(
  path: string,
  points: readonly MadePoint[],
): Promise<void> {
  await using dir = await tempDir();
  const { runs } = await readTarget(deadline, path);
  const newest = new Map(
    restorePoints(runs).filter(({ disk }) => disk.level !== "copy")
      .map((point) => [point.disk.name, point]),
  );
  for (const [name, { run, disk }] of newest) {
    const folder = `${path}/${name}`;
    const names = (await Array.fromAsync(Deno.readDir(folder))).filter(({ isFile }) => isFile);
    const point = pointsOfNames(folder, names.map(({ name }) => name))
      .find((one) => one.name === basename(disk.file));
    const bytes = points.find(({ id }) => id === run.id)?.contents.get(name);
    if (!point || !bytes) continue;
    try {
      await mergeRaw(point, dir.join(name));
    } catch (error) {
      // An increment that was merged leads past those that it holds, which are still there: no record says
      // that, and so nothing is restored.
      assert(error instanceof Failure);
      assertStringIncludes(error.message, "is linked to");
      continue;
    }
    assertSame(`by name ${disk.file}`, await Deno.readFile(dir.join(name)), bytes);
  }
}
