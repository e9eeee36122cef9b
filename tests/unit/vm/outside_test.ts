import { assertEquals, assertMatch } from "@std/assert";
import { outsideOf } from "../../../src/vm/outside.ts";

/** The names of QOM types as QEMU 5.2 to 11.1 have them. */
const HOLD_DATA = [
  ...["vhost-user-blk-pci", "vhost-user-blk-pci-non-transitional", "vhost-user-blk-ccw"],
  ...["vhost-user-scsi-pci", "vhost-user-scsi", "vhost-scsi-pci", "vhost-scsi-ccw"],
  ...["virtio-pmem-pci", "virtio-pmem", "nvdimm", "cxl-type3"],
  ...["vhost-user-fs-pci", "vhost-user-fs-device", "vhost-user-fs-ccw", "usb-mtp"],
  ...["virtio-9p-pci", "virtio-9p-device", "virtio-9p-pci-transitional", "virtio-9p-ccw"],
  ...["vfio-pci", "vfio-pci-nohotplug", "vfio-user-pci", "vfio-ccw", "usb-host"],
  ...["vhost-vdpa-device-pci", "vhost-user-device-pci", "vhost-user-test-device"],
];
/** Those that the block layer knows, or that hold nothing that lasts. */
const HOLD_NONE = [
  ...["virtio-blk-pci", "virtio-scsi-pci", "scsi-hd", "scsi-cd", "ide-hd", "nvme", "usb-storage"],
  ...["virtio-net-pci", "vhost-user-gpu-pci", "vhost-vsock-pci", "vhost-user-vsock-pci"],
  ...["virtio-balloon-pci", "pc-dimm", "virtio-mem-pci", "usb-tablet", "usb-redir", "VGA"],
  ...["vhost-user-rng-pci", "vhost-user-input-pci", "vfio-ap", "vhost-user-i2c-device"],
];

for (const type of HOLD_DATA) {
  Deno.test(`outsideOf() names a ${type} as one that is in no backup`, () => {
    const [found, ...more] = outsideOf([{ name: "d0", type }], []);
    assertEquals([found?.device, found?.unasked, more], ["d0", true, []]);
    assertMatch(found?.reason ?? "", new RegExp(`^an? ${type}, `));
  });
}

Deno.test("outsideOf() passes over what QEMU backs up, and what holds nothing", () => {
  assertEquals(outsideOf(HOLD_NONE.map((type) => ({ name: type, type })), []), []);
});

for (
  const [what, code, isNamed] of [
    ["NVMe controller", 0x0108, true],
    ["SATA controller", 0x0106, true],
    ["Fibre Channel adapter", 0x0c04, true],
    ["SD host controller", 0x0805, true],
    ["graphics card", 0x0300, false],
    ["network card", 0x0200, false],
  ] as const
) {
  Deno.test(`outsideOf() ${isNamed ? "names" : "passes over"} a ${what} that is passed through`, () => {
    const device = { name: "h0", type: "vfio-pci" };
    const pci = [{ id: "h0", class: code }, { id: "", class: 0x0106 }];
    assertEquals(outsideOf([device], pci).length, isNamed ? 1 : 0);
  });
}
