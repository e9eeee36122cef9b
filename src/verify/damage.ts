/**
 * What is damaged, and what that means for the restore points. Pure.
 *
 * @module
 */

/** A place that is not as it should be. */
export interface Damage {
  /** The file, relative to the target. */
  file: string;
  /** Of the bytes; null where the file as a whole is meant. */
  range: { offset: number; length: number } | null;
  /** Goes on from the file's name: "is missing". */
  reason: string;
  /** Whether the points that need this file can't be trusted any more. */
  spoils: boolean;
}

/** A restore point, and the files that it needs. */
export interface NeededFiles {
  /** Its newest image, relative to the target. */
  point: string;
  disk: string;
  /** UTC milliseconds. */
  timeMs: number;
  files: string[];
}

/** The points that need a damaged file, and those that don't; oldest first. */
export function pointsHitBy(
  damages: readonly Damage[],
  points: readonly NeededFiles[],
): { spoiled: NeededFiles[]; intact: NeededFiles[] } {
  const bad = new Set(damages.filter(({ spoils }) => spoils).map(({ file }) => file));
  const isSpoiled = ({ point, files }: NeededFiles) =>
    bad.has(point) || files.some((file) => bad.has(file));
  return {
    spoiled: points.filter(isSpoiled),
    intact: points.filter((point) => !isSpoiled(point)),
  };
}

/** Makes one of damages side by side in a file that have the same reason. */
export function joined(damages: readonly Damage[]): Damage[] {
  const all: Damage[] = [];
  for (const damage of damages) {
    const { file, range, reason } = damage;
    const last = all.at(-1);
    const follows = last?.range && range && last.file === file && last.reason === reason &&
      last.range.offset + last.range.length === range.offset;
    if (!follows) all.push(damage);
    else {
      const { offset, length } = last.range as { offset: number; length: number };
      all[all.length - 1] = { ...last, range: { offset, length: length + range.length } };
    }
  }
  return all;
}
