/**
 * The bytes of a qcow2 image with nothing in it: no other program has to be started to make one, or to open
 * a file by its name. Pure.
 *
 * Source: QEMU's docs/interop/qcow2.txt.
 *
 * @module
 */

/** "QFI" and 0xfb. */
const MAGIC = 0x514649fb;
const VERSION = 3;
const HEADER_BYTES = 104;
/** Of a header that names the type of compression. */
const LONG_HEADER_BYTES = 112;
/** A feature that a program must know: the type of compression is not zlib. */
const COMPRESSION_TYPE = 8;
const ZSTD = 1;
/** A feature that a program need not know. */
const LAZY_REFCOUNTS = 1;
/** The header extension for the format of the parent. */
const BACKING_FORMAT = 0xe2792aca;
/** A reference count has 1 << 4 bits. */
const REFCOUNT_ORDER = 4, REFCOUNT_BYTES = 2;
const ENTRY_BYTES = 8;

export interface EmptyQcow2 {
  virtualSizeBytes: number;
  /** A power of two, 512 to 2 MiB; 64 KiB, as QEMU has it, unless it is said. */
  clusterSizeBytes?: number;
  lazyRefcounts?: boolean;
  /** zlib unless it is said. */
  compressionType?: "zstd";
  /** The parent's name, relative to the image; a qcow2 image as well. */
  backing?: string | null;
}

const DEFAULT_CLUSTER_BYTES = 65536;
/** Images consist of sectors, and QEMU rounds up. */
const SECTOR_BYTES = 512;

/**
 * Makes an empty image.
 *
 * @throws {RangeError} If the parent's name is too long for one cluster.
 */
export function emptyQcow2(image: EmptyQcow2): Uint8Array {
  const { clusterSizeBytes = DEFAULT_CLUSTER_BYTES } = image;
  const virtualSizeBytes = Math.ceil(image.virtualSizeBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const entries = clusterSizeBytes / ENTRY_BYTES;
  const l1Size = Math.ceil(virtualSizeBytes / clusterSizeBytes / entries);
  const l1Clusters = Math.ceil(l1Size / entries);
  // Header, L1 table, and the counts of all of these, which count themselves.
  const counted = clusterSizeBytes / REFCOUNT_BYTES;
  let blocks = 1, tableClusters = 1;
  const all = () => 1 + l1Clusters + tableClusters + blocks;
  while (blocks * counted < all()) {
    blocks++;
    tableClusters = Math.ceil(blocks / entries);
  }
  const tableAt = clusterSizeBytes;
  const blocksAt = tableAt + tableClusters * clusterSizeBytes;
  const l1At = blocksAt + blocks * clusterSizeBytes;
  const bytes = new Uint8Array(all() * clusterSizeBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC);
  view.setUint32(4, VERSION);
  view.setUint32(20, Math.log2(clusterSizeBytes));
  view.setBigUint64(24, BigInt(virtualSizeBytes));
  view.setUint32(36, l1Size);
  view.setBigUint64(40, BigInt(l1At));
  view.setBigUint64(48, BigInt(tableAt));
  view.setUint32(56, tableClusters);
  view.setUint32(96, REFCOUNT_ORDER);
  const isZstd = image.compressionType === "zstd";
  const headerBytes = isZstd ? LONG_HEADER_BYTES : HEADER_BYTES;
  view.setUint32(100, headerBytes);
  if (isZstd) {
    view.setUint8(79, COMPRESSION_TYPE);
    view.setUint8(104, ZSTD);
  }
  if (image.lazyRefcounts) view.setUint8(87, LAZY_REFCOUNTS);
  if (image.backing) writeBacking(bytes.subarray(0, clusterSizeBytes), headerBytes, image.backing);
  for (let block = 0; block < blocks; block++) {
    const at = blocksAt + block * clusterSizeBytes;
    view.setBigUint64(tableAt + block * ENTRY_BYTES, BigInt(at));
  }
  for (let cluster = 0; cluster < all(); cluster++) {
    view.setUint16(blocksAt + cluster * REFCOUNT_BYTES, 1);
  }
  return bytes;
}

/** Writes the parent's format, the end of the header's extensions, and the parent's name behind that. */
function writeBacking(cluster: Uint8Array, extensionsAt: number, backing: string) {
  const [format, name] = ["qcow2", backing].map((text) => new TextEncoder().encode(text)) as [
    Uint8Array,
    Uint8Array,
  ];
  const view = new DataView(cluster.buffer, cluster.byteOffset, cluster.byteLength);
  view.setUint32(extensionsAt, BACKING_FORMAT);
  view.setUint32(extensionsAt + 4, format.length);
  cluster.set(format, extensionsAt + 8);
  // Each extension is padded to 8 bytes; the last one is of type 0 and length 0.
  const nameAt = extensionsAt + 8 + Math.ceil(format.length / 8) * 8 + 8;
  cluster.set(name, nameAt);
  view.setBigUint64(8, BigInt(nameAt));
  view.setUint32(16, name.length);
}
