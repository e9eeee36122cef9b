/**
 * Under which names, and in which formats, the disks of a VM come back. Pure.
 *
 * @module
 */

import { diskFileName } from "../repo/layout.ts";
import type { DiskRecord } from "../repo/record.ts";
import { freeName } from "../repo/saved.ts";

/** What `qemu-img convert` writes, and QEMU runs a VM on. */
const WRITABLE = ["raw", "qcow2", "qed", "vdi", "vmdk", "vpc", "vhdx"];

/** Where a disk goes. */
export interface VmDisk {
  row: DiskRecord;
  /** The new file's name. */
  name: string;
  format: string;
  /** Why it is not the format it was; null where it is. */
  note: string | null;
}

/**
 * Gives each disk the name that its file had, and its format.
 *
 * @param taken Names that other files of the folder have.
 */
export function placeDisks(rows: DiskRecord[], taken: string[]): VmDisk[] {
  const names = [...taken];
  return rows.map((row) => {
    const name = freeName(diskFileName(row.source), names);
    names.push(name);
    return { row, name, ...formatOf(row) };
  });
}

function formatOf({ name, id, format }: DiskRecord): Pick<VmDisk, "format" | "note"> {
  // UEFI variables: QEMU takes what it was given for raw, whatever it is.
  if (format === undefined && /\.flash\d+$/.test(id)) return { format: "raw", note: null };
  if (format === undefined) {
    const note =
      `The record does not say which format the disk "${name}" had: it is restored as qcow2`;
    return { format: "qcow2", note };
  }
  if (WRITABLE.includes(format)) return { format, note: null };
  const note =
    `The disk "${name}" had the format ${format}, and is restored as qcow2: change that where the ` +
    "VM is started";
  return { format: "qcow2", note };
}
