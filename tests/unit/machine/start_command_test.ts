import { assertEquals, assertMatch } from "@std/assert";
import type { Machine } from "../../../src/machine/machine.ts";
import { newCommand } from "../../../src/machine/new_command.ts";
import { type RestoredDisk, startCommand } from "../../../src/machine/start_command.ts";
import { neededPaths, startScript } from "../../../src/machine/start_script.ts";

function aMachine(change: Partial<Machine> = {}): Machine {
  return {
    arch: "x86_64",
    type: "pc-q35-7.2",
    firmware: "",
    memoryBytes: 256 << 20,
    processors: 2,
    disks: [],
    nics: [],
    tpms: [],
    commandLine: null,
    workingFolder: "/vm",
    ...change,
  };
}

function aDevice(disk: string, change: Partial<Machine["disks"][number]> = {}) {
  return {
    disk,
    path: `/machine/peripheral/v${disk}`,
    driver: "virtio-blk-pci",
    bus: "",
    serial: "",
    bootIndex: null,
    ...change,
  };
}

const DISK: RestoredDisk = {
  name: "disk0",
  source: "/vm/a.qcow2",
  file: "/new/a,b.qcow2",
  format: "qcow2",
  node: "disk0",
};

/** One argument or two of the old command line, and of the new. */
const OPTIONS: [what: string, old: string[], now: string[], disk?: Partial<RestoredDisk>][] = [
  ["-drive", ["-drive", "file=/vm/a.qcow2,if=virtio"], [
    "-drive",
    "file=/new/a,,b.qcow2,if=virtio",
  ]],
  ["-hda", ["-hda", "/vm/a.qcow2"], ["-hda", "/new/a,b.qcow2"]],
  [
    "-blockdev",
    ["-blockdev", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=/vm/a.qcow2"],
    ["-blockdev", "driver=qcow2,node-name=disk0,file.driver=file,file.filename=/new/a,,b.qcow2"],
  ],
  [
    "JSON, without what it stood on",
    [
      "-blockdev",
      '{"driver":"qcow2","node-name":"disk0","file":{"driver":"file","filename":"/vm/a.qcow2"},"backing":"base"}',
    ],
    [
      "-blockdev",
      '{"driver":"qcow2","node-name":"disk0","file":{"driver":"file","filename":"/new/a,b.qcow2"}}',
    ],
  ],
  [
    "a block device, which is a file now",
    ["-blockdev", '{"driver":"host_device","filename":"/dev/vg/lv","node-name":"p"}'],
    ["-blockdev", '{"driver":"file","filename":"/new/a,b.qcow2","node-name":"p"}'],
    { source: "/dev/vg/lv" },
  ],
  [
    "a file that QEMU calls json:",
    ["-drive", "file=/vm/a.qcow2"],
    ["-drive", "file=/new/a,,b.qcow2"],
    { source: 'json:{"driver":"qcow2","file":{"driver":"file","filename":"/vm/a.qcow2"}}' },
  ],
  ["a relative path", ["-hda", "a.qcow2"], ["-hda", "/new/a,b.qcow2"]],
  [
    "other files, which stay",
    ["-kernel", "/boot/vmlinuz", "-hda", "/vm/a.qcow2"],
    ["-kernel", "/boot/vmlinuz", "-hda", "/new/a,b.qcow2"],
  ],
  [
    "what was for that start alone",
    ["-S", "-incoming", "tcp:0:1", "-loadvm", "x", "-hda", "/vm/a.qcow2"],
    ["-hda", "/new/a,b.qcow2"],
  ],
];
for (const [what, old, now, change] of OPTIONS) {
  Deno.test(`startCommand() has the new path in ${what}`, () => {
    const { argv, notes } = startCommand(["kvm", ...old], [{ ...DISK, ...change }], aMachine());
    assertEquals([argv, notes], [["kvm", ...now], []]);
  });
}

Deno.test("startCommand() adds a disk that was plugged in later, and says so", () => {
  const devices = [aDevice("disk0", { driver: "scsi-hd", serial: "s1", bootIndex: 2 })];
  const { argv, notes } = startCommand(["kvm"], [DISK], aMachine({ disks: devices }));
  assertEquals(argv, [
    ...["kvm", "-blockdev"],
    "driver=qcow2,node-name=restored-disk0,file.driver=file,file.filename=/new/a,,b.qcow2",
    ...["-device", "scsi-hd,drive=restored-disk0,serial=s1,bootindex=2"],
  ]);
  assertMatch(notes[0] ?? "", /"disk0" is not in QEMU's command line/);
});

const NOTES: [what: string, argv: string[], machine: Partial<Machine>, note: RegExp][] = [
  ["a network", ["-netdev", "tap,id=n0,ifname=tap0"], {}, /a network of the old host.*tap0/],
  ["what is passed through", ["-device", "vfio-pci,host=1:0.0"], {}, /passed through: vfio/],
  ["a TPM", [], { tpms: ["tpm0"] }, /"tpm0" needs its state/],
  ["a secret", ["-object", "secret,id=s,data=***"], {}, /Secrets were taken out/],
  ["libvirt", ["-D", "/var/lib/libvirt/qemu/domain-1-a/log"], {}, /libvirt started this VM/],
];
for (const [what, argv, machine, note] of NOTES) {
  Deno.test(`startCommand() says what has to be done for ${what}`, () => {
    const { notes } = startCommand(["kvm", ...argv], [], aMachine(machine));
    assertEquals(notes.length, 1);
    assertMatch(notes[0] ?? "", note);
  });
}

const TPM = { path: "/new/swtpm", socket: "swtpm/socket", version: "2.0" } as const;
const WITH_TPM = [
  ...["kvm", "-chardev", "socket,id=other,path=/run/other"],
  ...["-chardev", "socket,id=chrtpm,path=/run/old/tpm"],
  ...["-tpmdev", "emulator,id=tpm0,chardev=chrtpm", "-device", "tpm-crb,tpmdev=tpm0"],
];

Deno.test("startCommand() starts swtpm with the saved state, and points the TPM to it", () => {
  const { argv, swtpm, notes } = startCommand(WITH_TPM, [], aMachine({ tpms: ["tpm0"] }), TPM);
  assertEquals(argv, WITH_TPM.with(4, "socket,id=chrtpm,path=swtpm/socket"));
  assertEquals(
    swtpm?.join(" "),
    "swtpm socket --tpm2 --tpmstate dir=/new/swtpm --ctrl type=unixio,path=swtpm/socket " +
      "--terminate --daemon",
  );
  assertEquals(notes, []);
  const old = startCommand(WITH_TPM, [], aMachine(), { ...TPM, version: "1.2" });
  assertEquals(old.swtpm?.includes("--tpm2"), false);
});

Deno.test("startCommand() says where the state of another kind of TPM is", () => {
  const line = ["kvm", "-tpmdev", "passthrough,id=tpm0,path=/dev/tpm0"];
  const { swtpm, notes } = startCommand(line, [], aMachine({ tpms: ["tpm0"] }), TPM);
  assertEquals(swtpm, null);
  assertMatch(notes[0] ?? "", /its saved state is in "\/new\/swtpm"/);
});

Deno.test("newCommand() has a TPM if its state was saved", () => {
  const machine = aMachine({ tpms: ["tpm0"] });
  const { argv, swtpm } = newCommand({ name: "", uuid: "" }, [], machine, TPM);
  assertEquals(argv.slice(-6), [
    ...["-chardev", "socket,id=swtpm,path=swtpm/socket"],
    ...["-tpmdev", "emulator,id=tpm0,chardev=swtpm", "-device", "tpm-tis,tpmdev=tpm0"],
  ]);
  assertEquals(swtpm?.[0], "swtpm");
});

Deno.test("newCommand() is made of what QEMU said of the VM", () => {
  const machine = aMachine({
    disks: [
      aDevice("disk0", { driver: "scsi-hd" }),
      aDevice("vars", { path: "/machine/system.flash1", driver: "cfi.pflash01" }),
    ],
    nics: [{ path: "/n", driver: "e1000", mac: "52:54:00:00:00:01", netdev: "n", bootIndex: null }],
  });
  const vars = { ...DISK, name: "vars", file: "/new/vars.fd", format: "raw" };
  const { argv } = newCommand({ name: "vm1", uuid: "" }, [DISK, vars], machine);
  assertEquals(
    argv.join(" "),
    [
      "qemu-system-x86_64 -name vm1 -machine pc-q35-7.2 -accel kvm -accel tcg -m 256M -smp 2",
      "-drive if=pflash,unit=0,readonly=on,format=raw,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
      "-device virtio-scsi-pci",
      "-blockdev driver=qcow2,node-name=restored-disk0,file.driver=file,file.filename=/new/a,,b.qcow2",
      "-device scsi-hd,drive=restored-disk0",
      "-drive if=pflash,unit=1,format=raw,file=/new/vars.fd",
      "-netdev user,id=net0 -device e1000,netdev=net0,mac=52:54:00:00:00:01",
    ].join(" "),
  );
});

Deno.test("neededPaths() tells files from what QEMU makes", () => {
  const argv = [
    ...["/usr/bin/kvm", "-kernel", "/boot/vmlinuz", "-hda", "/new/a", "-pidfile", "/run/a.pid"],
    ...[
      "-qmp",
      "unix:/run/vm/a.qmp,server=on",
      "-serial",
      "file:/log/serial",
      "-drive",
      "file=/iso/a",
    ],
    ...["-blockdev", '{"driver":"file","filename":"/json/b"}', "-chardev", "socket,path=/sock/c"],
    ...[
      "-object",
      '{"qom-type":"secret","file":"/var/lib/libvirt/qemu/domain-1-a/master-key.aes"}',
    ],
  ];
  assertEquals(neededPaths(argv, ["/new/a"]), {
    files: ["/usr/bin/kvm", "/boot/vmlinuz", "/iso/a", "/json/b"],
    folders: ["/run", "/run/vm", "/log", "/sock"],
  });
});

Deno.test("startScript() starts the TPM first, and not QEMU without it", () => {
  const text = startScript("a", "/new", ["kvm"], [], ["swtpm", "socket"]);
  assertEquals(text.split("\n").slice(3, 5), ["swtpm socket || exit", `exec kvm "$@"`]);
});

Deno.test("startScript() lets no note end its comment, and no argument reach the shell", () => {
  const text = startScript("a\nrm -rf /", "/new/it's", ["kvm", "-name", "a $(b)", "-S"], ["x\ny"]);
  assertEquals(text.split("\n"), [
    ...["#!/bin/sh", "# a rm -rf /", "# x y", `cd '/new/it'\\''s' || exit`],
    ...["exec kvm \\", "  -name 'a $(b)' \\", `  -S "$@"`, ""],
  ]);
});
