/**
 * Runs `qemu-img`, by argv and never through a shell.
 *
 * Source: QEMU's manual page qemu-img(1).
 *
 * @module
 */

import { getLogger } from "@logtape/logtape";
import * as v from "valibot";
import { brief, Failure, messageOf } from "../errors.ts";
import { type Deadline, endsWithin, HangingError } from "../fs/deadline.ts";
import { stat } from "../fs/files.ts";
import { parseJson } from "../json.ts";
import { spawn } from "../process/spawn.ts";
import { tailOf } from "../process/tail.ts";
import { explainKey, keyObject, LUKS, NEW_LUKS } from "./key.ts";

const log = getLogger(["qmpbackup", "qemu-img"]);

/** `qemu-img` failed; the message holds what it said. */
export class QemuImgError extends Failure {
  override name = "QemuImgError";

  /**
   * @param status The exit code of `qemu-img`, where it ran.
   * @param printed What it wrote to standard output.
   */
  constructor(message: string, readonly status?: number, readonly printed = "") {
    super(message);
  }
}

export interface RunOptions {
  /** Ends `qemu-img` (SIGTERM); its half-written output is the caller's to remove. */
  signal?: AbortSignal;
  /** Gets what `-p` prints: 0 to 100. */
  onPercent?: (percent: number) => void;
  /**
   * How much it has to work through: it is ended if it takes longer than the slowest storage would. If this
   * is not said, it may go on for as long as the file systems answer.
   */
  sizeBytes?: number;
  /** The file with the key of the images that are encrypted; null where none is. */
  keyFile?: string | null;
}

/**
 * Runs `qemu-img` with these arguments.
 *
 * @param paths The files that it works on, one on each file system.
 * @returns What it wrote to standard output.
 * @throws {HangingError} If one of the file systems does not answer.
 * @throws {QemuImgError} If it is missing or fails.
 * @throws The signal's reason, if it was aborted.
 */
export async function qemuImg(
  deadline: Deadline,
  paths: readonly string[],
  args: string[],
  { signal, sizeBytes = Infinity, ...options }: RunOptions = {},
): Promise<string> {
  return await deadline.runProgram(paths, sizeBytes, async (hanging) => {
    const stop = signal ? AbortSignal.any([signal, hanging]) : hanging;
    for (let attempt = 1;; attempt++) {
      try {
        return await run(args, { ...options, signal: stop });
      } catch (error) {
        if (attempt === ATTEMPTS || !(error instanceof QemuImgError && isBadClock(error))) {
          throw error;
        }
      }
    }
  });
}

/**
 * QEMU measures how fast it is before it makes an encrypted image, and gives up if the clock of its CPU time did not
 * move while it worked for some milliseconds. Linux moves that clock every 4 ms on many machines. The next attempt
 * is as likely to succeed as any (7.2, this happened in 3 of 21 attempts).
 */
const ATTEMPTS = 100;
const isBadClock = ({ message }: QemuImgError) =>
  message.includes("Unable to get accurate CPU usage");

async function run(given: string[], options: RunOptions = {}): Promise<string> {
  const args = withKey(given, options.keyFile);
  log.debug("qemu-img {args}", { args: JSON.stringify(args) });
  const { signal, onPercent } = options;
  signal?.throwIfAborted();
  const child = start(args, signal);
  const ending = Promise.all([
    tailOf(child.stdout, (text) => {
      const percent = lastPercent(text);
      if (percent !== null) onPercent?.(percent);
    }),
    tailOf(child.stderr),
    child.status,
  ]);
  if (signal) await refuseLate(ending, signal);
  const [stdout, stderr, status] = await ending;
  signal?.throwIfAborted();
  if (status.success) return stdout;
  const words = brief(stderr.trim().replace(/^qemu-img: /gm, "")) || `exit code ${status.code}`;
  throw new QemuImgError(
    `qemu-img ${args[0]} failed: ${explainKey(words)}`,
    status.code,
    stdout,
  );
}

/** A subcommand's arguments, with where the key is. */
export function withKey(args: string[], keyFile: string | null | undefined): string[] {
  const [subcommand = "", ...rest] = args;
  return keyFile ? [subcommand, "--object", keyObject(keyFile), ...rest] : args;
}

/** One that works on a dead file system may not heed a signal: then nobody waits for it. */
const STOP_TIMEOUT_MS = 10_000;

/** @throws The signal's reason, if it was aborted and `qemu-img` does not end. */
async function refuseLate(ending: Promise<unknown>, signal: AbortSignal): Promise<void> {
  const { promise: aborted, resolve } = Promise.withResolvers<void>();
  const onAbort = () => resolve();
  signal.addEventListener("abort", onAbort);
  if (signal.aborted) resolve();
  await Promise.race([ending.then(() => {}, () => {}), aborted]);
  signal.removeEventListener("abort", onAbort);
  if (!signal.aborted || await endsWithin(ending, STOP_TIMEOUT_MS)) return;
  ending.catch(() => {});
  log.warn("qemu-img does not end: going on without waiting for it");
  throw signal.reason;
}

function start(args: string[], signal: AbortSignal | undefined): Deno.ChildProcess {
  try {
    return spawn("qemu-img", args, {
      env: { LC_ALL: "C" },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
      ...(signal ? { signal } : {}),
    });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new QemuImgError(
        "qemu-img is not installed, or the one in PATH can't be started " +
          `(${messageOf(error)}): install it (Debian: qemu-utils)`,
      );
    }
    throw new QemuImgError(`qemu-img can't be started: ${messageOf(error)}`);
  }
}

/** The last percentage in what `-p` prints, 0 to 100; null where there is none. Pure. */
export function lastPercent(text: string): number | null {
  const percent = [...text.matchAll(/\((\d+\.\d+)\/100%\)/g)].at(-1)?.[1];
  return percent === undefined ? null : Math.min(Number(percent), 100);
}

/** What a new image is made of; anything not said is QEMU's default. */
export interface CreateOptions {
  virtualSizeBytes: number;
  clusterSizeBytes?: number;
  lazyRefcounts?: boolean;
  /** zlib unless it is said. */
  compressionType?: "zstd" | "zlib";
  /**
   * The parent's name, relative to the image. Only written into the header (`-u`): the parent is
   * not opened.
   */
  backing?: string | null;
  /** Of the parent; qcow2 unless it is said. */
  backingFormat?: "raw" | "qcow2" | "null-co";
}

/**
 * Creates a qcow2 image of version 3: version 2 can't tell a zeroed cluster from an untouched one. With a key it is
 * encrypted.
 *
 * @throws {QemuImgError} If it can't be created.
 */
export async function createQcow2(
  deadline: Deadline,
  path: string,
  options: CreateOptions,
  how: RunOptions = {},
): Promise<void> {
  const format = ["compat=1.1"];
  if (options.clusterSizeBytes) format.push(`cluster_size=${options.clusterSizeBytes}`);
  if (options.lazyRefcounts) format.push("lazy_refcounts=on");
  // Not said where it is the usual: with that the header is one of QEMU before 5.1.
  if (options.compressionType === "zstd") format.push("compression_type=zstd");
  if (how.keyFile) format.push(...NEW_LUKS);
  const { backingFormat = "qcow2" } = options;
  const backing = options.backing ? ["-u", "-F", backingFormat, "-b", options.backing] : [];
  await qemuImg(deadline, [path], [
    ...["create", "-q", "-f", "qcow2", "-o", format.join(",")],
    ...backing,
    path,
    String(options.virtualSizeBytes),
  ], { sizeBytes: 0, ...how });
}

/**
 * Changes the name of the parent in an image's header (`rebase -u`): neither the old one nor the new one is opened.
 * With a key the image is encrypted.
 *
 * @param backing As it is to stand in the header.
 * @throws {QemuImgError} If it can't be changed.
 */
export async function linkImage(
  deadline: Deadline,
  path: string,
  backing: string,
  how: RunOptions = {},
): Promise<void> {
  const image = how.keyFile ? [alone(path, how)] : ["-f", "qcow2", path];
  await qemuImg(deadline, [path], ["rebase", "-u", "-F", "qcow2", "-b", backing, ...image], how);
}

/** `convert -r` and `commit -r` came with it. */
const OLDEST = [5, 2] as const;

/**
 * Looks, before anything is touched, whether there is a `qemu-img` that can do what we ask of it.
 *
 * @throws {QemuImgError} If it is missing, too old, or another program.
 */
export async function requireQemuImg(): Promise<void> {
  const problem = problemOfVersion(await run(["--version"]));
  if (problem) throw new QemuImgError(problem);
}

/** What is wrong with a program that prints this for `--version`, or null. Pure. */
export function problemOfVersion(printed: string): string | null {
  const [, version, major, minor] = /^qemu-img version ((\d+)\.(\d+)\S*)/.exec(printed) ?? [];
  if (version === undefined) {
    return "The first qemu-img in PATH is another program: it does not print QEMU's version";
  }
  if (Number(major) > OLDEST[0] || (Number(major) === OLDEST[0] && Number(minor) >= OLDEST[1])) {
    return null;
  }
  return `The first qemu-img in PATH is of QEMU ${version}: ${OLDEST.join(".")} or newer is needed`;
}

/** Beyond these, JSON's numbers are not exact: an image would be restored with another size. */
const sizeBytes = v.pipe(v.number(), v.safeInteger(), v.minValue(0));

const Info = v.object({
  format: v.string(),
  "virtual-size": sizeBytes,
  "actual-size": v.optional(sizeBytes, 0),
  "cluster-size": v.optional(v.nullable(sizeBytes), null),
  "backing-filename": v.optional(v.string()),
  snapshots: v.optional(v.array(v.object({ name: v.string() })), []),
  "format-specific": v.optional(
    v.object({
      data: v.optional(v.object({
        "data-file": v.optional(v.string()),
        "compression-type": v.optional(v.string()),
        corrupt: v.optional(v.boolean(), false),
      })),
    }),
  ),
});

export interface ImageFacts {
  format: string;
  virtualSizeBytes: number;
  allocatedBytes: number;
  /** Null where the format has none. */
  clusterSizeBytes: number | null;
  /** The parent as it stands in the header, or null. */
  backing: string | null;
  /** An external data file as it stands in the header, or null: our images have none. */
  dataFile: string | null;
  /** How its clusters are compressed, if they are; null where the format has none. */
  compressionType: string | null;
  /** The names of its internal snapshots. */
  snapshots: string[];
}

/**
 * Measures what a disk takes as a qcow2 image with nothing above or below it (`qemu-img measure`). It
 * may be in use (`-U`): then it is a guess.
 *
 * @throws {QemuImgError} If it can't be read.
 */
export async function measure(
  deadline: Deadline,
  path: string,
  format: string,
  how: RunOptions = {},
): Promise<number> {
  const args = ["measure", "-U", "--output=json", "-f", format, "-O", "qcow2", path];
  const text = await qemuImg(deadline, [path], args, { sizeBytes: 0, ...how });
  return decoded("measure", Measured, text).required;
}

const Measured = v.object({ required: sizeBytes });

/** As `measure()`, of a chain in `json:` options that nobody changes; what it takes where it is not encrypted. */
export async function measureSource(
  deadline: Deadline,
  folders: string[],
  source: string,
  how: RunOptions = {},
): Promise<number> {
  const args = ["measure", "--output=json", "-O", "qcow2", source];
  return decoded("measure", Measured, await qemuImg(deadline, folders, args, how)).required;
}

/**
 * Measures what a chain takes as one qcow2 image (`qemu-img measure`).
 *
 * @param paths Its images, on one file system.
 * @param source `json:{…}` of the chain.
 * @throws {QemuImgError} If it can't be read.
 */
export async function measureChain(
  deadline: Deadline,
  paths: readonly string[],
  source: string,
  how: RunOptions = {},
): Promise<number> {
  const args = ["measure", "--output=json", "-O", "qcow2", source];
  const text = await qemuImg(deadline, paths.slice(-1), args, how);
  return decoded("measure", v.object({ required: sizeBytes }), text).required;
}

/** What a subcommand printed as JSON. */
function decoded<Output>(
  subcommand: string,
  schema: v.GenericSchema<unknown, Output>,
  text: string,
): Output {
  let json: unknown;
  try {
    json = parseJson(text);
  } catch {
    throw new QemuImgError(`qemu-img ${subcommand} printed no JSON`);
  }
  const printed = v.safeParse(schema, json, { abortEarly: true });
  if (printed.success) return printed.output;
  throw new QemuImgError(`qemu-img ${subcommand} printed JSON of an unknown shape`);
}

/**
 * Reads an image's header (`qemu-img info`), as qcow2 and nothing else: probing would take what a
 * guest wrote into a raw image for a header.
 *
 * @throws {QemuImgError} If it can't be read or is not a qcow2 image.
 */
export async function imageFacts(
  deadline: Deadline,
  path: string,
  options: RunOptions = {},
): Promise<ImageFacts> {
  // From a pipe qemu-img would wait for ever.
  const info = await stat(deadline, path).catch((error) => {
    if (error instanceof HangingError) throw error;
    return null;
  });
  if (info && !info.isFile) throw new QemuImgError(`"${path}" is not a regular file`);
  const args = ["info", "--output=json", "-f", "qcow2", path];
  const text = await qemuImg(deadline, [path], args, { sizeBytes: 0, ...options });
  return parseImageFacts(text);
}

const Named = v.object({ filename: v.string() });

/** What QEMU calls an image that is opened by `json:{…}`, as `commit -b` compares it. */
export async function nameInQemu(
  deadline: Deadline,
  path: string,
  source: string,
  options: RunOptions = {},
): Promise<string> {
  const args = ["info", "--output=json", source];
  const text = await qemuImg(deadline, [path], args, { sizeBytes: 0, ...options });
  return decoded("info", Named, text).filename;
}

/**
 * Decodes what `qemu-img info --output=json` prints.
 *
 * @throws {QemuImgError} If it is not that.
 */
export function parseImageFacts(text: string): ImageFacts {
  const info = decoded("info", Info, text);
  return {
    format: info.format,
    virtualSizeBytes: info["virtual-size"],
    allocatedBytes: info["actual-size"],
    clusterSizeBytes: info["cluster-size"],
    backing: info["backing-filename"] ?? null,
    dataFile: info["format-specific"]?.data?.["data-file"] ?? null,
    compressionType: info["format-specific"]?.data?.["compression-type"] ?? null,
    snapshots: info.snapshots.map(({ name }) => name),
  };
}

/** The exit code of `qemu-img check` for leaked clusters and nothing worse. */
const ONLY_LEAKS = 3;

/**
 * Where an image's last cluster in use ends (`qemu-img check`).
 *
 * @throws {QemuImgError} If that can't be told.
 */
export async function imageEnd(
  deadline: Deadline,
  path: string,
  how: RunOptions = {},
): Promise<number> {
  const text = await qemuImg(deadline, [path], ["check", "--output=json", alone(path, how)], how);
  return decoded("check", v.object({ "image-end-offset": v.number() }), text)["image-end-offset"];
}

/**
 * Whether some of an image's clusters are compressed (`qemu-img check`). Of one that has leaked clusters that is
 * not told.
 *
 * @throws {QemuImgError} If it is damaged.
 */
export async function isCompressed(
  deadline: Deadline,
  path: string,
  how: RunOptions = {},
): Promise<boolean> {
  try {
    const text = await qemuImg(deadline, [path], ["check", "--output=json", alone(path, how)], how);
    const Check = v.object({ "compressed-clusters": v.optional(v.number(), 0) });
    return decoded("check", Check, text)["compressed-clusters"] > 0;
  } catch (error) {
    if (error instanceof QemuImgError && error.status === ONLY_LEAKS) return false;
    throw error;
  }
}

/** An image without its parent, which `check` would open, wherever a link leads. With a key it is encrypted. */
function alone(path: string, { keyFile }: Pick<RunOptions, "keyFile">): string {
  const options = {
    driver: "qcow2",
    ...(keyFile ? LUKS : {}),
    file: { driver: "file", filename: path },
    backing: null,
  };
  return `json:${JSON.stringify(options)}`;
}

/**
 * Checks an image's metadata (`qemu-img check`). Leaked clusters only waste space: they are not an error.
 *
 * @throws {QemuImgError} If it is damaged, with what `qemu-img` says.
 */
export async function checkImage(
  deadline: Deadline,
  path: string,
  options: RunOptions = {},
): Promise<void> {
  try {
    await qemuImg(deadline, [path], ["check", "-q", alone(path, options)], options);
  } catch (error) {
    if (error instanceof QemuImgError && error.status === ONLY_LEAKS) return;
    throw error;
  }
}

/**
 * Opens an encrypted image with a key, which takes some milliseconds.
 *
 * @throws {QemuImgError} If it is not the key, or the image can't be opened.
 */
export async function openWithKey(
  deadline: Deadline,
  path: string,
  how: RunOptions & { keyFile: string },
): Promise<void> {
  // Of all that opens an image with its key, this reads least.
  await qemuImg(deadline, [path], ["snapshot", "-l", alone(path, how)], { sizeBytes: 0, ...how });
}
