/**
 * The names of a backup directory, made and read. Pure.
 *
 * ```
 * TARGET/uuid                                  the chain's id
 * TARGET/RESTORE.txt                           how to restore; among the records without subfolders
 * TARGET/<disk file name>.config               what `qemu-img info` says of the source
 * TARGET/<disk>/{FULL,INC,COPY}-<unix seconds>-<disk file name>
 * TARGET/_qmpbackup/runs/<run id>.json         the record of a run
 * TARGET/_qmpbackup/digests/<image>.json       the digests of an image
 * TARGET/_qmpbackup/attached/<name>.json       what `restore attach` has opened and not yet let go
 * TARGET/_qmpbackup/verified/<time>-<tag>.json what a verification found
 * TARGET/_qmpbackup/marks/<run id>.json        whether a run is protected, and a note on it
 * TARGET/_qmpbackup/booted/<time>.json         what `restore test` found
 * TARGET/_qmpbackup/rollback.json             that a rollback of the disks is not finished
 * TARGET/_qmpbackup/speed.json                 how fast the target took a sample of data
 * TARGET/_qmpbackup/lock
 * ```
 *
 * A disk's folder is named by a block node, and QEMU wants those to start with a letter: so
 * `_qmpbackup` can't be one. It starts with no dot, so that `cp -r TARGET/* …` takes it along.
 *
 * @module
 */

import { dirname } from "@std/path";
import { parseJson } from "../json.ts";
import { shortName, sizeBytes } from "../short_name.ts";

export const RECORDS_FOLDER = "_qmpbackup";
export const RUNS_FOLDER = `${RECORDS_FOLDER}/runs`;
export const DIGESTS_FOLDER = `${RECORDS_FOLDER}/digests`;
export const ATTACHED_FOLDER = `${RECORDS_FOLDER}/attached`;
export const VERIFIED_FOLDER = `${RECORDS_FOLDER}/verified`;
/** What users say of runs: see `run_mark.ts`. */
export const MARKS_FOLDER = `${RECORDS_FOLDER}/marks`;
export const BOOTED_FOLDER = `${RECORDS_FOLDER}/booted`;
/** See `half_way.ts`. */
export const ROLLBACK_FILE = `${RECORDS_FOLDER}/rollback.json`;
/** See `target_speed.ts`. */
export const SPEED_FILE = `${RECORDS_FOLDER}/speed.json`;
/** What is written to measure it, and removed at once. */
export const SPEED_SAMPLE = `${RECORDS_FOLDER}/speed.tmp`;
export const LOCK_FILE = `${RECORDS_FOLDER}/lock`;
/** The target whose lock this is. */
export const targetOfLock = (lockFile: string) => dirname(dirname(lockFile));
export const UUID_FILE = "uuid";
/** What the folder is and how to restore, for people: see `restore_file.ts`. */
export const RESTORE_FILE = "RESTORE.txt";
/** The link to the newest image that `restore rebase` makes. */
export const NEWEST_LINK = "image";
/** What `qemu-img info` said of a disk. */
export const CONFIG_SUFFIX = ".config";
export const PARTIAL_SUFFIX = ".partial";
/** An image that a new one of the same name replaces, until that counts. */
export const REPLACED_SUFFIX = ".replaced";
/**
 * The folder in a disk's folder in which a prune makes new images: the Python tools, which take every file of a
 * disk's folder for an image, don't look into it.
 */
export const PRUNE_FOLDER = "_prune";
/** What is written before it gets its name; all of it lies among the records. */
export const TEMPORARY_SUFFIX = ".tmp";

/** What a backup of a disk is: all of it, what changed since the last one, or all beside the chain. */
export type DiskLevel = "full" | "inc" | "copy";

const PREFIX = { full: "FULL", inc: "INC", copy: "COPY" } as const;

/**
 * File systems end a name at 255 bytes; a level, a time, a disk's name, a tag and `.partial` must fit on.
 */
const MAX_DISK_FILE_NAME_BYTES = 150;

/**
 * The end of the times that names may have (the year 2286): what a stray or planted file says beyond
 * that is not followed, or the next name would have no room for it.
 */
export const MAX_NAME_SECONDS = 9_999_999_999;

/** `FULL-1763852400-disk.qcow2`. */
export function imageName(level: DiskLevel, unixSeconds: number, diskFileName: string): string {
  return `${PREFIX[level]}-${unixSeconds}-${diskFileName}`;
}

/** What no image may be called: the target's own files, and what we write first under another name. */
const TAKEN = new RegExp(
  `(^(${UUID_FILE}|${NEWEST_LINK}|${RECORDS_FOLDER}|${RESTORE_FILE})|\\.(tmp|new|replaced))_*$`,
);

/**
 * The name of an image without level and time: that of the disk's file, unless it means something. No
 * two have the same.
 */
export function plainImageName(diskFileName: string): string {
  // The disk may be a restored image itself: "INC-…" would be read as an increment.
  if (/^_*(FULL|INC|COPY)-/.test(diskFileName)) return `_${diskFileName}`;
  return TAKEN.test(diskFileName) ? `${diskFileName}_` : diskFileName;
}

export interface ImageName {
  level: DiskLevel;
  unixSeconds: number;
  diskFileName: string;
}

/**
 * A parent's relative path as it is to stand in a header: QEMU takes what stands before a colon for a
 * protocol, unless a slash comes first.
 */
export function backingLink(parent: string): string {
  return /^[^/]*:/.test(parent) ? `./${parent}` : parent;
}

/** The opposite of `imageName()`; null for any other name. */
export function parseImageName(name: string): ImageName | null {
  const match = /^(FULL|INC|COPY)-(\d{1,11})-(.+)$/s.exec(name);
  if (!match || name.endsWith(PARTIAL_SUFFIX) || name.endsWith(CONFIG_SUFFIX)) return null;
  const [, prefix, seconds, diskFileName] = match as unknown as [string, string, string, string];
  return {
    level: prefix.toLowerCase() as DiskLevel,
    unixSeconds: Number(seconds),
    diskFileName,
  };
}

/**
 * The name of a disk's file, from what QEMU calls its `filename`: a path, `json:{…}`, or a protocol
 * such as `rbd:pool/image:id=admin` or `nbd://host/export`.
 */
export function diskFileName(filename: string): string {
  return safeName(lastPart(filename));
}

function lastPart(filename: string): string {
  if (filename.startsWith("json:")) return jsonPart(filename.slice("json:".length)) ?? "disk";
  if (filename.startsWith("/")) return filename;
  const legacyRbd = /^rbd:([^:@]+)/.exec(filename);
  if (legacyRbd) return legacyRbd[1] as string;
  const url = /^[a-z0-9+]+:\/\/(.*)$/s.exec(filename);
  return url ? (url[1] as string).replace(/[?#].*$/s, "") : filename;
}

/** What names the storage in block driver options, looked for from the outside in. */
const NAMING_KEYS = ["filename", "image", "path", "volume", "lun", "export", "url"];

function jsonPart(text: string): string | null {
  let options: unknown;
  try {
    options = parseJson(text);
  } catch {
    return null;
  }
  return namingValue(options, 8);
}

function namingValue(options: unknown, depth: number): string | null {
  if (typeof options !== "object" || options === null || depth === 0) return null;
  const map = new Map<string, unknown>(Object.entries(options));
  for (const key of NAMING_KEYS) {
    const value = map.get(key);
    if (typeof value === "string" && value !== "") return value;
  }
  return namingValue(map.get("file"), depth - 1);
}

/** The dot of an end that has a meaning in a disk's folder. */
const MEANINGFUL_END = /\.(?=(partial|config|replaced|new)$)/;

/**
 * Makes a file name that is safe everywhere: no folder, no control character, no half of a letter
 * (the file would be called otherwise), no colon (QEMU reads what stands before one as a protocol), no
 * end that makes an image look like something else, not too long.
 */
function safeName(path: string): string {
  const base = path.replace(/\/+$/, "").replace(/^.*\//s, "");
  const clean = base.replace(/[\p{Cc}\p{Cs}:\\/\ufffd]/gu, "_").replace(MEANINGFUL_END, "_");
  if (clean === "" || clean === "." || clean === "..") return "disk";
  return shortName(clean, MAX_DISK_FILE_NAME_BYTES);
}

/** The name of a disk's file, where the disk's own must tell it from another disk's. */
export function sharedFileName(disk: string, fileName: string): string {
  return `${disk}.${shortName(fileName, MAX_DISK_FILE_NAME_BYTES - 1 - sizeBytes(disk))}`;
}

/** A chain's id as a user may give it: it becomes the end of bitmap names and a file's content. */
export function isChainId(text: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(text);
}

/** The name of the file that keeps what the guest overwrites while a run is on. */
export function fleeceName(runTag: string, index: number): string {
  return `qmpbackup-${runTag}-${index}.fleece`;
}

/** Whether a run can have made a file of this path to keep what the guest overwrites. */
export function isFleeceOf(runId: string, path: string): boolean {
  const match = /^\/(?:[^\0]*\/)?qmpbackup-([0-9a-f]{8})-\d+\.fleece$/.exec(path);
  return match !== null && match[1] === tagOf(runId);
}

/** A run's id: when it started, to be read by people, and a tag that makes it unique. */
export function runId(startedAt: Date, tag: string): string {
  return `${startedAt.toISOString().replace(/[-:]|\.\d+/g, "")}-${tag}`;
}

/** The tag in a run's id. */
export function tagOf(runId: string): string {
  return runId.slice(runId.lastIndexOf("-") + 1);
}

/**
 * What a run calls an image that it has not finished. Another run's of the same image is called
 * otherwise: the `qemu-img` of a run that was killed may live on and write to its own yet.
 */
export function partialName(image: string, runId: string): string {
  return `${image}.${tagOf(runId)}${PARTIAL_SUFFIX}`;
}
