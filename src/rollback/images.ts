/**
 * Which images tell where a disk can differ from a point in time. Pure.
 *
 * @module
 */

/** An image of a chain. */
export interface ChainImage {
  /** Absolute. */
  path: string;
  virtualSizeBytes: number;
}

/**
 * The images in which all lies that can differ between two chains: two disks that build on the same images hold the
 * same where neither has an image of its own with something there.
 *
 * @param point The chain of the point in time, the full backup first.
 * @param now That of the last backup.
 */
export function imagesThatDiffer(point: ChainImage[], now: ChainImage[]): ChainImage[] {
  let common = 0;
  while (common < point.length && point[common]?.path === now[common]?.path) common++;
  return [...point.slice(common), ...now.slice(common)];
}

/** The first image in which the disk has another size than now; null where there is none. */
export function resizedImage(images: ChainImage[], sizeBytes: number): ChainImage | null {
  return images.find(({ virtualSizeBytes }) => virtualSizeBytes !== sizeBytes) ?? null;
}
