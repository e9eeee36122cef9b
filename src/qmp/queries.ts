/**
 * QMP's read-only commands, decoded. Fields we don't use are not decoded; unknown ones are ignored.
 *
 * Source: QEMU QMP Reference Manual, "Block devices" and "VM run state".
 *
 * @module
 */

import * as v from "valibot";
import { brief, Failure } from "../errors.ts";
import { type QmpClient, QmpCommandError } from "./client.ts";

/** An answer of QEMU's that has not the shape its manual gives it. */
export class UnexpectedAnswerError extends Failure {
  override name = "UnexpectedAnswerError";
}

/**
 * Decodes the answer to a command.
 *
 * @throws {UnexpectedAnswerError} If it has not the shape of `schema`.
 */
export function decodeAnswer<S extends v.GenericSchema>(
  command: string,
  schema: S,
  answer: unknown,
): v.InferOutput<S> {
  const result = v.safeParse(schema, answer, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw new UnexpectedAnswerError(
    `QEMU's answer to "${command}" does not have the expected shape at ` +
      `"${v.getDotPath(issue) ?? ""}": ${brief(issue.message)}`,
  );
}

/** A size, a count or an id. What is too large for JavaScript is read as Infinity, and is none. */
const amount = v.pipe(v.number(), v.finite(), v.minValue(0));

/** `BlockDirtyInfo`; `countBytes` is how much it marks as changed. */
const DirtyBitmap = v.pipe(
  v.object({
    name: v.optional(v.string()),
    count: amount,
    granularity: amount,
    recording: v.optional(v.boolean(), true),
    busy: v.optional(v.boolean(), false),
    persistent: v.optional(v.boolean(), false),
    inconsistent: v.optional(v.boolean(), false),
  }),
  v.transform(({ count, granularity, name, ...rest }) => ({
    ...rest,
    name: name ?? "",
    countBytes: count,
    granularityBytes: granularity,
  })),
);
export type DirtyBitmap = v.InferOutput<typeof DirtyBitmap>;

/** `ImageInfo`, what `qemu-img info` prints too; the rest of it is kept for the `.config` file. */
const ImageInfo = v.looseObject({
  filename: v.string(),
  format: v.string(),
  "virtual-size": amount,
  "actual-size": v.optional(amount),
  "cluster-size": v.optional(amount),
  "backing-filename": v.optional(v.string()),
  "format-specific": v.optional(
    v.looseObject({ type: v.string(), data: v.optional(v.record(v.string(), v.unknown())) }),
  ),
});
export type ImageInfo = v.InferOutput<typeof ImageInfo>;

/** `BlockDeviceInfo`: a node of the block graph. */
const BlockNode = v.object({
  "node-name": v.optional(v.string(), ""),
  drv: v.string(),
  file: v.string(),
  ro: v.boolean(),
  image: ImageInfo,
  "dirty-bitmaps": v.optional(v.array(DirtyBitmap), []),
});
export type BlockNode = v.InferOutput<typeof BlockNode>;

/** `BlockInfo`: a device of the guest with what is in it. */
const BlockDevice = v.object({
  device: v.string(),
  qdev: v.optional(v.string(), ""),
  "io-status": v.optional(v.string()),
  inserted: v.optional(BlockNode),
});
export type BlockDevice = v.InferOutput<typeof BlockDevice>;

/** `query-migrate`: the state of the last migration away from here; null where there was none. */
export async function queryMigration(qmp: QmpClient): Promise<string | null> {
  const schema = v.object({ status: v.optional(v.string()) });
  const { status } = decodeAnswer("query-migrate", schema, await qmp.execute("query-migrate"));
  return status ?? null;
}

/**
 * `query-block`: the devices of the guest.
 *
 * @param flat Without the images behind each, where QEMU can leave them out: see `Features.flatBlock`.
 */
export async function queryBlock(qmp: QmpClient, flat = false): Promise<BlockDevice[]> {
  const answer = await qmp.execute("query-block", flat ? { flat } : undefined);
  return decodeAnswer("query-block", v.array(BlockDevice), answer);
}

/** `query-named-block-nodes`: all nodes, without the images behind each (`flat`). */
export async function queryNodes(qmp: QmpClient): Promise<BlockNode[]> {
  const answer = await qmp.execute("query-named-block-nodes", { flat: true });
  return decodeAnswer("query-named-block-nodes", v.array(BlockNode), answer);
}

const BlockGraph = v.object({
  nodes: v.array(v.object({ id: amount, type: v.string(), name: v.string() })),
  edges: v.array(v.object({
    parent: amount,
    child: amount,
    name: v.string(),
    /** What the parent may do with the child. */
    perm: v.optional(v.array(v.string())),
    /** What others may do with the child meanwhile. */
    "shared-perm": v.optional(v.array(v.string())),
  })),
});
export type BlockGraph = v.InferOutput<typeof BlockGraph>;

/** `x-debug-query-block-graph`: who is whose child, the only command that says so in every release. */
export async function queryGraph(qmp: QmpClient): Promise<BlockGraph> {
  const command = "x-debug-query-block-graph";
  return decodeAnswer(command, BlockGraph, await qmp.execute(command));
}

const Job = v.object({
  id: v.string(),
  type: v.string(),
  status: v.string(),
  "current-progress": amount,
  "total-progress": amount,
  error: v.optional(v.string()),
});
export type Job = v.InferOutput<typeof Job>;

/** `query-jobs`. */
export async function queryJobs(qmp: QmpClient): Promise<Job[]> {
  return decodeAnswer("query-jobs", v.array(Job), await qmp.execute("query-jobs"));
}

/** `query-block-jobs`: the ids of those that an error has stopped (`on-source-error: stop`). */
export async function queryFailedJobs(qmp: QmpClient): Promise<string[]> {
  const command = "query-block-jobs";
  const BlockJobs = v.array(v.object({ device: v.string(), "io-status": v.string() }));
  return decodeAnswer(command, BlockJobs, await qmp.execute(command))
    .filter((job) => job["io-status"] !== "ok").map(({ device }) => device);
}

export interface BlockExport {
  id: string;
  /** "nbd", say. */
  type: string;
  node: string;
}

/** `query-block-exports`: what QEMU lets others read, or write. */
export async function queryBlockExports(qmp: QmpClient): Promise<BlockExport[]> {
  const command = "query-block-exports";
  const Exports = v.array(v.object({
    id: v.string(),
    type: v.optional(v.string(), ""),
    "node-name": v.optional(v.string(), ""),
  }));
  return decodeAnswer(command, Exports, await qmp.execute(command))
    .map(({ id, type, "node-name": node }) => ({ id, type, node }));
}

/** Their ids alone. */
export async function queryExports(qmp: QmpClient): Promise<string[]> {
  return (await queryBlockExports(qmp)).map(({ id }) => id);
}

const Status = v.object({ running: v.boolean(), status: v.string() });
export type Status = v.InferOutput<typeof Status>;

/** `query-status`: whether the guest runs, and the run state's name. */
export async function queryStatus(qmp: QmpClient): Promise<Status> {
  return decodeAnswer("query-status", Status, await qmp.execute("query-status"));
}

export interface VmIdentity {
  /** `-name`, or "" where there is none. */
  name: string;
  /** `-uuid`, or "" where there is none (QEMU says all zeroes then). */
  uuid: string;
}

/** `query-name` and `query-uuid`. */
export async function queryIdentity(qmp: QmpClient): Promise<VmIdentity> {
  const Name = v.object({ name: v.optional(v.string(), "") });
  const Uuid = v.object({ UUID: v.string() });
  const { name } = decodeAnswer("query-name", Name, await qmp.execute("query-name"));
  const { UUID } = decodeAnswer("query-uuid", Uuid, await qmp.execute("query-uuid"));
  return { name, uuid: /^[0-]+$/.test(UUID) ? "" : UUID };
}

/** `query-tpm`: the ids of the guest's TPMs; none where this QEMU was built without them. */
export async function queryTpms(qmp: QmpClient): Promise<string[]> {
  const Tpms = v.array(v.object({ id: v.string() }));
  try {
    return decodeAnswer("query-tpm", Tpms, await qmp.execute("query-tpm")).map(({ id }) => id);
  } catch (error) {
    if (error instanceof QmpCommandError) return [];
    throw error;
  }
}

/** `query-iothreads`: the ids of the threads that may serve disks besides QEMU's main loop. */
export async function queryIothreads(qmp: QmpClient): Promise<string[]> {
  const command = "query-iothreads";
  const Threads = v.array(v.object({ id: v.string() }));
  return decodeAnswer(command, Threads, await qmp.execute(command)).map(({ id }) => id);
}

/** A device or another object below a QOM object. */
export interface QomChild {
  name: string;
  /** Its QOM type. */
  type: string;
}

/** What is below a QOM object (`qom-list`); nothing where there is no such object. */
export async function qomChildren(qmp: QmpClient, path: string): Promise<QomChild[]> {
  const Properties = v.array(v.object({ name: v.string(), type: v.string() }));
  try {
    return decodeAnswer("qom-list", Properties, await qmp.execute("qom-list", { path }))
      .flatMap(({ name, type }) => {
        const child = /^child<(.*)>$/.exec(type)?.[1];
        return child === undefined ? [] : [{ name, type: child }];
      });
  } catch (error) {
    if (error instanceof QmpCommandError) return [];
    throw error;
  }
}

export interface PciDevice {
  /** What the user called it; "" where that is nothing. */
  id: string;
  /** The class and subclass that the guest sees, as in `pci.ids`: 0x0108 is an NVMe controller. */
  class: number;
}

/** `query-pci`: what is on the guest's PCI buses, behind bridges, too. */
export async function queryPci(qmp: QmpClient): Promise<PciDevice[]> {
  const Device = v.object({
    qdev_id: v.optional(v.string(), ""),
    class_info: v.object({ class: amount }),
    pci_bridge: v.optional(v.object({ devices: v.optional(v.array(v.unknown()), []) })),
  });
  const flatten = (devices: unknown[]): PciDevice[] =>
    decodeAnswer("query-pci", v.array(Device), devices).flatMap((device) => [
      { id: device.qdev_id, class: device.class_info.class },
      ...flatten(device.pci_bridge?.devices ?? []),
    ]);
  const Buses = v.array(v.object({ devices: v.array(v.unknown()) }));
  const buses = decodeAnswer("query-pci", Buses, await qmp.execute("query-pci"));
  return buses.flatMap(({ devices }) => flatten(devices));
}

/** The names of the properties of a QOM object (`qom-list`); null where there is no such object. */
export async function qomProperties(qmp: QmpClient, path: string): Promise<string[] | null> {
  const Properties = v.array(v.object({ name: v.string() }));
  try {
    const answer = await qmp.execute("qom-list", { path });
    return decodeAnswer("qom-list", Properties, answer).map(({ name }) => name);
  } catch (error) {
    if (error instanceof UnexpectedAnswerError || !qmp.isOpen) throw error;
    return null;
  }
}

/**
 * A property of a QOM object (`qom-get`); undefined where there is no such object, or it has none of that name.
 *
 * Objects go at any time: an unplugged device, the lock of a run that ends. So one that was listed may be gone.
 */
export async function qomProperty(qmp: QmpClient, path: string, property: string) {
  try {
    return await qmp.execute("qom-get", { path, property });
  } catch (error) {
    if (error instanceof QmpCommandError) return undefined;
    throw error;
  }
}

/** A text property of a QOM object; null where there is none. */
export async function qomText(
  qmp: QmpClient,
  path: string,
  property: string,
): Promise<string | null> {
  if (!(await qomProperties(qmp, path))?.includes(property)) return null;
  const text = await qomProperty(qmp, path, property);
  return text === undefined ? null : decodeAnswer("qom-get", v.string(), text);
}
