/** Small valid values; each test changes the one field that it is about. */

import type { Facts } from "../../src/plan/facts.ts";
import type { BackupRequest } from "../../src/plan/request.ts";
import { type DiskRecord, RECORD_HEAD, type RunRecord } from "../../src/repo/record.ts";
import type { Target } from "../../src/repo/repository.ts";
import type { Io } from "../../src/cli/output/io.ts";
import type { DirtyBitmap } from "../../src/qmp/queries.ts";
import type { BackingImage, Disk } from "../../src/vm/disks.ts";

/** 2026-11-22T23:00:00Z. */
export const NOW_SECONDS = 1795388400;
export const CHAIN = "0b6e5d1c-7b1f-4a6e-9a83-2f7f5f1f0c11";
/** The tag of the runs that `aRun()` records. */
export const OLD_TAG = "0ld0ld00";

export function aBitmap(name: string, change: Partial<DirtyBitmap> = {}): DirtyBitmap {
  return {
    name,
    countBytes: 3 << 16,
    granularityBytes: 65536,
    recording: true,
    busy: false,
    persistent: true,
    inconsistent: false,
    ...change,
  };
}

export function aDisk(name = "disk0", change: Partial<Disk> = {}): Disk {
  const source = `/vm/${name}.qcow2`;
  return {
    id: `/machine/peripheral/v${name}/virtio-backend`,
    device: "",
    rootNode: name,
    node: name,
    name,
    source,
    format: "qcow2",
    readOnly: false,
    isShared: false,
    isReadTwice: false,
    virtualSizeBytes: 16 << 20,
    allocatedBytes: 5 << 20,
    clusterSizeBytes: 65536,
    lazyRefcounts: false,
    holdsBitmaps: true,
    bitmaps: [],
    image: { filename: source, format: "qcow2", "virtual-size": 16 << 20 },
    backing: [],
    ...change,
  };
}

/** A template below a disk. */
export function aBackingImage(name: string, change: Partial<BackingImage> = {}): BackingImage {
  return {
    file: `/vm/${name}.qcow2`,
    format: "qcow2",
    virtualSizeBytes: 16 << 20,
    fileBytes: 5 << 20,
    modified: "2026-11-01T12:00:00.000Z",
    ...change,
  };
}

/** A full backup of `aDisk()` that is done. */
export function aDiskRecord(name = "disk0", change: Partial<DiskRecord> = {}): DiskRecord {
  return {
    id: `/machine/peripheral/v${name}/virtio-backend`,
    name,
    folder: name,
    source: `/vm/${name}.qcow2`,
    node: name,
    level: "full",
    reason: "asked for",
    bitmap: `qmpbackup-${name}-${OLD_TAG}-${CHAIN}`,
    granularityBytes: 65536,
    sentinel: null,
    backing: null,
    fleece: `/vm/qmpbackup-${OLD_TAG}-0.fleece`,
    file: `${name}/FULL-${NOW_SECONDS - 86400}-${name}.qcow2`,
    parent: null,
    unrecorded: [],
    virtualSizeBytes: 16 << 20,
    bytesWritten: 5 << 20,
    result: "done",
    error: null,
    ...change,
  };
}

export function aRun(disks: DiskRecord[], change: Partial<RunRecord> = {}): RunRecord {
  return {
    ...RECORD_HEAD,
    id: `20261121T230000Z-${OLD_TAG}`,
    sequence: 1,
    level: "auto",
    state: "done",
    chain: CHAIN,
    started: "2026-11-21T23:00:00.000Z",
    pointInTime: "2026-11-21T23:00:01.000Z",
    finished: "2026-11-21T23:00:09.000Z",
    tool: "0.1.0",
    qemu: "7.2.22",
    vm: { name: "vm1", uuid: "" },
    hold: { kind: "none", pausedMs: 0, frozenMs: null },
    disks,
    leftOut: [],
    warnings: [],
    ...change,
  };
}

export function aTarget(runs: RunRecord[] = [], change: Partial<Target> = {}): Target {
  return {
    path: "/backup/vm1",
    chainId: runs.length > 0 ? CHAIN : null,
    hasRecords: runs.length > 0,
    runs,
    halfAdopted: [],
    ...change,
  };
}

export function aRequest(change: Partial<BackupRequest> = {}): BackupRequest {
  return {
    level: "auto",
    fullEvery: null,
    mode: 0o600,
    target: "/backup/vm1",
    monthly: false,
    include: [],
    exclude: [],
    includeRaw: false,
    uuid: null,
    speedLimitBytesPerSecond: 0,
    save: [],
    compress: null,
    encrypt: false,
    keyFile: null,
    onLostBitmap: "full",
    fleeceDir: null,
    quiesce: "no",
    pause: false,
    cbwTimeoutSeconds: null,
    directTarget: null,
    targetAio: null,
    verify: false,
    digest: true,
    stallTimeoutMs: 300_000,
    removeDelayMs: 0,
    subdir: true,
    timestamp: true,
    symlink: true,
    ...change,
  };
}

/** A VM of these disks and an empty target. */
export function someFacts(disks: Disk[] = [aDisk()], change: Partial<Facts> = {}): Facts {
  return {
    vm: { name: "vm1", uuid: "" },
    runState: "running",
    features: {
      fleecing: true,
      reopen: "blockdev-reopen",
      backupPerf: true,
      longCbwTimeout: true,
      busyIothreads: true,
      flatBlock: true,
      zstd: true,
      wideReads: true,
      preallocate: true,
    },
    hasIothreads: false,
    disks,
    devices: [],
    leftOut: [],
    tpms: [],
    target: aTarget(),
    pastBitmaps: [],
    pastRuns: [],
    inUse: [],
    attached: new Map(),
    imageFaults: new Map(),
    newFingerprints: new Map(),
    files: new Map(),
    adopted: [],
    besideDisk: new Map(disks.map(({ id }) => [id, "/vm"])),
    startedAt: new Date(NOW_SECONDS * 1000),
    tag: "f00dcafe",
    newChainId: "a-new-chain",
    targetSpeed: null,
    ...change,
  };
}

/** The files that these runs left, by folder. */
export function filesOf(runs: RunRecord[]): Map<string, string[]> {
  const paths = runs.flatMap(({ disks }) => disks.map(({ file }) => file.split("/")));
  return new Map(
    Object.entries(Object.groupBy(paths, ([folder = ""]) => folder))
      .map(([folder, inIt = []]) => [folder, inIt.map(([, name = ""]) => name)]),
  );
}

/** The day after: these runs are done, their files and bitmaps are there. */
export function factsAfter(runs: RunRecord[], disks: Disk[], change: Partial<Facts> = {}): Facts {
  return someFacts(disks, { target: aTarget(runs), files: filesOf(runs), ...change });
}

/** A disk with the bitmap of its record. */
export function aDiskWithBitmap(name = "disk0", change: Partial<DirtyBitmap> = {}): Disk {
  return aDisk(name, { bitmaps: [aBitmap(`qmpbackup-${name}-${OLD_TAG}-${CHAIN}`, change)] });
}

export interface FakeIo extends Io {
  out: string;
  err: string;
}

/** Surroundings that keep what is written. */
export function fakeIo(change: Partial<Io> = {}): FakeIo {
  const io: FakeIo = {
    out: "",
    err: "",
    stdout: (text) => void (io.out += text),
    stderr: (text) => void (io.err += text),
    isTerminal: false,
    color: false,
    columns: () => 80,
    rows: () => 24,
    width: () => Infinity,
    ...change,
  };
  return io;
}
