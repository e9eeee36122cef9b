/**
 * A backup as it was decided on, as plain data.
 *
 * @module
 */

import type { Fingerprint } from "../repo/fingerprint.ts";
import type { RunRecord } from "../repo/record.ts";
import type { VmIdentity } from "../qmp/queries.ts";
import type { Features } from "../qmp/schema.ts";
import type { Disk, LeftOut } from "../vm/disks.ts";
import type { SentinelRecord } from "../vm/sentinel.ts";
import type { ImagePlace } from "./image_place.ts";
import type { LevelPlan } from "./level.ts";
import type { BackupRequest } from "./request.ts";
import type { Writing } from "./writing.ts";

/** What is to be done for one disk. */
export interface DiskPlan extends LevelPlan, ImagePlace {
  disk: Disk;
  folder: string;
  /** The obsolete bitmaps: no run needs them when this backup is done. Until then they stay as they are. */
  obsoleteBitmaps: string[];
  /** The bitmap that records from this backup on; null for a copy. */
  nextBitmap: string | null;
  /** What tells later whether the disk was cut after this backup; null for a copy. See `vm/sentinel.ts`. */
  sentinel: SentinelRecord | null;
  /** It is not there yet. */
  isNewSentinel: boolean;
  /** The sentinel of the last backup: up to the point in time it must not have changed. */
  previousSentinel: SentinelRecord | null;
  /** Of the next bitmap, as QEMU would choose it: the cluster size, but 4 KiB at least and 64 KiB at most. */
  granularityBytes: number;
  /** What the image takes at most. Without a fleece it is reserved before. */
  reserveBytes: number;
  job: string;
  /** Reads again what the job could not read. */
  probeJob: string;
  /** The bitmap that tells the job what to copy. */
  jobBitmap: string;
  /** Only what is allocated is copied: see `vm/allocation.ts`. */
  isThin: boolean;
  /** Looks what is allocated. */
  lookJob: string;
  /** The id of the snapshot's export, where it is compared. */
  exportId: string;
  nodes: Record<
    "target" | "file" | "fleece" | "filter" | "switchNode" | "snapshot" | "end" | "empty",
    string
  >;
  /** What the key is called in QEMU while it opens the image; null where that is not encrypted. */
  keyId: string | null;
  /** Absolute. */
  fleeceFile: string;
  /** There is no folder beside the disk: the guest's writes may wait for the backup's storage. */
  isFleeceOnTarget: boolean;
  /** How long a guest's write may wait for the fleece before the backup fails; null is for ever. */
  cbwTimeoutSeconds: number | null;
  /** The file of the source's `qemu-img info`, relative to the target. */
  configFile: string;
  /** The images in its folder that no record knows. */
  unrecorded: string[];
}

export interface Plan {
  runId: string;
  sequence: number;
  chainId: string;
  startedAt: Date;
  request: BackupRequest;
  vm: VmIdentity;
  /** `query-status`, when it was planned. */
  runState: string;
  features: Features;
  /** How all images are written. */
  writing: Writing;
  /** No fleece: the jobs read from the disks themselves. */
  direct: boolean;
  /** Why the guest has to be stopped for the point in time; null where it needn't. */
  pause: string | null;
  /** The node that keeps a migration away while the run is on. */
  migrationBlocker: string;
  /** Where QEMU serves the snapshots that are compared; null where there is none. */
  nbdSocket: string | null;
  /** The images that the key must open, relative to the target; none where nothing is encrypted. */
  tryKeyOn: string[];
  disks: DiskPlan[];
  leftOut: LeftOut[];
  /** The ids of its TPMs. */
  tpms: string[];
  /** The records of the runs before, those of `adopted` among them. */
  runs: RunRecord[];
  /** The records of chains of the Python qmpbackup that go on here. They are written first. */
  adopted: RunRecord[];
  /** See `Facts`. They are recorded as well. */
  newFingerprints: ReadonlyMap<string, Fingerprint>;
  /** What is not done as asked for, and what the user has to know. */
  warnings: string[];
}
