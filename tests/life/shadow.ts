/**
 * What the disks of a VM must hold, known from our own writes alone. Pure but for `readSectors()`.
 *
 * @module
 */

const SECTOR = 512;

/** What a disk holds: for each sector the one value that all its bytes have. */
export type Sectors = Uint8Array;

/** All disks at one moment, by the device's id. Never changed in place. */
export type Shadow = ReadonlyMap<string, Sectors>;

/** A write, a zeroing or a discard (both of value 0), or a disk that has grown. */
export type Change =
  | {
    kind: "write" | "zero" | "discard";
    disk: string;
    first: number;
    count: number;
    value: number;
  }
  | { kind: "grow"; disk: string; sectors: number };

/** The shadow with one disk put in or replaced. */
export function withDisk(shadow: Shadow, disk: string, sectors: Sectors): Shadow {
  return new Map(shadow).set(disk, sectors);
}

/** The shadow after a change. */
export function changed(shadow: Shadow, change: Change): Shadow {
  const old = shadow.get(change.disk);
  if (!old) throw new Error(`The shadow has no disk "${change.disk}"`);
  if (change.kind === "grow") {
    const grown = new Uint8Array(change.sectors);
    grown.set(old);
    return withDisk(shadow, change.disk, grown);
  }
  const { first, count, value } = change;
  return withDisk(shadow, change.disk, old.slice().fill(value, first, first + count));
}

/**
 * The moments that a backup may show: all that the disks went through while it may have taken its
 * point in time. It is one and the same for all disks: which one, the comparisons narrow down.
 */
export class Moments {
  #moments: Shadow[];

  constructor(now: Shadow) {
    this.#moments = [now];
  }

  add(now: Shadow): void {
    this.#moments.push(now);
  }

  /** Whether a disk's size is not the same at all of them. */
  get isOfSeveralSizes(): boolean {
    const sizes = this.#moments.map((shadow) =>
      [...shadow.values()].map(({ length }) => length).join()
    );
    return new Set(sizes).size > 1;
  }

  /**
   * Keeps the moments at which a disk held this.
   *
   * @throws {Error} If there is none left, with what differs.
   */
  narrow(disk: string, found: Sectors): void {
    const words = this.#moments.map((shadow) => difference(shadow.get(disk), found));
    const left = this.#moments.filter((_, i) => words[i] === null);
    if (left.length === 0) {
      const which = `none of the ${words.length} moments that it may be of`;
      throw new Error(`It is ${which}:\n  ${[...new Set(words)].join("\n  ")}`);
    }
    this.#moments = left;
  }
}

/** Says where a disk differs from what it must hold; null if nowhere. */
export function difference(expected: Sectors | undefined, found: Sectors): string | null {
  if (!expected) return "there was no such disk";
  if (expected.length !== found.length) {
    return `${found.length} sectors instead of ${expected.length}`;
  }
  const wrong: number[] = [];
  for (let i = 0; i < found.length; i++) if (found[i] !== expected[i]) wrong.push(i);
  const [first = -1] = wrong;
  if (first < 0) return null;
  return `${wrong.length} sectors differ, from ${first} to ${wrong.at(-1)}: ` +
    `${found[first]} instead of ${expected[first]} at ${first}`;
}

/**
 * Reads a raw image.
 *
 * @throws {Error} If a sector is not of one value, as all we write are.
 */
export async function readSectors(path: string): Promise<Sectors> {
  const bytes = await Deno.readFile(path);
  if (bytes.length % SECTOR !== 0) throw new Error(`"${path}" has ${bytes.length} bytes`);
  const sectors = new Uint8Array(bytes.length / SECTOR);
  for (let i = 0; i < sectors.length; i++) {
    const value = bytes[i * SECTOR] as number;
    for (let at = i * SECTOR; at < (i + 1) * SECTOR; at++) {
      if (bytes[at] !== value) throw new Error(`"${path}": sector ${i} is torn`);
    }
    sectors[i] = value;
  }
  return sectors;
}

export const sectorsToBytes = (sectors: number): number => sectors * SECTOR;
