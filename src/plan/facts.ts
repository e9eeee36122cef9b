/**
 * All that a plan is made from.
 *
 * @module
 */

import type { Fingerprint, ImageFault } from "../repo/fingerprint.ts";
import type { RunRecord } from "../repo/record.ts";
import type { TargetSpeed } from "../repo/target_speed.ts";
import type { Target } from "../repo/repository.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import type { Features } from "../qmp/schema.ts";
import type { Device } from "../vm/devices.ts";
import type { Disk, LeftOut } from "../vm/disks.ts";

export interface Facts {
  vm: VmIdentity;
  /** `query-status`. */
  runState: string;
  features: Features;
  /** Whether disks may be served by other threads than QEMU's main loop. */
  hasIothreads: boolean;
  disks: Disk[];
  /** All devices that a user has added. */
  devices: Device[];
  leftOut: LeftOut[];
  /** The ids of its TPMs, which are left out as well. */
  tpms: string[];
  /** With the records of `adopted` among its own. */
  target: Target;
  /** The records of chains of the Python qmpbackup, which are not written yet. */
  adopted: RunRecord[];
  /** The bitmaps of the targets before this one, with `--monthly`, and their runs in order. */
  pastBitmaps: string[];
  pastRuns: RunRecord[];
  /** The files in each folder of the target, by the folder's name. */
  files: Map<string, string[]>;
  /** What is wrong with the images that the next increments would build on, by their paths in the target. */
  imageFaults: ReadonlyMap<string, ImageFault>;
  /** The fingerprints of those whose records have none, by their paths in the target. */
  newFingerprints: ReadonlyMap<string, Fingerprint>;
  /** The files in the target that the VM uses as disks or as their backing files, relative to the target. */
  inUse: string[];
  /** The images that are attached, by their paths in the target, each with the attachment's name. */
  attached: ReadonlyMap<string, string>;
  /** The folder beside each disk for its fleece, by the disk's id; null if there is none that can be used. */
  besideDisk: Map<string, string | null>;
  startedAt: Date;
  /** Eight random hexadecimal digits, a part of the name of all that this run puts into QEMU. */
  tag: string;
  newChainId: string;
  /** How fast the target took a sample; null if that was not looked for. */
  targetSpeed: TargetSpeed | null;
}
