/**
 * Keeps a live migration away for as long as nodes of ours are in the guest's way: QEMU would send the
 * guest off, and the new host could not lock the disks that our filters still hold here.
 *
 * A block node of a format that can't migrate does that (QEMU's `block/vdi.c` and `block/qcow.c`,
 * `migrate_add_blocker()`). QEMU refuses `migrate` while there is such a node, and refuses to add one while it
 * migrates (tried on 5.2, 7.2, 10.0 and 11.1). `savevm` and `snapshot-save` are refused as well.
 *
 * @module
 */

import type { Deadline } from "../fs/deadline.ts";
import { createFile } from "../fs/create.ts";
import { removeFile } from "../fs/durable.ts";
import { Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "../qmp/client.ts";
import { queryMigration } from "../qmp/queries.ts";

/** The drivers, each with the smallest image it opens. A build of QEMU may lack some. */
const BLOCKERS: [driver: string, image: () => Uint8Array<ArrayBuffer>][] = [
  ["vdi", vdiImage],
  ["qcow", qcowImage],
];

/**
 * Adds a node that keeps a migration away until it is removed. QEMU reads nothing more from its file when it is
 * open: the file is removed at once.
 *
 * @param file Where the file may be made: QEMU must be able to open it. Nothing may be there.
 * @throws {Failure} If the VM is being migrated, with what to do.
 * @throws {QmpCommandError} If QEMU can't open any such node.
 */
export async function addMigrationBlocker(
  deadline: Deadline,
  qmp: QmpClient,
  node: string,
  file: string,
  mode: number,
): Promise<void> {
  let refusal: unknown;
  for (const [driver, image] of BLOCKERS) {
    try {
      return await openOnce(deadline, qmp, { driver, "node-name": node }, file, mode, image());
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      await refuseMigrating(qmp);
      refusal ??= error;
    }
  }
  throw refusal;
}

async function openOnce(
  deadline: Deadline,
  qmp: QmpClient,
  node: { driver: string; "node-name": string },
  file: string,
  mode: number,
  image: Uint8Array<ArrayBuffer>,
) {
  await createFile(deadline, file, mode, image);
  try {
    const options = { ...node, "read-only": true, file: { driver: "file", filename: file } };
    await qmp.execute("blockdev-add", options);
  } finally {
    await removeFile(deadline, file);
  }
}

/** What `query-migrate` says of a VM that stays where it is. */
const NOT_MIGRATING = [null, "none", "completed", "failed", "cancelled"];

async function refuseMigrating(qmp: QmpClient): Promise<void> {
  const status = await queryMigration(qmp);
  if (NOT_MIGRATING.includes(status)) return;
  throw new Failure(
    `The VM is being migrated (its migration has the state "${status}"), and no backup can be taken ` +
      "meanwhile: try again when that is over, on the host where the VM runs then",
  );
}

/**
 * A disk of 64 KiB with nothing in it. Source: QEMU's block/vdi.c, `VdiHeader`: version 1.1, static
 * header of 0x180 bytes, one block, which is not allocated.
 */
function vdiImage(): Uint8Array<ArrayBuffer> {
  const image = new Uint8Array(1024);
  image.set(new TextEncoder().encode("<<< QEMU VM Virtual Disk Image >>>\n"));
  const view = new DataView(image.buffer);
  const put = (offset: number, value: number) => view.setUint32(offset, value, true);
  put(0x40, 0xbeda107f);
  put(0x44, 0x10001);
  put(0x48, 0x180);
  // A dynamic image.
  put(0x4c, 1);
  // Where the list of blocks stands, and the blocks.
  put(0x154, 512);
  put(0x158, 1024);
  put(0x168, 512);
  put(0x170, 65536);
  put(0x178, 1 << 20);
  // How many blocks.
  put(0x180, 1);
  // Its id, which may not be all zero.
  image.fill(1, 0x188, 0x1a8);
  put(512, 0xffffffff);
  return image;
}

/** As `vdiImage()`. Source: QEMU's block/qcow.c, `QCowHeader`: version 1, and a table of 64 entries. */
function qcowImage(): Uint8Array<ArrayBuffer> {
  const image = new Uint8Array(48 + 512);
  const view = new DataView(image.buffer);
  // "QFI" and 0xfb.
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, 1);
  view.setUint32(28, 65536);
  // Bits of an offset within a cluster, and within a table.
  image[32] = 12;
  image[33] = 9;
  // Where the table stands.
  view.setUint32(44, 48);
  return image;
}
