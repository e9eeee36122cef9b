/**
 * What this QEMU can do, read from its own description (`query-qmp-schema`), not from its version.
 *
 * Source: QEMU QMP Reference Manual, "QMP introspection".
 *
 * @module
 */

import * as v from "valibot";
import type { QmpClient } from "./client.ts";
import { decodeAnswer } from "./queries.ts";

const Schema = v.array(v.object({
  name: v.string(),
  "meta-type": v.string(),
  "arg-type": v.optional(v.string()),
  members: v.optional(v.array(v.object({ name: v.optional(v.string(), "") }))),
  values: v.optional(v.array(v.string())),
  variants: v.optional(v.array(v.object({ case: v.string(), type: v.string() }))),
}));
type Schema = v.InferOutput<typeof Schema>;

export interface Features {
  /**
   * `copy-before-write` and `snapshot-access` with `on-cbw-error`: all that fleecing needs. Without it
   * (before 7.1) a job reads from the disk itself, and the guest's writes wait for the target.
   */
  fleecing: boolean;
  /** The stable command, or what it was called before 6.1, when it took a single node. */
  reopen: "blockdev-reopen" | "x-blockdev-reopen";
  /** `blockdev-backup` knows `x-perf` (workers and chunk size). */
  backupPerf: boolean;
  /**
   * `cbw-timeout` can be more than 4 seconds: in 7.2 it overflows and breaks snapshots far too early.
   * No schema tells, so this alone goes by the version; 10.0 was seen to be right.
   */
  longCbwTimeout: boolean;
  /**
   * Disks in iothreads can be treated as others. Before QEMU 9 took those threads' lock away, putting a
   * node above such a disk while the guest wrote ended QEMU ("qemu_mutex_unlock_impl: Operation not
   * permitted", 7.2, each time). By the version, too.
   */
  busyIothreads: boolean;
  /**
   * A snapshot can be read across the border of what is kept in the fleece. Before (7.2) what begins in a part
   * that is kept, and ends in one that is not, was read from the disk as it is now. By the version, too.
   */
  wideReads: boolean;
  /** Blocks can be set aside ahead of the writes. */
  preallocate: boolean;
  /** Clusters can be compressed by zstd: that depends on how QEMU was built, too. */
  zstd: boolean;
  /** `query-block` can leave out the images behind each disk's. */
  flatBlock: boolean;
}

/** Asks QEMU for its schema. */
export async function queryFeatures(qmp: QmpClient): Promise<Features> {
  const command = "query-qmp-schema";
  const schema = decodeAnswer(command, Schema, await qmp.execute(command));
  return featuresOf(schema, Number.parseInt(qmp.version));
}

/** Reads the features from a schema, and from QEMU's major version what no schema says. */
export function featuresOf(schema: Schema, majorVersion: number): Features {
  const entities = new Map(schema.map((entity) => [entity.name, entity]));
  const membersOf = (type: string | undefined) =>
    (entities.get(type ?? "")?.members ?? []).map(({ name }) => name);
  const drivers = entities.get(entities.get("blockdev-add")?.["arg-type"] ?? "")?.variants ?? [];
  const driver = (name: string) => drivers.find((variant) => variant.case === name)?.type;
  const backup = membersOf(entities.get("blockdev-backup")?.["arg-type"]);
  return {
    fleecing: driver("snapshot-access") !== undefined &&
      membersOf(driver("copy-before-write")).includes("on-cbw-error"),
    reopen: entities.has("blockdev-reopen") ? "blockdev-reopen" : "x-blockdev-reopen",
    longCbwTimeout: majorVersion >= 10,
    busyIothreads: majorVersion >= 9,
    wideReads: majorVersion >= 10,
    preallocate: driver("preallocate") !== undefined,
    backupPerf: backup.includes("x-perf"),
    // `Qcow2CompressionType`: the schema tells no names of types.
    zstd: schema.some(({ values }) => values?.toSorted().join() === "zlib,zstd"),
    flatBlock: membersOf(entities.get("query-block")?.["arg-type"]).includes("flat"),
  };
}
