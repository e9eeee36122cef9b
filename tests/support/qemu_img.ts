/** What tests ask of QEMU's image tools: plain calls that throw with the tool's own words. */

export type ImageFormat = "qcow2" | "raw";

/** How to create an image. */
export interface CreateOptions {
  /** Default: `"qcow2"`. */
  format?: ImageFormat;
  /** A qcow2 image that lies below; its path is written as it stands here. */
  backing?: string;
  /** More of `-o`, for example `"cluster_size=1M"`. */
  options?: readonly string[];
}

/** Creates an image of `sizeBytes`, all zeroes. */
export async function create(
  path: string,
  sizeBytes: number,
  { format = "qcow2", backing, options = [] }: CreateOptions = {},
): Promise<void> {
  await qemuImg([
    "create",
    ...["-q", "-f", format],
    ...(backing === undefined ? [] : ["-F", "qcow2", "-b", backing]),
    ...options.flatMap((option) => ["-o", option]),
    path,
    String(sizeBytes),
  ]);
}

/**
 * Compares what a guest would read; allocation and format are free to differ.
 *
 * @throws {Error} If the contents differ, with the first offset that does.
 */
export async function compare(
  a: string,
  aFormat: ImageFormat,
  b: string,
  bFormat: ImageFormat,
): Promise<void> {
  // `-U`: one of them may still be open in a QEMU.
  await qemuImg(["compare", "-U", "-f", aFormat, "-F", bFormat, a, b]);
}

/** Copies what a guest would read, through the whole backing chain, into a raw file. */
export async function convertToRaw(
  from: string,
  fromFormat: ImageFormat,
  to: string,
): Promise<void> {
  await qemuImg(["convert", "-U", "-f", fromFormat, "-O", "raw", from, to]);
}

/** What `qemu-img info` tells of the image itself, not of those below. */
export interface ImageInfo {
  format: string;
  virtualSize: number;
  /** As written in the header, relative or not. */
  backing: string | undefined;
  /** Names of the persistent bitmaps that the file holds. */
  bitmaps: string[];
  /** All of it, for what the others leave out. */
  raw: Record<string, unknown>;
}

/** Reads an image's header. */
export async function info(path: string): Promise<ImageInfo> {
  const raw = record(JSON.parse(await qemuImg(["info", "-U", "--output=json", path])));
  const { bitmaps } = record(record(raw["format-specific"]).data);
  const backing = raw["backing-filename"];
  return {
    format: String(raw.format),
    virtualSize: Number(raw["virtual-size"]),
    backing: typeof backing === "string" ? backing : undefined,
    bitmaps: Array.isArray(bitmaps) ? bitmaps.map((bitmap) => String(record(bitmap).name)) : [],
    raw,
  };
}

/** Runs one command of `qemu-io` on an image that no QEMU has open. */
export async function qemuIo(path: string, format: ImageFormat, command: string): Promise<void> {
  await run("qemu-io", ["-f", format, "-c", command, path]);
}

/**
 * Runs `qemu-img` and returns what it prints.
 *
 * @throws {Error} If it ends with anything but 0.
 */
export function qemuImg(args: readonly string[]): Promise<string> {
  return run("qemu-img", args);
}

async function run(program: string, args: readonly string[]): Promise<string> {
  const output = await new Deno.Command(program, { args: [...args], stdin: "null" }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  if (output.success) return text(output.stdout);
  const words = (text(output.stderr) + text(output.stdout)).trim();
  throw new Error(`${program} ${args.join(" ")} ended with ${output.code}: ${words}`);
}

function record(value: unknown): Record<string, unknown> {
  return typeof value === "object" && value !== null ? { ...value } : {};
}
