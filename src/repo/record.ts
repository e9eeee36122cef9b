/**
 * The record of a run: what restore, `info` and the next backup believe. Pure.
 *
 * Order and parents come from here, never from file times. A field is never given another meaning:
 * what can't be said with the present ones raises `VERSION`.
 *
 * @module
 */

import { dirname } from "@std/path";
import * as v from "valibot";
import { brief, Failure } from "../errors.ts";
import { parseJson } from "../json.ts";
import { Machine } from "../machine/machine.ts";
import { nameWithoutSecrets } from "../secrets.ts";
import { Fingerprint } from "./fingerprint.ts";
import { isBackupBitmap, isSentinel } from "../vm/names.ts";
import { CONFIG_SUFFIX, isChainId, RECORDS_FOLDER, tagOf, UUID_FILE } from "./layout.ts";

/** The first thing wrong is enough: there may be millions. */
const EARLY = { abortEarly: true } as const;

const FORMAT = "qmpbackup-run";
const VERSION = 1;

/** A record that can't be believed. */
export class RecordError extends Failure {
  override name = "RecordError";
}

/** The name of something in a folder. */
const Name = v.pipe(v.string(), v.check(isName, "is not a name"));

function isName(name: string): boolean {
  return !["", ".", ".."].includes(name) && !/[\0/]/.test(name);
}

/** An image's path, relative to the target: a name, or a disk's folder and a name. */
const ImagePath = v.pipe(
  v.string(),
  v.check(isImagePath, "is not a path inside of the target that an image may have"),
);

function isImagePath(path: string): boolean {
  const names = path.split("/");
  if (names.length > 2 || !names.every(isName) || names[0] === RECORDS_FOLDER) return false;
  return names.length === 2 || (path !== UUID_FILE && !path.endsWith(CONFIG_SUFFIX));
}

/** A run's id is the name of its record's file. */
const RunId = v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9-]*$/, "is not a run's id"));

const sizeBytes = v.pipe(v.number(), v.finite(), v.minValue(0));
/** What has the form of a time may still be none: its zone may be "+99:99". */
const time = v.pipe(
  v.string(),
  v.isoTimestamp(),
  v.check((text) => !Number.isNaN(Date.parse(text)), "is not a time"),
);

/** See `Disk.backing`. */
const BackingImage = v.object({
  file: v.string(),
  format: v.string(),
  virtualSizeBytes: sizeBytes,
  fileBytes: v.nullable(sizeBytes),
  modified: v.nullable(time),
});

/** See `vm/sentinel.ts`. */
const Sentinel = v.object({
  bitmap: v.pipe(v.string(), v.check(isSentinel, "is not a bitmap that watches a disk's end")),
  /** How much it marks for as long as the disk was not cut. */
  countBytes: sizeBytes,
});

const DiskRow = v.object({
  /** The disk's identity: the QOM path of its device. */
  id: v.string(),
  /** What it was called. */
  name: Name,
  /** Its folder, relative to the target; "." is the target itself. */
  folder: v.union([v.literal("."), Name]),
  /** The file behind it, as QEMU names it, without its secrets; older records may still hold those. */
  source: v.pipe(v.string(), v.transform(nameWithoutSecrets)),
  /** The format of that file; older records don't have it. */
  format: v.optional(v.string()),
  /** The node its bitmap lies on. */
  node: v.string(),
  level: v.picklist(["full", "inc", "copy"]),
  /** Why this level. */
  reason: v.string(),
  /** The bitmap that counts from this backup on; null for a copy. */
  bitmap: v.nullable(
    v.pipe(v.string(), v.check((name) => isBackupBitmap(name), "is not a bitmap of a backup")),
  ),
  granularityBytes: v.nullable(sizeBytes),
  /** The bitmap that tells whether the disk was cut after this backup; null where there is none. */
  sentinel: v.optional(v.nullable(Sentinel), null),
  /** The images below the disk's own, from the top down; null where nobody looked. */
  backing: v.optional(v.nullable(v.array(BackingImage)), null),
  /** The fleece's file while the run is on, for the run that cleans up after a killed one. */
  fleece: v.string(),
  /** The image, relative to the target. */
  file: ImagePath,
  /** The image this one builds on, relative to the target. */
  parent: v.nullable(ImagePath),
  /**
   * The images in the folder that no record knew when this one was begun: they say nothing of another
   * program that went on with the chain after it.
   */
  unrecorded: v.optional(v.array(Name), []),
  virtualSizeBytes: sizeBytes,
  /** What the image takes on the disk. */
  bytesWritten: sizeBytes,
  /** Only said where it is so: the image can be opened with its key only. */
  encrypted: v.optional(v.literal(true)),
  /** What the finished image is told by; of an older program's, and while it is being changed, not known. */
  fingerprint: v.optional(Fingerprint),
  /**
   * "superseded": the image is not a point of its own any more, since an increment was committed into it;
   * others may build on it.
   */
  result: v.picklist(["pending", "done", "failed", "cancelled", "superseded"]),
  error: v.nullable(v.string()),
});
export type DiskRecord = v.InferOutput<typeof DiskRow>;

/** A chain lies in one folder: then the links between its images don't lead anywhere else. */
const DiskRecord = v.pipe(
  DiskRow,
  v.check(
    ({ folder, file, parent }) => [file, parent ?? file].every((path) => dirname(path) === folder),
    "names an image outside of its folder",
  ),
);

/** One more must still be a number of its own. */
const MAX_SEQUENCE = 2 ** 50;

const RunRecord = v.object({
  format: v.literal(FORMAT),
  version: v.literal(VERSION),
  id: RunId,
  /** Counts the target's runs: their order, whatever the clock did. */
  sequence: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(MAX_SEQUENCE)),
  level: v.picklist(["full", "inc", "copy", "auto"]),
  /** "running" in a record whose run is over means that it was killed. */
  state: v.picklist(["running", "done", "failed", "cancelled"]),
  /** The target's chain id (its `uuid` file). */
  chain: v.pipe(v.string(), v.check(isChainId, "is not a chain id")),
  /** Times are UTC. */
  started: time,
  /** The moment whose contents the images hold; null before it was taken. */
  pointInTime: v.nullable(time),
  finished: v.nullable(time),
  tool: v.string(),
  qemu: v.string(),
  vm: v.object({ name: v.string(), uuid: v.string() }),
  /** How the guest was held while the point in time was taken, and for how long. */
  hold: v.object({
    kind: v.picklist(["none", "stop", "already-stopped"]),
    pausedMs: v.pipe(v.number(), v.finite()),
    frozenMs: v.nullable(v.pipe(v.number(), v.finite())),
  }),
  disks: v.array(DiskRecord),
  leftOut: v.array(v.object({
    device: v.string(),
    reason: v.string(),
    /** A user may count on its data, and did not ask to leave it out. */
    unasked: v.optional(v.boolean()),
    /** The VM does not have it any more. */
    gone: v.optional(v.boolean()),
  })),
  warnings: v.array(v.string()),
  /** What the VM was; absent in older records, and where it could not be told. */
  machine: v.optional(v.fallback(v.optional(Machine), undefined)),
  /** The files that were saved beside it, in `_qmpbackup/saved/<run>`. */
  saved: v.optional(v.array(v.object({ name: Name, sizeBytes }))),
  /** Why the run as a whole was not done. Absent otherwise, and in the records of older versions. */
  error: v.optional(v.string()),
});
export type RunRecord = v.InferOutput<typeof RunRecord>;

/** What a new record starts from. */
export const RECORD_HEAD = { format: FORMAT, version: VERSION } as const;

/**
 * Decodes a record.
 *
 * @param name The file's name, for the message.
 * @throws {RecordError} If it is not one, or a newer program's.
 */
export function parseRecord(name: string, text: string): RunRecord {
  const remedy =
    "move it away and use --level auto; the images can still be read with any QEMU tool";
  let json: unknown;
  try {
    json = parseJson(text);
  } catch {
    throw new RecordError(`The record "${name}" is not JSON (${remedy})`);
  }
  const head = v.safeParse(
    v.object({ format: v.literal(FORMAT), version: v.number() }),
    json,
    EARLY,
  );
  if (head.success && head.output.version > VERSION) {
    throw new RecordError(
      `The record "${name}" was written by a newer qmpbackup: use that one here (${remedy})`,
    );
  }
  const record = v.safeParse(RunRecord, json, EARLY);
  if (record.success) return record.output;
  const [issue] = record.issues;
  const where = v.getDotPath(issue) ?? "";
  throw new RecordError(
    `The record "${name}" is damaged or not ours, at "${brief(where)}": ${
      brief(issue.message)
    } (${remedy})`,
  );
}

/** A record is some kilobytes; what is far larger is none. */
export const MAX_RECORD_BYTES = 4 << 20;

/**
 * To so many characters is cut what is there for people, and may repeat what QEMU or a guest said; to
 * fewer where there is too much of it.
 */
const TEXT_LENGTHS = [1_000, 200, 50];
const MAX_WARNINGS = 500;

/**
 * The text of a record's file, which `parseRecord()` is known to take, and who reads no more than
 * `MAX_RECORD_BYTES`.
 *
 * @throws {RecordError} If there is none.
 */
export function formatRecord(record: RunRecord): string {
  // One that is begun grows yet by what is to be said at its end.
  const maxBytes = record.state === "running" ? MAX_RECORD_BYTES / 2 : MAX_RECORD_BYTES;
  for (const maxLength of TEXT_LENGTHS) {
    const text = JSON.stringify(withTextsCut(record, maxLength), null, 2) + "\n";
    if (new TextEncoder().encode(text).length > maxBytes) continue;
    parseRecord(record.id, text);
    return text;
  }
  throw new RecordError(
    `The record of the run "${record.id}" would be longer than ${maxBytes} bytes, and could not be read`,
  );
}

function withTextsCut(record: RunRecord, maxLength: number): RunRecord {
  const cut = (text: string) => brief(text, maxLength);
  return {
    ...record,
    disks: record.disks.map((disk) => ({
      ...disk,
      reason: cut(disk.reason),
      error: disk.error === null ? null : cut(disk.error),
    })),
    ...(record.error ? { error: cut(record.error) } : {}),
    leftOut: record.leftOut.map((one) => ({ ...one, reason: cut(one.reason) })),
    warnings: firstOf(record.warnings).map(cut),
  };
}

function firstOf(warnings: string[]): string[] {
  if (warnings.length <= MAX_WARNINGS) return warnings;
  const first = warnings.slice(0, MAX_WARNINGS - 1);
  return [...first, `${warnings.length - first.length} more that are not recorded`];
}

/** The id of a record that one of our runs made for a backup of the reference's. */
export function adoptedId(unixSeconds: number, runTag: string): string {
  return `adopted-${unixSeconds}-${runTag}`;
}

/** Whether a run is one of the Python qmpbackup, whose record was made later. */
export function isAdopted({ id }: RunRecord): boolean {
  return /^adopted-\d+-[0-9a-f]{8}$/.test(id);
}

/**
 * Finds the records of an adoption that was interrupted, which are ignored: number 1 is written
 * last. Once a run of ours has recorded the disk, too, an old record may well be gone.
 */
export function halfAdopted(runs: RunRecord[]): RunRecord[] {
  const ours = new Set(runs.filter((run) => !isAdopted(run)).flatMap(diskIds));
  const isProof = (run: RunRecord) => run.sequence === 1 || diskIds(run).some((id) => ours.has(id));
  const whole = new Set(
    runs.filter((run) => isAdopted(run) && isProof(run)).map(({ id }) => tagOf(id)),
  );
  return runs.filter((run) => isAdopted(run) && !whole.has(tagOf(run.id)));
}

const diskIds = ({ disks }: RunRecord) => disks.map(({ id }) => id);

/**
 * Puts records into the order of their runs.
 *
 * @throws {RecordError} If two of one disk claim one place.
 */
export function inOrder(runs: RunRecord[]): RunRecord[] {
  const places = new Map<string, string>();
  for (const { id, sequence, disks } of runs) {
    for (const disk of disks) {
      const place = `${sequence} ${disk.id}`;
      const other = places.get(place) ?? id;
      if (other !== id) {
        throw new RecordError(
          `The records "${brief(other)}" and "${
            brief(id)
          }" both say that they are number ${sequence} of the disk ` +
            `"${brief(disk.name)}": one was edited or copied, move it away`,
        );
      }
      places.set(place, id);
    }
  }
  // Of disks that were adopted later the numbers begin again: they say nothing of other disks' order.
  return runs.toSorted((a, b) =>
    a.sequence - b.sequence || Date.parse(a.started) - Date.parse(b.started)
  );
}
