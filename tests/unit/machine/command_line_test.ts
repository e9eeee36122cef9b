import { assertEquals } from "@std/assert";
import {
  commandLineWithoutSecrets,
  isOfVm,
  joinOption,
  lacksSecret,
  splitCommandLine,
  splitOption,
} from "../../../src/machine/command_line.ts";

Deno.test("splitCommandLine() keeps empty arguments, and line ends in them", () => {
  assertEquals(splitCommandLine("qemu\0-append\0\0-name\0a\nb\0"), [
    "qemu",
    "-append",
    "",
    "-name",
    "a\nb",
  ]);
});

Deno.test("splitCommandLine() takes nothing, and what is too long, for none", () => {
  assertEquals([splitCommandLine(""), splitCommandLine("x".repeat(100_000))], [null, null]);
});

const VM = { name: "vm1", uuid: "", socket: "/run/vm1.qmp" };
const OURS: [does: string, argv: string[], isOurs: boolean][] = [
  ["names the socket", ["kvm", "-qmp", "unix:/run/vm1.qmp,server=on"], true],
  ["names the VM", ["kvm", "-name", "guest=vm1", "-chardev", "socket,id=m,fd=3"], true],
  ["is another VM's", ["kvm", "-name", "vm2", "-qmp", "unix:/run/vm2.qmp"], false],
  [
    "is ours, which names the socket too",
    ["qmpbackup", "backup", "--socket", "/run/vm1.qmp"],
    false,
  ],
];
for (const [does, argv, isOurs] of OURS) {
  Deno.test(`isOfVm() of a command line that ${does} is ${isOurs}`, () => {
    assertEquals(isOfVm(argv, VM), isOurs);
  });
}

const SECRETS: [argv: string[], hidden: string[]][] = [
  [["-object", "secret,id=s0,data=geheim"], ["-object", "secret,id=s0,data=***"]],
  [["-object", "secret,id=s0,data=a,,b,format=raw"], [
    "-object",
    "secret,id=s0,data=***,format=raw",
  ]],
  [["-object", "secret,id=s0,file=/etc/s0"], ["-object", "secret,id=s0,file=/etc/s0"]],
  [
    ["-object", '{"qom-type":"secret","id":"s0","data":"geheim"}'],
    ["-object", '{"qom-type":"secret","id":"s0","data":"***"}'],
  ],
  [["-spice", "port=5900,password=geheim"], ["-spice", "port=5900,password=***"]],
  [["-fw_cfg", "name=opt/x,string=geheim"], ["-fw_cfg", "name=opt/x,string=***"]],
  [
    ["-smbios", "type=11,value=io.systemd.credential:root.pw=geheim"],
    ["-smbios", "type=11,value=io.systemd.credential:root.pw=***"],
  ],
  [
    ["-drive", "file=/vm/a.qcow2,encrypt.key-secret=s0"],
    ["-drive", "file=/vm/a.qcow2,encrypt.key-secret=s0"],
  ],
];
for (const [argv, hidden] of SECRETS) {
  Deno.test(`commandLineWithoutSecrets() of ${argv.join(" ")}`, () => {
    assertEquals(commandLineWithoutSecrets(argv), hidden);
    assertEquals(lacksSecret(hidden), hidden.join().includes("***"));
  });
}

Deno.test("splitOption() and joinOption() keep commas in values", () => {
  const option = "virtio-blk-pci,drive=d0,serial=a,,b,x-y=1";
  assertEquals(splitOption(option), [
    { key: null, value: "virtio-blk-pci" },
    { key: "drive", value: "d0" },
    { key: "serial", value: "a,b" },
    { key: "x-y", value: "1" },
  ]);
  assertEquals(joinOption(splitOption(option)), option);
});
