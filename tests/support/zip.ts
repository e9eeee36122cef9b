/**
 * Zip archives of one file, not compressed.
 *
 * Source: APPNOTE.TXT of PKWARE, 4.3.
 *
 * @module
 */

/** The archive's bytes. */
export function zipOf(name: string, data: Uint8Array): Uint8Array {
  const nameBytes = new TextEncoder().encode(name);
  // Version, flags, method 0, time, 1 January 1980, then what both kinds of header share.
  const common = [
    ...[...u16(20), ...u16(0), ...u16(0), ...u16(0), ...u16(0x21)],
    ...[...u32(crc32(data)), ...u32(data.length), ...u32(data.length)],
    ...[...u16(nameBytes.length), ...u16(0)],
  ];
  const local = [...u32(0x04034b50), ...common, ...nameBytes];
  // Comment, disk, attributes, a regular file that may be run, and where the local header is.
  const rest = [...u16(0), ...u16(0), ...u16(0), ...u32(0o100755 * 65536), ...u32(0)];
  const central = [...u32(0x02014b50), ...u16(0x0314), ...common, ...rest, ...nameBytes];
  const counts = [...u16(0), ...u16(0), ...u16(1), ...u16(1)];
  const end = [
    ...[...u32(0x06054b50), ...counts, ...u32(central.length)],
    ...[...u32(local.length + data.length), ...u16(0)],
  ];
  const archive = new Uint8Array(local.length + data.length + central.length + end.length);
  archive.set(local);
  archive.set(data, local.length);
  archive.set([...central, ...end], local.length + data.length);
  return archive;
}

function u16(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff];
}

function u32(value: number): number[] {
  return [...u16(value), ...u16(value / 65536)];
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? 0xedb88320 ^ (crc >>> 1) : crc >>> 1;
  return crc;
});

function crc32(data: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of data) crc = (TABLE[(crc ^ byte) & 0xff] as number) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}
