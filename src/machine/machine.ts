/**
 * What a VM was besides its disks' contents, as a record keeps it.
 *
 * @module
 */

import * as v from "valibot";

/** A disk's device. */
const DiskDevice = v.object({
  /** What the disk is called in the record's rows. */
  disk: v.string(),
  /** The QOM path of its device. */
  path: v.string(),
  /** What `-device` calls it: "virtio-blk-pci". */
  driver: v.string(),
  /** The QOM path of its bus. */
  bus: v.string(),
  serial: v.string(),
  /** Its place in the boot order; null where it has none. */
  bootIndex: v.nullable(v.number()),
});

const Nic = v.object({
  path: v.string(),
  driver: v.string(),
  mac: v.string(),
  /** The id of the `-netdev` behind it. */
  netdev: v.string(),
  bootIndex: v.nullable(v.number()),
});
export type Nic = v.InferOutput<typeof Nic>;

export const Machine = v.object({
  /** "x86_64": the end of the name of QEMU's program. */
  arch: v.string(),
  /** "pc-q35-7.2". */
  type: v.string(),
  /** The firmware's file, if it was named as such; UEFI is mostly among the disks (pflash). */
  firmware: v.string(),
  memoryBytes: v.number(),
  processors: v.number(),
  disks: v.array(DiskDevice),
  nics: v.array(Nic),
  /** The ids of its TPMs. */
  tpms: v.array(v.string()),
  /** QEMU's own command line without its secrets; null where it can't be read. */
  commandLine: v.nullable(v.array(v.string())),
  /** What its relative paths are relative to; null where that can't be told. */
  workingFolder: v.nullable(v.string()),
});
export type Machine = v.InferOutput<typeof Machine>;
export type DiskDevice = v.InferOutput<typeof DiskDevice>;
