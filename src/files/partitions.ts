/**
 * Where the partitions of a disk are.
 *
 * Source: UEFI Specification 2.10, chapter 5 (GPT, and the MBR's record of a partition).
 *
 * @module
 */

/** A part of a disk. Number 0 is the disk as a whole. */
export interface Partition {
  number: number;
  offsetBytes: number;
  sizeBytes: number;
}

/** Reads so many bytes of the disk, or fewer at its end. */
export type ReadAt = (offset: number, length: number) => Promise<Uint8Array>;

const SECTOR_SIZES = [512, 4096];
/** More are not looked at, whatever a table says. */
const MAX_PARTITIONS = 128;
const EXTENDED = [0x05, 0x0f, 0x85];
const PROTECTIVE = 0xee;
const MBR_ENTRIES = [446, 462, 478, 494];

/**
 * Reads a partition table.
 *
 * @returns The partitions that lie within the disk; none where there is no table.
 */
export async function readPartitions(read: ReadAt, diskBytes: number): Promise<Partition[]> {
  const isInside = ({ offsetBytes, sizeBytes }: Partition) =>
    offsetBytes > 0 && sizeBytes > 0 && offsetBytes + sizeBytes <= diskBytes;
  for (const sectorBytes of SECTOR_SIZES) {
    const header = parseGptHeader(await read(sectorBytes, 512));
    if (!header) continue;
    const { tableSector, count, entryBytes } = header;
    const table = await read(tableSector * sectorBytes, count * entryBytes);
    return parseGptEntries(table, entryBytes, sectorBytes).filter(isInside);
  }
  return (await readMbr(read)).filter(isInside);
}

interface GptHeader {
  tableSector: number;
  count: number;
  entryBytes: number;
}

/** Decodes a GPT's header; null if it is not one. Pure. */
export function parseGptHeader(bytes: Uint8Array): GptHeader | null {
  if (bytes.length < 92 || new TextDecoder("latin1").decode(bytes.subarray(0, 8)) !== "EFI PART") {
    return null;
  }
  const view = viewOf(bytes);
  const [tableSector, count, entryBytes] = [
    Number(view.getBigUint64(72, true)),
    view.getUint32(80, true),
    view.getUint32(84, true),
  ];
  if (entryBytes < 128 || entryBytes > 4096 || tableSector > 2 ** 40) return null;
  return { tableSector, count: Math.min(count, MAX_PARTITIONS), entryBytes };
}

/** Decodes a GPT's entries; one without a type is not used. Pure. */
export function parseGptEntries(
  table: Uint8Array,
  entryBytes: number,
  sectorBytes: number,
): Partition[] {
  const partitions: Partition[] = [];
  for (let at = 0; at + entryBytes <= table.length; at += entryBytes) {
    if (table.subarray(at, at + 16).every((byte) => byte === 0)) continue;
    const view = viewOf(table.subarray(at, at + entryBytes));
    const first = Number(view.getBigUint64(32, true));
    const last = Number(view.getBigUint64(40, true));
    partitions.push({
      number: at / entryBytes + 1,
      offsetBytes: first * sectorBytes,
      sizeBytes: (last - first + 1) * sectorBytes,
    });
  }
  return partitions;
}

interface MbrEntry {
  type: number;
  first: number;
  sectors: number;
}

/** Decodes the four entries of an MBR; null if it is not one. Pure. */
export function parseMbr(sector: Uint8Array): MbrEntry[] | null {
  if (sector.length < 512 || sector[510] !== 0x55 || sector[511] !== 0xaa) return null;
  const view = viewOf(sector);
  // The head of a FAT or NTFS ends like that as well: there these bytes are code.
  if (MBR_ENTRIES.some((at) => (view.getUint8(at) & 0x7f) !== 0)) return null;
  return MBR_ENTRIES.map((at) => ({
    type: view.getUint8(at + 4),
    first: view.getUint32(at + 8, true),
    sectors: view.getUint32(at + 12, true),
  }));
}

async function readMbr(read: ReadAt): Promise<Partition[]> {
  const partitionOf = (number: number, first: number, sectors: number) => ({
    number,
    offsetBytes: first * 512,
    sizeBytes: sectors * 512,
  });
  const entries = parseMbr(await read(0, 512)) ?? [];
  const isPlain = ({ type }: MbrEntry) => type !== 0 && type !== PROTECTIVE && !isExtended(type);
  const primary = entries.flatMap((entry, i) =>
    isPlain(entry) ? [partitionOf(i + 1, entry.first, entry.sectors)] : []
  );
  const extended = entries.find(({ type }) => isExtended(type));
  const logical: Partition[] = [];
  // Each logical partition has a table of its own, which names the next one.
  for (let next = extended?.first; next && logical.length < MAX_PARTITIONS;) {
    const [own, link] = parseMbr(await read(next * 512, 512)) ?? [];
    if (!own || own.type === 0) break;
    logical.push(partitionOf(5 + logical.length, next + own.first, own.sectors));
    next = link && isExtended(link.type) ? (extended?.first ?? 0) + link.first : undefined;
  }
  return [...primary, ...logical];
}

const isExtended = (type: number) => EXTENDED.includes(type);

const viewOf = (bytes: Uint8Array) =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
