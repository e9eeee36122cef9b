/**
 * The guest's disks, from what QEMU says of its devices and block graph. Pure but for `queryDisks()`.
 *
 * A disk is known by the QOM path of its device: it stays the same when nodes come and go. Between the
 * device and the image there may be filters: a throttle, another program's job, or one of ours that
 * was left behind. Bitmaps belong on the format node below them.
 *
 * @module
 */

import {
  type BlockDevice,
  type BlockGraph,
  type BlockNode,
  type DirtyBitmap,
  type ImageInfo,
  qomProperties,
  qomProperty,
  queryBlock,
  queryGraph,
  queryNodes,
} from "../qmp/queries.ts";
import type { QmpClient } from "../qmp/client.ts";
import { nameWithoutSecrets, valueWithoutSecrets } from "../secrets.ts";
import { shortName } from "../short_name.ts";
import { backendOf } from "./backend.ts";
import { type Device, driveType, pathOf, queryDevices } from "./devices.ts";
import { isOurNode } from "./names.ts";
import { isReadTwice } from "./read_twice.ts";

export interface Disk {
  /** The QOM path of the device: the disk's identity. */
  id: string;
  /** The device's name, "" where it was made with `-blockdev`. */
  device: string;
  /** The node at the device: the image or a filter above it. */
  rootNode: string;
  /** The node of the image, where bitmaps belong. */
  node: string;
  /** What users and folders call it: the node's name, or the device's where QEMU or libvirt made that up. */
  name: string;
  /** The file, as QEMU names it: a path, a protocol's name or `json:{…}`; without its secrets. */
  source: string;
  /** `qcow2`, or the driver's name of anything else. */
  format: string;
  readOnly: boolean;
  /** Not only this VM may write to it (`share-rw=on`). No bitmap sees those writes. */
  isShared: boolean;
  virtualSizeBytes: number;
  /** See `isReadTwice()`. */
  isReadTwice: boolean;
  /** What the image takes now. */
  allocatedBytes: number;
  clusterSizeBytes: number | null;
  lazyRefcounts: boolean;
  /** Whether the image can hold a bitmap over a restart of QEMU (qcow2 version 3). */
  holdsBitmaps: boolean;
  bitmaps: DirtyBitmap[];
  image: ImageInfo;
  /** The images below it, from the top down. */
  backing: BackingImage[];
}

/** An image that a disk's own image stands on, as QEMU has it open. */
export interface BackingImage {
  /** As QEMU names it, without secrets. */
  file: string;
  format: string;
  virtualSizeBytes: number;
  /** The length of its file; null where QEMU names none. */
  fileBytes: number | null;
  /** When its file was last changed, in whole seconds (UTC); null where that can't be told. */
  modified: string | null;
}

/** A device whose data is not in a backup, and why. */
export interface LeftOut {
  device: string;
  /** With what to do, where something can be done. */
  reason: string;
  /** It may hold data that a user counts on, and nobody asked to leave it out. */
  unasked?: boolean | undefined;
  /** The VM does not have it any more. */
  gone?: boolean | undefined;
}

/** Reasons to skip a device without a loss. */
export const READ_ONLY = "read-only";
export const EMPTY = "the drive is empty";

/** The drivers that only pass everything on to their child. */
const FILTERS = new Set([
  ...["throttle", "copy-before-write", "copy-on-read", "preallocate", "compress"],
  ...["backup-top", "mirror_top", "commit_top", "blkdebug", "blkverify", "blklogwrites"],
  ...["blkreplay", "snapshot-access"],
]);

/** What is known already, and needn't be asked for again. */
export interface Known {
  graph?: BlockGraph | undefined;
  devices?: Device[] | undefined;
  /** See `Features.flatBlock`. */
  flatBlock?: boolean | undefined;
}

/** Asks QEMU for the guest's disks. */
export async function queryDisks(
  qmp: QmpClient,
  { graph: known, devices: listed, flatBlock = false }: Known = {},
): Promise<{ disks: Disk[]; leftOut: LeftOut[] }> {
  const drives = await queryBlock(qmp, flatBlock);
  const nodes = await queryNodes(qmp);
  const graph = known ?? await queryGraph(qmp);
  const devices = listed ?? await queryDevices(qmp);
  const described = await Promise.all(
    drives.map(async (drive) => ({ ...drive, ...await traitsOf(qmp, drive, devices, graph) })),
  );
  return disksOf(described, nodes, graph);
}

/** What QEMU says of the device itself. */
interface Traits {
  /** The QOM path of the object that has the `drive` property. */
  qdev: string;
  /** Its QOM type. */
  type?: string;
  isShared?: boolean;
}

async function traitsOf(
  qmp: QmpClient,
  { qdev, device }: BlockDevice,
  devices: Device[],
  graph: BlockGraph,
): Promise<Traits> {
  const known = pathOf(qdev);
  const knownType = driveType(devices, known);
  const { path, properties } = knownType === null
    ? await driveOwner(qmp, known)
    : { path: known, properties: ["share-rw"] };
  const get = async (property: string) =>
    properties.includes(property) ? await qomProperty(qmp, path, property) : undefined;
  // If the backend lets nobody else write, the disk is not shared. If it does, that may have another reason.
  const isAlone = backendOf(graph, { id: path, device })?.isShared === false;
  return {
    qdev: path,
    type: knownType ?? String(await get("type") ?? ""),
    isShared: !isAlone && await get("share-rw") === true,
  };
}

/** The QOM path of the device that has this node at its root; null where none has. */
export async function queryDrive(qmp: QmpClient, rootNode: string): Promise<string | null> {
  const devices = await queryBlock(qmp);
  const device = devices.find(({ inserted }) => inserted?.["node-name"] === rootNode);
  return device ? (await driveOwner(qmp, pathOf(device.qdev))).path : null;
}

/** The object that has the `drive` property: this one, or one that it is a part of (NVMe). */
async function driveOwner(
  qmp: QmpClient,
  first: string,
): Promise<{ path: string; properties: string[] }> {
  for (let path = first; path.length > "/machine".length;) {
    const properties = await qomProperties(qmp, path);
    if (properties?.includes("drive")) return { path, properties };
    path = path.slice(0, path.lastIndexOf("/"));
  }
  return { path: first, properties: [] };
}

/**
 * Sorts devices into disks and what is left out whatever the user asks for.
 *
 * @param devices With `qdev` as the path of the object that has the `drive` property.
 */
export function disksOf(
  devices: (BlockDevice & Partial<Traits>)[],
  nodes: BlockNode[],
  graph: BlockGraph,
): { disks: Disk[]; leftOut: LeftOut[] } {
  const disks: Disk[] = [];
  const leftOut: LeftOut[] = [];
  const childOf = childrenOf(nodes, graph);
  for (const device of devices) {
    if (!device.inserted) {
      const name = device.device || lastName(device.qdev);
      leftOut.push({ device: name, reason: EMPTY });
      continue;
    }
    const root = nodes.find((node) => node["node-name"] === device.inserted?.["node-name"]) ??
      device.inserted;
    const node = throughFilters(root, childOf);
    const twice = isReadTwice(graph, root["node-name"]);
    const disk = diskOf(device, device.inserted, node, backingOf(node, childOf), twice);
    if (PASSED_THROUGH.includes(device.type ?? "")) {
      leftOut.push({
        device: disk.name,
        reason: `a ${device.type}, whose writes QEMU does not see: back it up inside the guest`,
        unasked: true,
      });
    } else if (disk.readOnly) leftOut.push({ device: disk.name, reason: READ_ONLY });
    else if (disk.id === "") leftOut.push({ device: disk.name, reason: "no device of the guest" });
    else disks.push(disk);
  }
  return { disks, leftOut };
}

type ChildOf = (node: BlockNode, name: string) => BlockNode | undefined;

/** Looks up children by the graph. */
function childrenOf(nodes: BlockNode[], graph: BlockGraph): ChildOf {
  const names = new Map(graph.nodes.map(({ id, name }) => [id, name]));
  const ids = new Map(graph.nodes.map(({ id, name }) => [name, id]));
  const byName = new Map(nodes.map((node) => [node["node-name"], node]));
  return (node, name) => {
    const id = ids.get(node["node-name"]);
    const child = graph.edges.find((edge) => edge.parent === id && edge.name === name)?.child;
    return child === undefined ? undefined : byName.get(names.get(child) ?? "");
  };
}

/** The graph has no circles. The limit is for a graph that changed while QEMU was asked, and for the size of records. */
const MAX_DEPTH = 200;

/** Goes down from a node through the filters. */
function throughFilters(root: BlockNode, childOf: ChildOf): BlockNode {
  let node = root;
  for (let step = 0; isFilter(node) && step < MAX_DEPTH; step++) {
    const next = childOf(node, "file") ?? childOf(node, "backing");
    if (!next) break;
    node = next;
  }
  return node;
}

/** The images below an image, as QEMU has them open. The header of the image may name other ones. */
function backingOf(image: BlockNode, childOf: ChildOf): BackingImage[] {
  const images: BackingImage[] = [];
  let below = childOf(image, "backing");
  while (below && images.length < MAX_DEPTH) {
    const node = throughFilters(below, childOf);
    images.push({
      file: nameWithoutSecrets(node.file),
      format: node.drv,
      virtualSizeBytes: node.image["virtual-size"],
      fileBytes: childOf(node, "file")?.image["virtual-size"] ?? null,
      modified: null,
    });
    below = childOf(node, "backing");
  }
  return images;
}

/** Our switch nodes are `raw` nodes, which elsewhere are images. */
function isFilter({ drv, "node-name": name }: BlockNode): boolean {
  return FILTERS.has(drv) || isOurNode(name);
}

/** The guest's SCSI commands go straight to the storage (SG_IO), and no filter can stand in between. */
const PASSED_THROUGH = ["scsi-block", "scsi-generic"];

function diskOf(
  device: BlockDevice & Partial<Traits>,
  root: BlockNode,
  node: BlockNode,
  backing: BackingImage[],
  isReadTwice: boolean,
): Disk {
  const data = node.image["format-specific"]?.data ?? {};
  const nodeName = node["node-name"];
  return {
    id: device.qdev,
    device: device.device,
    rootNode: root["node-name"],
    node: nodeName,
    name: deviceName(
      [nodeName, device.device].find((name) => ID.test(name) && !COUNTED.test(name)) ??
        lastName(device.qdev),
    ),
    source: nameWithoutSecrets(node.file),
    format: node.drv,
    readOnly: node.ro,
    isShared: device.isShared === true,
    virtualSizeBytes: node.image["virtual-size"],
    allocatedBytes: node.image["actual-size"] ?? node.image["virtual-size"],
    clusterSizeBytes: node.drv === "qcow2" ? node.image["cluster-size"] ?? null : null,
    lazyRefcounts: data["lazy-refcounts"] === true,
    holdsBitmaps: node.drv === "qcow2" && data.compat !== "0.10",
    bitmaps: node["dirty-bitmaps"].filter(({ name }) => name !== ""),
    image: valueWithoutSecrets(node.image),
    backing,
    isReadTwice,
  };
}

/** The name of a disk is a part of file names, which have 255 bytes at most. */
const MAX_NAME_BYTES = 75;

/** The name of a disk after its device, whose name may be of any length. */
export function deviceName(device: string): string {
  return shortName(device, MAX_NAME_BYTES);
}

/** What QEMU accepts as the name of a node or a drive. Names that it makes up have a "#". */
const ID = /^[A-Za-z][A-Za-z0-9._-]{0,63}$/;

/** libvirt counts its nodes, and counts again when the VM starts: with one disk more, each has another's name. */
const COUNTED = /^libvirt-\d+-/;

/**
 * A name for a device that has none: the end of its path, as a folder may be called. An id that was
 * given as JSON may be anything, ".." too (seen in 7.2).
 */
function lastName(path: string): string {
  const parts = path.split("/").filter((part) => !["", "virtio-backend"].includes(part));
  const name = (parts.at(-1) ?? "").replace(/[^A-Za-z0-9._-]/g, "-").replace(/^[._-]+/, "");
  return name.slice(0, 64) || "disk";
}
