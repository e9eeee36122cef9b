/**
 * The bytes of a qcow2 image with nothing in it, for where no other program is to open a file by its name.
 * Pure.
 *
 * Source: QEMU's docs/interop/qcow2.txt.
 *
 * @module
 */

/** "QFI" and 0xfb. */
const MAGIC = 0x514649fb;
const VERSION = 3;
const HEADER_BYTES = 104;
/** A reference count has 1 << 4 bits. */
const REFCOUNT_ORDER = 4, REFCOUNT_BYTES = 2;
const ENTRY_BYTES = 8;

/**
 * Makes an image of this size, without a parent.
 *
 * @param clusterSizeBytes A power of two, 512 to 2 MiB.
 */
export function emptyQcow2(virtualSizeBytes: number, clusterSizeBytes: number): Uint8Array {
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
  view.setUint32(100, HEADER_BYTES);
  for (let block = 0; block < blocks; block++) {
    const at = blocksAt + block * clusterSizeBytes;
    view.setBigUint64(tableAt + block * ENTRY_BYTES, BigInt(at));
  }
  for (let cluster = 0; cluster < all(); cluster++) {
    view.setUint16(blocksAt + cluster * REFCOUNT_BYTES, 1);
  }
  return bytes;
}
