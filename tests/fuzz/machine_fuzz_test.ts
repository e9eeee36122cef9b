import { assert, assertEquals } from "@std/assert";
import {
  commandLineWithoutSecrets,
  joinOption,
  splitCommandLine,
  splitOption,
} from "../../src/machine/command_line.ts";
import { domainXml, isDomainXml } from "../../src/machine/domain_xml.ts";
import { startCommand } from "../../src/machine/start_command.ts";
import { neededPaths, startScript } from "../../src/machine/start_script.ts";
import { parseLsblk } from "../../src/restore/device.ts";
import { Dice, dice, fuzz } from "./_fuzz.ts";
import { anyJson, jsonText, mutateText, word } from "./_nonsense.ts";

const ARGS = [
  ...["-drive", "file=/vm/a.qcow2,if=virtio", "-blockdev", "driver=raw,file.filename=/vm/a,,b"],
  ...['{"driver":"qcow2","file":{"filename":"/vm/a.qcow2"},"backing":null}', "-object", "-hda"],
  ...[
    "secret,id=s,data=geheim",
    "-S",
    "-incoming",
    "tcp:0:1",
    "-netdev",
    "tap,id=n",
    "/vm/a.qcow2",
  ],
];

function anArg(dice: Dice): string {
  if (dice.once(6)) return word(dice);
  if (dice.once(6)) return jsonText(anyJson(dice));
  return mutateText(dice, dice.pick(ARGS));
}

const someArgs = (dice: Dice) => Array.from({ length: dice.below(8) }, () => anArg(dice));

const DISK = { name: "d", source: "/vm/a.qcow2", file: "/new/a,b", format: "qcow2", node: "disk0" };
const MACHINE = {
  ...{ arch: "x86_64", type: "q35", firmware: "", memoryBytes: 1, processors: 1, disks: [] },
  ...{ nics: [], tpms: [], commandLine: null, workingFolder: "/vm" },
};

fuzz(
  "a command line of any kind becomes a start script, and its secret is not told",
  dice,
  (seed) => {
    const dice = new Dice(seed);
    const argv = ["kvm", ...someArgs(dice), "-object", "secret,id=s,data=geheim"];
    assertEquals(
      splitCommandLine(argv.map((arg) => arg.replaceAll("\0", "")).join("\0") + "\0")?.[0],
      "kvm",
    );
    const clean = commandLineWithoutSecrets(argv);
    assertEquals([clean.length, clean.at(-1)], [argv.length, "secret,id=s,data=***"]);
    // The same again gives the same.
    assertEquals(commandLineWithoutSecrets(clean), clean);
    const { argv: now, notes } = startCommand(clean, [DISK], MACHINE);
    assertEquals(now[0], "kvm");
    // In the old place, or added at the end.
    assert(now.some((arg) => arg.includes("/new/a")), now.join("\n"));
    neededPaths(now, []);
    const [first, ...rest] = startScript("x", "/new", now, notes).split("\n");
    assertEquals(first, "#!/bin/sh");
    assert(rest.slice(0, notes.length + 1).every((line) => line.startsWith("# ")));
  },
);

fuzz("splitOption() and joinOption() are opposites for what has no empty part", dice, (seed) => {
  const dice = new Dice(seed);
  const parts = splitOption(anArg(dice));
  assertEquals(splitOption(joinOption(parts)), parts);
});

const XML =
  `<domain><disk type='block'><source dev='/vm/a'/><backingStore/></disk><nvram>/vm/a</nvram></domain>`;
const OUTPUT = `TYPE="disk" SIZE="16777216" MOUNTPOINT=""\nTYPE="part" SIZE="1" MOUNTPOINT="/"\n`;

fuzz("a domain's XML and what lsblk prints may be anything", dice, (seed) => {
  const dice = new Dice(seed);
  const text = mutateText(dice, XML);
  isDomainXml(text);
  const { missing } = domainXml(text, new Map([["/vm/a", "/new/$&a"]]));
  assert(missing.length <= 1);
  for (const { sizeBytes } of parseLsblk(mutateText(dice, OUTPUT))) assert(sizeBytes >= 0);
});
