/**
 * How a chain becomes one image: in one pass, or in several where QEMU can't open it well at once.
 * Pure.
 *
 * The chain is spelled out as `json:` options, so that the order is ours and not that of the links, and
 * names are never read as protocols. QEMU's time to open such a chain grows with the square of its
 * length (100 layers 0.4 s, 400 layers 32 s), and the kernel ends an argument at 128 KiB.
 *
 * @module
 */

export interface Limits {
  layers: number;
  /** Of the `json:` text. */
  bytes: number;
}

export const LIMITS: Limits = { layers: 100, bytes: 100_000 };

/** One run of `qemu-img convert`: a source in `json:` options, and whether it is the last. */
export interface Pass {
  source: string;
  isLast: boolean;
}

/**
 * Cuts a chain into passes; each but the first builds on what the one before made.
 *
 * @param layers Paths of qcow2 images, the full backup first.
 * @param between Names the image that a pass leaves for the next one.
 */
export function planPasses(
  layers: string[],
  between: (pass: number) => string,
  limits = LIMITS,
): Pass[] {
  const passes: Pass[] = [];
  let open: string[] = [];
  for (const layer of layers) {
    if (open.length > 1 && !fits([...open, layer], limits)) {
      passes.push({ source: chainSource(open), isLast: false });
      open = [between(passes.length)];
    }
    open.push(layer);
  }
  return [...passes, { source: chainSource(open), isLast: true }];
}

function fits(layers: string[], limits: Limits): boolean {
  return layers.length <= limits.layers &&
    new TextEncoder().encode(chainSource(layers)).length <= limits.bytes;
}

/** `json:{…}` of a raw image, whatever its first bytes look like. */
export function rawSource(filename: string): string {
  return `json:${JSON.stringify({ driver: "raw", file: { driver: "file", filename } })}`;
}

interface ImageOptions {
  driver: "qcow2";
  file: { driver: "file"; filename: string };
  backing: ImageOptions | null | undefined;
}

/** `json:{…}` of a chain, whose links in the headers don't matter then. */
export function chainSource(layers: string[]): string {
  return sourceOf(layers, null);
}

/** As `chainSource()`, but what lies below the first image is told by its own header. Pure. */
export function linkedSource(layers: string[]): string {
  return sourceOf(layers, undefined);
}

function sourceOf(layers: string[], below: null | undefined): string {
  const options = layers.reduce<ImageOptions | null | undefined>(
    (backing, filename) => ({ driver: "qcow2", file: { driver: "file", filename }, backing }),
    below,
  );
  return `json:${JSON.stringify(options)}`;
}
