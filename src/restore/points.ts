/**
 * What can be restored from a directory: the points of its records, or, where there are none (the
 * reference's directories, a folder copied alone), what the images' names and links say. Reads only.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { basename, dirname, join, resolve } from "@std/path";
import * as v from "valibot";
import {
  ChainError,
  chainFinder,
  images,
  type Point,
  restorePoints,
  twinFinder,
} from "../repo/chains.ts";
import { exists } from "../fs/durable.ts";
import { listFolder, realPath } from "../fs/files.ts";
import { type Fingerprint, isFault, lookAtImages } from "../repo/fingerprint.ts";
import { orderByName } from "../python/name_order.ts";
import {
  type DiskLevel,
  parseImageName,
  PARTIAL_SUFFIX,
  partialName,
  RUNS_FOLDER,
} from "../repo/layout.ts";
import { readTargets } from "../repo/months.ts";
import type { DiskRecord, RunRecord } from "../repo/record.ts";
import { knowsDisks, readSmall, readTarget, type Target } from "../repo/repository.ts";
import { Failure, UsageError } from "../errors.ts";
import { parseJson } from "../json.ts";
import { localTime } from "../time.ts";

/** An image and what it builds on. */
export interface Layer {
  /** Absolute. */
  path: string;
  /** The parent that the record names, absolute; null for a full backup or a copy. */
  parent: string | null;
  /** Other images that hold what the parent holds: a prune that was killed may have linked it to one. */
  twins?: string[];
  /** UTC milliseconds of the moment it holds. */
  timeMs: number;
  /** A raw image of the reference's; ours are all qcow2. */
  isRaw?: true;
  /** It can be opened with its key only. */
  isEncrypted?: true;
  /** What tells the image, where its record says it. */
  fingerprint?: Fingerprint;
}

/** A point that can be restored. */
export interface RestorePoint {
  /** The newest image's name. */
  name: string;
  /** Of that image; absolute. */
  path: string;
  folder: string;
  /** What the disk is called: its folder, or its name where the disks have none. */
  disk: string;
  /** UTC milliseconds; of the record, or of the name where there is none. */
  timeMs: number;
  level: DiskLevel;
  /** The format that the disk had; null where that is not known. */
  format: string | null;
  /** The run it belongs to; null where there is no record. */
  runId: string | null;
  /** The target whose records name it, absolute; null where there is no record. */
  target: string | null;
  /**
   * The images of its chain, the full backup first.
   *
   * @throws {ChainError} If the records contradict each other.
   */
  layers(): Layer[];
  /** The same, as it is now; null where there is no such point any more. */
  layersNow(): Promise<Layer[] | null>;
}

/**
 * Lists the points of one disk, oldest first.
 *
 * @param dir A disk's folder, or a target that holds one disk only. Absolute.
 * @param filter Only the images whose name contains this: where the disks of a target share a folder.
 * @throws {UsageError} If there is nothing to restore, or several disks.
 * @throws {Failure} If the order of the images can't be told for sure.
 */
export async function pointsOfDisk(
  deadline: Deadline,
  dir: string,
  filter = "",
): Promise<RestorePoint[]> {
  const isWanted = (name: string) => name.includes(filter);
  const own = await readTargets(deadline, dir);
  if (own.some(knowsDisks)) {
    const points = (await pointsOfTargets(deadline, own)).filter(({ name }) => isWanted(name));
    const disks = new Set(points.map(({ disk }) => disk));
    if (disks.size <= 1) return points;
    throw new UsageError(
      `"${dir}" holds the disks ${[...disks].map((name) => `"${name}"`).join(", ")}: name one ` +
        "disk's folder with --dir or its images with --filter, or restore all with --target-dir",
    );
  }
  // A folder that was copied alone may lie beside anything. The records lie beside the folder itself, where
  // it was named by way of a link; a link in the place of one that they know was planted, and is not followed.
  const real = await exists(deadline, dir) ? await realPath(deadline, dir) : dir;
  for (const folder of new Set([dir, real])) {
    const above = dirname(folder);
    if (!await exists(deadline, join(above, RUNS_FOLDER))) continue;
    const points = (await pointsOfTarget(deadline, await readTarget(deadline, above)))
      .filter((point) => point.folder === basename(folder) && isWanted(point.name));
    if (points.length > 0) return points;
  }
  await refusePartials(deadline, dir, []);
  const names = (await listFiles(deadline, dir)).filter(isWanted);
  if (own.length > 0 && orderByName(dir, names).length === 0) refuseFailedRuns(dir, own);
  const raw = await rawDisks(deadline, dir, names);
  return pointsOfNames(dir, names, raw, await encryptedImages(deadline, dir, names));
}

/**
 * Says why a target with runs has nothing to restore.
 *
 * @throws {UsageError} In any case.
 */
export function refuseFailedRuns(dir: string, targets: Pick<Target, "runs">[]): never {
  const last = targets.flatMap(({ runs }) => runs).at(-1);
  throw new UsageError(
    `There are no backups in "${dir}": none of its runs is done` +
      (last ? `. The last one, ${describeRun(last)}` : ""),
  );
}

/** When a run was, and why it is not done. */
function describeRun({ started, state, error, disks }: RunRecord): string {
  const reason = error ?? disks.find((disk) => disk.error !== null)?.error;
  return `of ${localTime(new Date(started))} ${BECAME[state]}${reason ? `: ${reason}` : ""}`;
}

const BECAME = {
  running: "is still running, or was killed",
  failed: "failed",
  cancelled: "was stopped",
  done: "is done, without this disk",
};

/** All points of targets that follow each other, oldest first. */
export async function pointsOfTargets(
  deadline: Deadline,
  targets: Target[],
): Promise<RestorePoint[]> {
  const points: RestorePoint[] = [];
  for (const target of targets) points.push(...await pointsOfTarget(deadline, target));
  return points;
}

/** All points of a target with records, oldest first. */
export async function pointsOfTarget(deadline: Deadline, target: Target): Promise<RestorePoint[]> {
  const points = restorePoints(target.runs);
  // What a run of ours is writing now, or wrote when it was killed, is in nobody's way.
  const ours = target.runs.flatMap(({ id, disks }) =>
    disks.map(({ file }) => partialName(basename(file), id))
  );
  for (const folder of new Set(points.map(({ disk }) => disk.folder))) {
    await refusePartials(deadline, join(target.path, folder), ours);
  }
  const all = images(target.runs);
  const chainOf = chainFinder(all);
  const twinsOf = twinFinder(all);
  const layersNow = async ({ folder, file }: DiskRecord) => {
    const now = await pointsOfTarget(deadline, await readTarget(deadline, target.path));
    const isIt = (point: RestorePoint) => point.folder === folder && point.name === basename(file);
    return now.find(isIt)?.layers() ?? null;
  };
  return points.map(({ run, disk }) => ({
    layersNow: () => layersNow(disk),
    name: basename(disk.file),
    path: join(target.path, disk.file),
    folder: disk.folder,
    disk: disk.folder === "." ? disk.name : disk.folder,
    timeMs: timeOf(run),
    level: disk.level,
    format: disk.format ?? null,
    runId: run.id,
    target: target.path,
    layers: () =>
      chainOf(disk.file).map(
        ({ run, disk: { file, parent, fingerprint, encrypted } }, i, chain) => {
          const twins = i === 0 ? [] : twinsOf(chain[i - 1] as Point);
          return {
            path: join(target.path, file),
            parent: parent && join(target.path, parent),
            timeMs: timeOf(run),
            ...(fingerprint ? { fingerprint } : {}),
            ...(encrypted ? { isEncrypted: true } : {}),
            ...(twins.length > 0
              ? { twins: twins.map((twin) => join(target.path, twin.disk.file)) }
              : {}),
          };
        },
      ),
  }));
}

function timeOf(run: RunRecord): number {
  return Date.parse(run.pointInTime ?? run.started);
}

/**
 * Points from the images' names alone: the time stamps give the order. Pure.
 *
 * @param raw The names of disks whose images are raw.
 * @param encrypted The names of the images that are encrypted.
 * @throws {UsageError} If there is no image.
 * @throws {ChainError} If the names don't tell the order.
 */
export function pointsOfNames(
  dir: string,
  names: string[],
  raw: ReadonlySet<string> = new Set(),
  encrypted: ReadonlySet<string> = new Set(),
): RestorePoint[] {
  const ordered = orderByName(dir, names);
  if (ordered.length === 0) throw new UsageError(`There are no backups in "${dir}"`);
  const chains = new Map<string, Layer[]>();
  return ordered.map(({ name, level, unixSeconds, parent, parentTwin }) => {
    const timeMs = unixSeconds * 1000;
    const below = parent === null ? [] : chains.get(parent) ?? [];
    const isRaw = raw.has(parseImageName(name)?.diskFileName ?? name);
    const layer: Layer = {
      path: join(dir, name),
      parent: below.at(-1)?.path ?? null,
      timeMs,
      ...(isRaw ? { isRaw } : {}),
      ...(encrypted.has(name) ? { isEncrypted: true } : {}),
      ...(parentTwin === undefined ? {} : { twins: [join(dir, parentTwin)] }),
    };
    const layers = [...below, layer];
    chains.set(name, layers);
    return {
      name,
      path: layer.path,
      folder: basename(dir),
      disk: basename(dir),
      timeMs,
      level,
      format: isRaw ? "raw" : null,
      runId: null,
      target: null,
      layers: () => {
        if (isRaw && level === "inc") throw new ChainError(rawIncrement(layer));
        return layers;
      },
      // Of what has no records nothing says so.
      layersNow: () => Promise.resolve(layers),
    };
  });
}

function rawIncrement({ path }: Layer): string {
  return `"${path}" is a raw increment, which can't tell a zero from what did not change: the full ` +
    "backup before it can be restored, with --until";
}

/** The disks whose images are raw, as the reference's `.config` says: an image's own bytes may lie. */
async function rawDisks(deadline: Deadline, dir: string, names: string[]): Promise<Set<string>> {
  const disks = new Set(names.map((name) => parseImageName(name)?.diskFileName ?? name));
  const raw = new Set<string>();
  for (const disk of disks) {
    for (const folder of [dirname(dir), dir]) {
      if (await configFormat(deadline, join(folder, `${disk}.config`)) === "raw") raw.add(disk);
    }
  }
  return raw;
}

/** The images that are encrypted, as their headers say. */
async function encryptedImages(
  deadline: Deadline,
  dir: string,
  names: string[],
): Promise<Set<string>> {
  const images = names.filter((name) => parseImageName(name));
  const seen = await lookAtImages(
    deadline,
    dir,
    new Map(images.map((name) => [name, undefined])),
  );
  return new Set(
    [...seen].filter(([, look]) => !isFault(look) && look.isEncrypted).map(([name]) => name),
  );
}

async function configFormat(deadline: Deadline, path: string): Promise<string | null> {
  try {
    const config = v.safeParse(
      v.object({ format: v.string() }),
      parseJson(await readSmall(deadline, path)),
    );
    return config.success ? config.output.format : null;
  } catch {
    return null;
  }
}

/**
 * Picks the point a user means.
 *
 * @param until A file's name, a run's id or a time; null is the newest.
 * @param runs All runs, those that failed too: to say what became of the one that is meant.
 * @throws {UsageError} If there is none.
 */
export function pickPoint(
  points: RestorePoint[],
  until: string | null,
  runs: readonly RunRecord[] = [],
): RestorePoint {
  const newest = points.at(-1);
  if (!newest) throw new UsageError("There is no restore point");
  if (until === null) return newest;
  const named = points.findLast(({ name, runId }) => name === basename(until) || runId === until);
  if (named) return named;
  const run = runs.find(({ id }) => id === until);
  if (run) {
    throw new UsageError(
      `The run "${until}" ${
        describeRun(run)
      }. It holds nothing to restore here: name another one with ` +
        `--until; the newest image is "${newest.name}"`,
    );
  }
  const timeMs = parseTime(until);
  if (timeMs === null) {
    throw new UsageError(
      `--until "${until}" is not an image here, a run or a time (such as "2026-11-22 23:00"); ` +
        `the newest image is "${newest.name}"`,
    );
  }
  const point = points.findLast((point) => point.timeMs <= timeMs);
  if (point) return point;
  throw new UsageError(
    `There is no restore point before "${until}": the first is of ${
      localTime(new Date(points[0]?.timeMs ?? 0))
    }`,
  );
}

/** All runs of the targets that these points are of, those that failed too. */
export async function runsOf(deadline: Deadline, points: RestorePoint[]): Promise<RunRecord[]> {
  const paths = new Set(points.flatMap(({ target }) => target ?? []));
  return (await Promise.all([...paths].map((path) => readTarget(deadline, path)))).flatMap((
    { runs },
  ) => runs);
}

/**
 * Reads a time as people write it, and as `info` prints it: local, unless it ends in a zone; a day
 * means its end, and so do a minute and a second.
 *
 * @returns UTC milliseconds, or null if it is not a time.
 */
export function parseTime(text: string): number | null {
  const match =
    /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d(?:\.\d+)?)?)(?: ?(Z|[+-]\d\d:?\d\d))?)?$/.exec(
      text,
    );
  if (!match) return null;
  const [, day = "", time = "23:59:59", zone = ""] = match;
  // The 31st of November would be read as the 1st of December.
  const midnight = Date.parse(`${day}T00:00Z`);
  if (Number.isNaN(midnight) || !new Date(midnight).toISOString().startsWith(day)) return null;
  const end = time.length === "23:05".length
    ? ":59.999"
    : time.length === "23:05:00".length
    ? ".999"
    : "";
  const timeMs = Date.parse(`${day}T${time}${end}${zone}`);
  return Number.isNaN(timeMs) ? null : timeMs;
}

async function refusePartials(deadline: Deadline, dir: string, ours: string[]) {
  const partial = (await listFiles(deadline, dir)).find((name) =>
    name.endsWith(PARTIAL_SUFFIX) && !ours.includes(name)
  );
  if (!partial) return;
  throw new Failure(
    `"${join(dir, partial)}" is a backup that is not finished: let it end, or remove it if no ` +
      "backup is running",
  );
}

async function listFiles(deadline: Deadline, dir: string): Promise<string[]> {
  try {
    const entries = await listFolder(deadline, resolve(dir));
    return entries.filter(({ isDirectory }) => !isDirectory).map(({ name }) => name);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new UsageError(`The directory "${dir}" does not exist`);
    }
    throw error;
  }
}
