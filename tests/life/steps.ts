/**
 * The steps that a life is made of, as plain data from a seed. Whatever depends on the state of the
 * VM (which disk, which sector, which restore point) is a share, so that each step fits any state.
 *
 * @module
 */

import fc from "fast-check";

/** Picks one of whatever there is then: 0 is the first, just below 1 the last. */
export type Share = number;

export interface ChangeStep {
  kind: "write" | "zero" | "discard" | "grow";
  disk: Share;
  at: Share;
  /** Of the disk's size; a disk grows by so much. */
  size: Share;
  value: number;
  /** How long it waits, where a backup runs. */
  afterMs: number;
}

export interface BackupStep {
  kind: "backup";
  target: Share;
  level: "full" | "inc" | "auto" | "diff" | "copy";
  /** `--full-every 3`, with auto and diff. */
  fullEvery: boolean;
  /** One disk only. */
  only: Share | null;
  slow: boolean;
  compress: boolean;
  pause: boolean;
  /** `--on-lost-bitmap compare`. */
  compare: boolean;
  /** `--verify`. */
  verify: boolean;
  /** While it runs. */
  changes: ChangeStep[];
  interrupt: "none" | "cancel" | "kill tool" | "kill QEMU" | "fill target";
  /** After how many of the changes, and how long after that. */
  interruptAt: Share;
  interruptAfterMs: number;
}

export interface PruneStep {
  kind: "prune";
  target: Share;
  /** `--keep-last`. */
  last: number;
  /** A run to be protected before. */
  protect: Share | null;
  stopAfterMs: number | null;
  /** With -9, as a process of its own. */
  kill: boolean;
}

export interface InPlaceStep {
  kind: "restore in place";
  way: "rebase" | "commit" | "snapshotrebase";
  target: Share;
  point: Share;
  stopAfterMs: number | null;
}

export interface AttachStep {
  kind: "attach";
  target: Share;
  point: Share;
  /** Read-only, by a server. */
  nbd: boolean;
  /** What is written into an overlay. */
  at: Share;
  value: number;
  stopAfterMs: number | null;
}

export interface DetachStep {
  kind: "detach";
  which: Share;
  byHand: boolean;
}

/** Of a qcow2 image; null is a raw disk. */
export type ClusterBytes = number | null;

export type Step =
  | ChangeStep
  | BackupStep
  | InPlaceStep
  | PruneStep
  | AttachStep
  | DetachStep
  | { kind: "restore merge"; target: Share; point: Share }
  | { kind: "restore verify"; target: Share }
  | { kind: "restart QEMU"; cleanly: boolean }
  | { kind: "add disk"; clusterBytes: ClusterBytes; size: Share }
  | { kind: "new target"; target: Share }
  | { kind: "recover"; target: Share }
  | { kind: "remove bitmaps" };

/** Not `fc.double()`: that takes each exponent as often as any other. */
const share = fc.nat({ max: 999_999 }).map((n) => n / 1e6);
const seldom = oneOfValues([4, false], [1, true]);
const rarely = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { freq: 4 });

/** The number before each says how often it comes. */
function oneOf<T>(...weighted: [number, fc.Arbitrary<T>][]): fc.Arbitrary<T> {
  return fc.oneof(...weighted.map(([weight, arbitrary]) => ({ weight, arbitrary })));
}

function oneOfValues<const T>(...weighted: [number, T][]): fc.Arbitrary<T> {
  return oneOf(
    ...weighted.map(([weight, value]): [number, fc.Arbitrary<T>] => [weight, fc.constant(value)]),
  );
}

const change: fc.Arbitrary<ChangeStep> = fc.record({
  kind: oneOfValues([10, "write"], [3, "zero"], [3, "discard"], [1, "grow"]),
  disk: share,
  at: share,
  // Many small ones, few large ones.
  size: share.map((x) => x ** 4 / 2),
  value: fc.integer({ min: 1, max: 255 }),
  afterMs: fc.nat({ max: 60 }),
});

const backup: fc.Arbitrary<BackupStep> = fc.record({
  kind: fc.constant("backup" as const),
  // Two targets: most go to the first, so that chains become long.
  target: share.map((x) => x ** 2),
  level: oneOfValues([10, "auto"], [5, "inc"], [2, "diff"], [1, "full"], [1, "copy"]),
  fullEvery: seldom,
  only: rarely(share),
  slow: fc.boolean(),
  compress: seldom,
  pause: seldom,
  compare: fc.boolean(),
  verify: seldom,
  changes: fc.array(change, { maxLength: 8 }),
  interrupt: oneOfValues(
    [20, "none"],
    [4, "cancel"],
    [2, "kill tool"],
    [1, "kill QEMU"],
    [2, "fill target"],
  ),
  interruptAt: share,
  interruptAfterMs: fc.nat({ max: 200 }),
});

const inPlace: fc.Arbitrary<InPlaceStep> = fc.record({
  kind: fc.constant("restore in place" as const),
  way: fc.constantFrom("rebase", "commit", "snapshotrebase"),
  target: share,
  point: share,
  stopAfterMs: rarely(fc.nat({ max: 400 })),
});

const prune: fc.Arbitrary<PruneStep> = fc.record({
  kind: fc.constant("prune" as const),
  target: share.map((x) => x ** 2),
  last: fc.integer({ min: 1, max: 6 }),
  protect: rarely(share),
  stopAfterMs: rarely(fc.nat({ max: 600 })),
  kill: fc.boolean(),
});

const attach: fc.Arbitrary<AttachStep> = fc.record({
  kind: fc.constant("attach" as const),
  target: share.map((x) => x ** 2),
  point: share,
  nbd: fc.boolean(),
  at: share,
  value: fc.integer({ min: 1, max: 255 }),
  stopAfterMs: rarely(fc.nat({ max: 300 })),
});

const detach: fc.Arbitrary<DetachStep> = fc.record({
  kind: fc.constant("detach" as const),
  which: share,
  byHand: seldom,
});

const clusterBytes = oneOfValues([1, 4096], [1, 65536], [2, 512 << 10], [1, null]);

const step: fc.Arbitrary<Step> = oneOf<Step>(
  [50, change],
  [50, backup],
  [6, inPlace],
  [6, prune],
  [4, attach],
  [6, detach],
  [8, fc.record({ kind: fc.constant("restore merge"), target: share, point: share })],
  [6, fc.record({ kind: fc.constant("restore verify"), target: share })],
  [
    6,
    fc.record({ kind: fc.constant("restart QEMU"), cleanly: oneOfValues([3, true], [1, false]) }),
  ],
  [4, fc.record({ kind: fc.constant("add disk"), clusterBytes, size: share })],
  [1, fc.record({ kind: fc.constant("new target"), target: share })],
  [3, fc.record({ kind: fc.constant("recover"), target: share })],
  [1, fc.record({ kind: fc.constant("remove bitmaps") })],
);

/** The same steps for the same seed. */
export function stepsOf(seed: number, count: number): Step[] {
  // Biased, half of all shares would be next to 0 or 1.
  return fc.sample(fc.noBias(step), { seed, numRuns: count });
}
