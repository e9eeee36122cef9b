import { assertEquals } from "@std/assert";
import type { QmpClient } from "../../../src/qmp/client.ts";
import type { BlockDevice, BlockGraph, BlockNode } from "../../../src/qmp/queries.ts";
import { type Disk, disksOf, queryDisks } from "../../../src/vm/disks.ts";
import { aBitmap } from "../_fixtures.ts";
import qemu72 from "./qemu_7_2.json" with { type: "json" };

/** Answers as a QEMU 7.2 did that had a disk of each kind (some fields are left out). */
function replay(): QmpClient {
  const answers: Record<string, unknown> = { ...qemu72 };
  const execute = (command: string, args: { path?: string } = {}) => {
    if (command !== "qom-list") return Promise.resolve(answers[command]);
    const hasDrive = qemu72["qom-list"].includes(args.path ?? "");
    const names = ["type", ...(hasDrive ? ["drive"] : [])];
    return Promise.resolve(names.map((name) => ({ name, type: "string" })));
  };
  return { isOpen: true, execute } as unknown as QmpClient;
}

async function replayedDisk(name: string): Promise<Disk | undefined> {
  return (await queryDisks(replay())).disks.find((disk) => disk.name === name);
}

Deno.test("queryDisks() finds each disk of a real VM by its path", async () => {
  const { disks } = await queryDisks(replay());
  assertEquals(disks.map(({ name, id }) => [name, id.replace("/machine/", "")]), [
    ["drv1", "peripheral/sd0"],
    ["virtio0", "peripheral-anon/device[4]/virtio-backend"],
    ["nv", "peripheral/nv0"],
    ["thr", "peripheral-anon/device[0]"],
    ["pflash1", "system.flash1"],
    ["disk0", "peripheral/vd0/virtio-backend"],
    ["fmt5", "peripheral-anon/device[1]/virtio-backend"],
    ["v2", "peripheral-anon/device[2]"],
    ["over", "peripheral/vdover/virtio-backend"],
    ["ext", "peripheral/vdext/virtio-backend"],
    ["lazy", "peripheral/vdlazy/virtio-backend"],
    ["jj", "peripheral/vdjj/virtio-backend"],
    ["raw0", "peripheral/vdraw/virtio-backend"],
    ["mir", "peripheral/vdmir/virtio-backend"],
  ]);
});

Deno.test("queryDisks() leaves out what is read-only or empty on a real VM", async () => {
  const { leftOut } = await queryDisks(replay());
  assertEquals(leftOut.map(({ reason }) => reason), [
    "read-only",
    "read-only",
    "the drive is empty",
  ]);
  assertEquals(leftOut.slice(0, 2).map(({ device }) => device), ["pflash0", "cdd"]);
});

Deno.test("queryDisks() looks through a filter of ours that was left at a device", async () => {
  const disk = await replayedDisk("disk0");
  assertEquals(disk?.rootNode, "qmpbackup-aaaaaaaa-0-cbw");
  assertEquals(disk?.node, "disk0");
  assertEquals(disk?.bitmaps.map(({ name }) => name), ["qmpbackup-disk0-x-y"]);
});

Deno.test("queryDisks() looks through the filter of another program's mirror job", async () => {
  const disk = await replayedDisk("mir");
  assertEquals([disk?.rootNode, disk?.node], ["mirfilter", "mir"]);
});

Deno.test("queryDisks() looks through a throttle filter", async () => {
  const disk = await replayedDisk("fmt5");
  assertEquals([disk?.rootNode, disk?.node, disk?.format], ["thr5", "fmt5", "qcow2"]);
});

Deno.test("queryDisks() takes the node's own file for the source, not its backing file", async () => {
  assertEquals((await replayedDisk("over"))?.source, "/vm/over.qcow2");
});

Deno.test("queryDisks() takes the qcow2 file for the source where the data is elsewhere", async () => {
  assertEquals((await replayedDisk("ext"))?.source, "/vm/ext.qcow2");
});

Deno.test("queryDisks() keeps a json: file name", async () => {
  assertEquals((await replayedDisk("jj"))?.source.slice(0, 25), 'json:{"driver": "qcow2", ');
});

Deno.test("queryDisks() knows that qcow2 version 2 holds no bitmap", async () => {
  assertEquals((await replayedDisk("v2"))?.holdsBitmaps, false);
  assertEquals((await replayedDisk("over"))?.holdsBitmaps, true);
});

Deno.test("queryDisks() reads the image's options", async () => {
  const lazy = await replayedDisk("lazy"), raw = await replayedDisk("raw0");
  assertEquals([lazy?.clusterSizeBytes, lazy?.lazyRefcounts], [4096, true]);
  assertEquals([raw?.clusterSizeBytes, raw?.holdsBitmaps, raw?.format], [null, false, "raw"]);
});

function aNode(name: string, change: Partial<BlockNode> = {}): BlockNode {
  const file = `/vm/${name}.qcow2`;
  return {
    "node-name": name,
    drv: "qcow2",
    file,
    ro: false,
    image: { filename: file, format: "qcow2", "virtual-size": 1 << 20 },
    "dirty-bitmaps": [],
    ...change,
  };
}

function aDevice(inserted: BlockNode, change: Partial<BlockDevice> = {}): BlockDevice {
  return { device: "", qdev: "/machine/peripheral/vd0", inserted, ...change };
}

/** A graph of edges "parent child name". */
function graphOf(...edges: [string, string, string][]): BlockGraph {
  const names = [...new Set(edges.flatMap(([parent, child]) => [parent, child]))];
  return {
    nodes: names.map((name, id) => ({ id, type: "block-driver", name })),
    edges: edges.map(([parent, child, name]) => ({
      parent: names.indexOf(parent),
      child: names.indexOf(child),
      name,
    })),
  };
}

const NO_GRAPH: BlockGraph = { nodes: [], edges: [] };

/** The only disk of a VM whose device stands on these nodes, the root first. */
function onlyDisk(nodes: BlockNode[], graph = NO_GRAPH, change: Partial<BlockDevice> = {}) {
  const { disks } = disksOf([aDevice(nodes[0] as BlockNode, change)], nodes, graph);
  assertEquals(disks.length, 1);
  return disks[0] as Disk;
}

Deno.test("disksOf() calls a disk by its node", () => {
  assertEquals(onlyDisk([aNode("disk0")], NO_GRAPH, { device: "drive0" }).name, "disk0");
});

Deno.test("disksOf() calls a disk by its device where QEMU made the node's name up", () => {
  assertEquals(onlyDisk([aNode("#block12")], NO_GRAPH, { device: "drive0" }).name, "drive0");
});

Deno.test("disksOf() calls a disk by its path where neither node nor device has a name", () => {
  const qdev = "/machine/peripheral/vd0/virtio-backend";
  assertEquals(onlyDisk([aNode("#block12")], NO_GRAPH, { qdev }).name, "vd0");
});

Deno.test("disksOf() calls a disk of libvirt by its device: libvirt counts the nodes of each start", () => {
  const qdev = "/machine/peripheral/virtio-disk0/virtio-backend";
  assertEquals(onlyDisk([aNode("libvirt-2-format")], NO_GRAPH, { qdev }).name, "virtio-disk0");
});

Deno.test("disksOf() makes a folder's name of a path's end", () => {
  const qdev = "/machine/peripheral-anon/device[4]/virtio-backend";
  assertEquals(onlyDisk([aNode("#block12")], NO_GRAPH, { qdev }).name, "device-4-");
});

for (const [id, name] of [["..", "disk"], [".hidden", "hidden"], ["_qmpbackup", "qmpbackup"]]) {
  Deno.test(`disksOf() makes a folder's name of the id "${id}"`, () => {
    const qdev = `/machine/peripheral/${id}/virtio-backend`;
    assertEquals(onlyDisk([aNode("#block12")], NO_GRAPH, { qdev }).name, name);
  });
}

Deno.test("disksOf() calls a disk by its device where the node has no name at all", () => {
  assertEquals(onlyDisk([aNode("")], NO_GRAPH, { device: "drive0" }).name, "drive0");
});

Deno.test("disksOf() goes down through several filters", () => {
  const nodes = [
    aNode("cbw", { drv: "copy-before-write" }),
    aNode("throttle", { drv: "throttle" }),
    aNode("disk0"),
  ];
  const graph = graphOf(
    ["cbw", "fleece", "target"],
    ["cbw", "throttle", "file"],
    ["throttle", "disk0", "file"],
  );
  assertEquals(onlyDisk(nodes, graph).node, "disk0");
});

Deno.test("disksOf() goes down to the child called backing of a job's filter", () => {
  const nodes = [aNode("#block9", { drv: "commit_top" }), aNode("disk0")];
  const graph = graphOf(["#block9", "disk0", "backing"]);
  assertEquals(onlyDisk(nodes, graph).node, "disk0");
});

Deno.test("disksOf() does not go down from an image to its backing file", () => {
  const nodes = [aNode("disk0"), aNode("base")];
  assertEquals(onlyDisk(nodes, graphOf(["disk0", "base", "backing"])).node, "disk0");
});

Deno.test("disksOf() stops at a filter whose child is not known", () => {
  assertEquals(onlyDisk([aNode("cbw", { drv: "copy-before-write" })]).node, "cbw");
});

Deno.test("disksOf() ends on a graph that runs in a circle", () => {
  const nodes = [aNode("a", { drv: "throttle" }), aNode("b", { drv: "throttle" })];
  onlyDisk(nodes, graphOf(["a", "b", "file"], ["b", "a", "file"]));
});

Deno.test("disksOf() takes the bitmaps that have a name", () => {
  const bitmaps = [aBitmap("qmpbackup-x"), aBitmap("")];
  const disk = onlyDisk([aNode("disk0", { "dirty-bitmaps": bitmaps })]);
  assertEquals(disk.bitmaps.map(({ name }) => name), ["qmpbackup-x"]);
});

Deno.test("disksOf() leaves out a drive that no device of the guest has", () => {
  const device = aDevice(aNode("disk0"), { qdev: "" });
  assertEquals(disksOf([device], [], NO_GRAPH), {
    disks: [],
    leftOut: [{ device: "disk0", reason: "no device of the guest" }],
  });
});

Deno.test("disksOf() leaves out an empty drive", () => {
  const device = { device: "cd0", qdev: "/machine/peripheral/cd0", removable: true };
  assertEquals(disksOf([device], [], NO_GRAPH), {
    disks: [],
    leftOut: [{ device: "cd0", reason: "the drive is empty" }],
  });
});

Deno.test("disksOf() leaves out a read-only disk", () => {
  const device = aDevice(aNode("cd0", { ro: true }));
  assertEquals(disksOf([device], [], NO_GRAPH).leftOut, [{ device: "cd0", reason: "read-only" }]);
});

for (const type of ["scsi-block", "scsi-generic"]) {
  Deno.test(`disksOf() leaves out a ${type}, whose writes QEMU does not see`, () => {
    const device = { ...aDevice(aNode("disk0"), {}), type };
    const { disks, leftOut } = disksOf([device], [aNode("disk0")], { nodes: [], edges: [] });
    assertEquals(disks, []);
    assertEquals(leftOut.map(({ device }) => device), ["disk0"]);
  });
}

Deno.test("disksOf() lists the images below a disk from the top down, through filters", () => {
  const names = ["top", "mid", "filter", "base"];
  const [top, mid, filter, base] = names.map((name) => aNode(name)) as [
    BlockNode,
    BlockNode,
    BlockNode,
    BlockNode,
  ];
  filter.drv = "throttle";
  const file = aNode("basefile", { drv: "file" });
  file.image["virtual-size"] = 512;
  const graph = graphOf(
    ["top", "mid", "backing"],
    ["mid", "filter", "backing"],
    ["filter", "base", "file"],
    ["base", "basefile", "file"],
  );
  const { backing } = onlyDisk([top, mid, filter, base, file], graph);
  const image = { format: "qcow2", virtualSizeBytes: 1 << 20, modified: null };
  assertEquals(backing, [
    { ...image, file: "/vm/mid.qcow2", fileBytes: null },
    { ...image, file: "/vm/base.qcow2", fileBytes: 512 },
  ]);
});
