import { assertEquals } from "@std/assert";
import type { BlockGraph } from "../../../src/qmp/queries.ts";
import { type Backend, backendOf } from "../../../src/vm/backend.ts";
import { type Device, driveType } from "../../../src/vm/devices.ts";

const VIRTIO = "/machine/peripheral/vda/virtio-backend";
const ALONE = ["resize", "write-unchanged", "consistent-read"];

/** Backends by their names, each with its node and what it shares; as QEMU 7.2 has them. */
function graphOf(...backends: [name: string, root: string, shared?: string[]][]): BlockGraph {
  return {
    nodes: [
      ...backends.map(([name], id) => ({ id, type: "block-backend", name })),
      ...backends.map(([, name], i) => ({ id: 100 + i, type: "block-driver", name })),
    ],
    edges: backends.map(([, , shared], i) => ({
      ...{ parent: i, child: 100 + i, name: "root", perm: ["write", "consistent-read"] },
      ...(shared ? { "shared-perm": shared } : {}),
    })),
  };
}

const GRAPH = graphOf(
  [VIRTIO, "a", ALONE],
  ["sd0", "b", [...ALONE, "write"]],
  ["virtio0", "#block320", ALONE],
  ["", "exported", ALONE],
);

const DISKS: [what: string, disk: { id: string; device: string }, found: Backend | null][] = [
  ["the path of a part", { id: VIRTIO, device: "" }, { root: "a", isShared: false }],
  ["an id", { id: "/machine/peripheral/sd0", device: "" }, { root: "b", isShared: true }],
  [
    "the backend's own name",
    { id: "/machine/peripheral-anon/device[1]/virtio-backend", device: "virtio0" },
    { root: "#block320", isShared: false },
  ],
  ["no device that is there", { id: "/machine/peripheral/gone", device: "" }, null],
];
for (const [what, disk, found] of DISKS) {
  Deno.test(`backendOf() finds a device by ${what}`, () => {
    assertEquals(backendOf(GRAPH, disk), found);
  });
}

Deno.test("backendOf() does not guess where two have one name, or where QEMU does not say it all", () => {
  const disk = { id: "/machine/peripheral/x", device: "" };
  assertEquals(backendOf(graphOf(["x", "a", ALONE], ["x", "b", ALONE]), disk), null);
  assertEquals(backendOf(graphOf(["x", "a"]), disk), { root: "a", isShared: null });
});

const DEVICES: Device[] = [
  { path: "/machine/peripheral/vda", name: "vda", type: "virtio-blk-pci" },
  { path: "/machine/peripheral/sd0", name: "sd0", type: "scsi-block" },
  { path: "/machine/peripheral/nv0", name: "nv0", type: "nvme" },
  { path: "/machine/peripheral/vs", name: "vs", type: "virtio-scsi-pci" },
];
const TYPES: [path: string, type: string | null][] = [
  [VIRTIO, "virtio-blk-device"],
  ["/machine/peripheral/sd0", "scsi-block"],
  // Its namespaces are parts of it: QEMU tells which object has the drive.
  ["/machine/peripheral/nv0", null],
  ["/machine/peripheral/vs/virtio-backend", null],
  ["/machine/system.flash1", null],
  ["", null],
];
for (const [path, type] of TYPES) {
  Deno.test(`driveType() ${type ? `knows the type of` : "leaves to QEMU"} "${path}"`, () => {
    assertEquals(driveType(DEVICES, path), type);
  });
}
