import { assert, assertEquals } from "@std/assert";
import {
  type BootCommand,
  bootCommand,
  type BootOptions,
  directBoot,
  familyOf,
  firmwareOf,
} from "../../../src/boot/command.ts";
import type { Machine } from "../../../src/machine/machine.ts";

function aMachine(change: Partial<Machine> = {}): Machine {
  return {
    arch: "x86_64",
    type: "pc-q35-7.2",
    firmware: "",
    memoryBytes: 8 * 2 ** 30,
    processors: 16,
    disks: [],
    nics: [],
    tpms: [],
    commandLine: null,
    workingFolder: null,
    ...change,
  };
}

function aDevice(disk: string, driver: string, bootIndex: number | null = null) {
  return { disk, driver, path: `/machine/peripheral/${disk}`, bus: "", serial: "", bootIndex };
}

const argsOf = (change: Partial<BootOptions> = {}): string[] => commandOf(change).args;

function commandOf(change: Partial<BootOptions> = {}): BootCommand {
  return bootCommand({
    disks: [{ name: "disk0", path: "/o/a,b.qcow2" }],
    machine: null,
    firmware: null,
    memoryBytes: null,
    accel: null,
    keyFile: null,
    sockets: { qmp: "/o/q,1", agent: "/o/agent", serial: "/o/serial", exit: "/o/exit" },
    tpm: null,
    ...change,
  });
}

/** The values of an option, in order. */
const valuesOf = (args: string[], option: string) =>
  args.flatMap((arg, i) => args[i - 1] === option ? [arg] : []);

Deno.test("`bootCommand()` has no network, and doubles commas", () => {
  const args = argsOf();
  assertEquals(valuesOf(args, "-nic"), ["none"]);
  assert(!args.some((arg) => /netdev|virtio-net|e1000/.test(arg)));
  assertEquals(valuesOf(args, "-drive"), [
    "if=none,id=disk0,file=/o/a,,b.qcow2,format=qcow2,cache=unsafe",
  ]);
  assertEquals(valuesOf(args, "-chardev")[0], "socket,id=qmp,path=/o/q,,1,server=on,wait=off");
  assertEquals(valuesOf(args, "-accel"), ["kvm", "tcg"]);
  assertEquals(valuesOf(args, "-m"), ["1024M"]);
});

Deno.test("`bootCommand()` takes no more memory and processors than a test should, unless told", () => {
  const machine = aMachine();
  assertEquals(valuesOf(argsOf({ machine }), "-m"), ["2048M"]);
  assertEquals(valuesOf(argsOf({ machine }), "-smp"), ["2"]);
  assertEquals(valuesOf(argsOf({ machine, memoryBytes: 3 * 2 ** 30 }), "-m"), ["3072M"]);
  assertEquals(valuesOf(argsOf({ machine, accel: "tcg" }), "-accel"), ["tcg"]);
});

Deno.test("`bootCommand()` puts each disk on a bus of its kind, in the boot order it had", () => {
  const kinds = ["virtio-blk-pci", "scsi-hd", "ide-hd", "nvme", "usb-storage", "strange"];
  const machine = aMachine({ disks: kinds.map((kind, i) => aDevice(`d${i}`, kind, i || null)) });
  const disks = kinds.map((_, i) => ({ name: `d${i}`, path: `/o/${i}` }));
  assertEquals(valuesOf(argsOf({ machine, disks }), "-device").slice(3), [
    "virtio-scsi-pci,id=scsi",
    "qemu-xhci,id=usb",
    "virtio-blk-pci,drive=disk0",
    "scsi-hd,drive=disk1,bootindex=1",
    "ide-hd,drive=disk2,bootindex=2",
    "nvme,drive=disk3,serial=disk3,bootindex=3",
    "usb-storage,drive=disk4,bootindex=4",
    "virtio-blk-pci,drive=disk5,bootindex=5",
  ]);
});

const FAMILIES: [arch: string, type: string, family: string][] = [
  ["x86_64", "pc-q35-7.2", "q35"],
  ["x86_64", "pc-i440fx-5.2", "pc"],
  ["x86_64", "microvm", "pc"],
  ["x86_64", "", "pc"],
  ["aarch64", "virt-8.1", "virt"],
  ["aarch64", "", "virt"],
];
for (const [arch, type, family] of FAMILIES) {
  Deno.test(`\`familyOf()\` takes "${type}" of ${arch} for "${family}"`, () => {
    assertEquals(familyOf(arch, type), family);
  });
}

const FIRMWARE: [what: string, commandLine: string[], file: string | null][] = [
  ["-bios", ["-bios", "/usr/share/ovmf/OVMF.fd"], "/usr/share/ovmf/OVMF.fd"],
  ["QEMU's own", ["-bios", "bios-256k.bin"], null],
  [
    "-drive",
    ["-drive", "if=pflash,file=/u/OVMF_VARS.fd", "-drive", "file=/u/OVMF_CODE.fd,if=pflash"],
    "/u/OVMF_CODE.fd",
  ],
  [
    "-blockdev",
    ["-blockdev", '{"driver":"file","filename":"/u/edk2-x86_64-code.fd","node-name":"n"}'],
    "/u/edk2-x86_64-code.fd",
  ],
  ["a disk of that name elsewhere", ["-name", "file=/u/OVMF_CODE.fd"], null],
  ["nothing", [], null],
];
for (const [what, commandLine, file] of FIRMWARE) {
  Deno.test(`\`firmwareOf()\` finds the firmware: ${what}`, () => {
    assertEquals(firmwareOf(commandLine), file);
  });
}

Deno.test("`bootCommand()` gives UEFI's code as a flash, and other firmware as -bios", () => {
  const code = argsOf({ firmware: "/u/OVMF_CODE,4M.fd" });
  assertEquals(
    valuesOf(code, "-drive")[0],
    "if=pflash,unit=0,format=raw,readonly=on,file=/u/OVMF_CODE,,4M.fd",
  );
  assertEquals(valuesOf(argsOf({ firmware: "/u/OVMF.fd" }), "-bios"), ["/u/OVMF.fd"]);
});

Deno.test("`bootCommand()` gives UEFI its variables, wherever they stand among the disks", () => {
  const vars = { ...aDevice("vars", "cfi.pflash01"), path: "/machine/system.flash1" };
  const machine = aMachine({ disks: [vars, aDevice("boot", "scsi-hd")] });
  const disks = [{ name: "vars", path: "/o/vars" }, { name: "boot", path: "/o/boot" }];
  const drives = (firmware: string | null) =>
    valuesOf(argsOf({ machine, disks, firmware }), "-drive");
  const boot = "if=none,id=disk1,file=/o/boot,format=qcow2,cache=unsafe";
  assertEquals(drives("/u/OVMF_CODE.fd"), [
    "if=pflash,unit=0,format=raw,readonly=on,file=/u/OVMF_CODE.fd",
    "if=pflash,unit=1,file=/o/vars,format=qcow2,cache=unsafe",
    boot,
  ]);
  // There is no place for them.
  assertEquals(drives("/u/OVMF.fd"), [boot]);
  assertEquals(drives(null), [boot]);
  assertEquals(commandOf({ machine, disks }).leftOut, ["vars"]);
  assertEquals(commandOf({ machine, disks, firmware: "/u/OVMF_CODE.fd" }).leftOut, []);
});

Deno.test("`bootCommand()` has the TPM that the VM had", () => {
  const tpm = { path: "/o/swtpm", socket: "/o/swtpm/socket", version: "2.0" } as const;
  const devices = (machine: Machine | null) =>
    valuesOf(argsOf({ machine, tpm }), "-device").filter((arg) => arg.startsWith("tpm"));
  const commandLine = ["qemu", "-device", "tpm-crb,tpmdev=old"];
  assertEquals(devices(aMachine({ commandLine })), ["tpm-crb,tpmdev=tpm0"]);
  assertEquals(devices(null), ["tpm-tis,tpmdev=tpm0"]);
});

Deno.test("`directBoot()` takes over a kernel that QEMU loads", () => {
  const line = ["qemu", "-append", "quiet", "-kernel", "/k", "-initrd", "/i"];
  assertEquals(directBoot(line), {
    args: ["-kernel", "/k", "-initrd", "/i", "-append", "quiet"],
    files: ["/k", "/i"],
  });
  assertEquals(directBoot(["qemu", "-append", "quiet"]), { args: [], files: [] });
});

Deno.test("bootCommand() tells QEMU where the key of encrypted images is", () => {
  assertEquals(valuesOf(argsOf(), "-object"), []);
  const [object] = valuesOf(argsOf({ keyFile: "/k,1" }), "-object");
  assertEquals(object, "secret,id=backup-key,file=/k,,1");
});
