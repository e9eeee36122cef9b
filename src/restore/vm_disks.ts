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
  /** Why that may not be the format it had; null where it is. */
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
    return { row, name, ...formatOfRow(row) };
  });
}

/**
 * The format that a disk comes back in: its own, if `qemu-img` can write it.
 *
 * @param format Null if it is not known.
 */
export function formatOfDisk(
  name: string,
  format: string | null,
): Pick<VmDisk, "format" | "note"> {
  if (format === null) {
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

/** UEFI variables: QEMU takes what it was given for raw, whatever it is. */
function formatOfRow({ name, id, format }: DiskRecord) {
  return formatOfDisk(
    name,
    format === undefined && /\.flash\d+$/.test(id) ? "raw" : format ?? null,
  );
}
