/**
 * A command that starts a VM whose own command line is not known, from what QEMU said of it. Pure.
 *
 * @module
 */

import type { Machine } from "./machine.ts";
import { swtpmCommand, tpmArgs, type TpmFolder, tpmNote } from "./tpm.ts";
import { newDisk, option, type RestoredDisk, type StartCommand } from "./start_command.ts";

/** Where Debian's package `ovmf` has the firmware that UEFI variables go with. */
const UEFI = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/** The command that comes nearest to what is known. */
export function newCommand(
  vm: { name: string; uuid: string },
  disks: RestoredDisk[],
  machine: Machine,
  tpm: TpmFolder | null = null,
): StartCommand {
  const { arch, type, memoryBytes, processors, nics, tpms } = machine;
  const deviceOf = ({ name }: RestoredDisk) => machine.disks.find(({ disk }) => disk === name);
  const isOf = (kind: RegExp, by: "path" | "driver") => (disk: RestoredDisk) =>
    kind.test(deviceOf(disk)?.[by] ?? "");
  const hasUefi = disks.some(isOf(/\.flash\d+$/, "path"));
  const hasScsi = disks.some(isOf(/^scsi-/, "driver"));
  const argv = [
    `qemu-system-${arch}`,
    ...(vm.name === "" ? [] : ["-name", vm.name.replaceAll(",", ",,")]),
    ...(vm.uuid === "" ? [] : ["-uuid", vm.uuid]),
    ...["-machine", type, "-accel", "kvm", "-accel", "tcg"],
    ...["-m", `${Math.ceil(memoryBytes / (1 << 20))}M`, "-smp", String(processors)],
    ...(hasUefi
      ? ["-drive", option({ if: "pflash", unit: "0", readonly: "on", format: "raw", file: UEFI })]
      : []),
    ...(hasScsi ? ["-device", "virtio-scsi-pci"] : []),
    ...disks.flatMap((disk) => newDisk(disk, deviceOf(disk))),
    ...nics.flatMap(({ driver, mac }, i) => [
      ...["-netdev", `user,id=net${i}`, "-device", `${driver},netdev=net${i},mac=${mac}`],
    ]),
    ...(tpm === null ? [] : tpmArgs(tpm, arch, null)),
  ];
  return {
    argv,
    swtpm: tpm && swtpmCommand(tpm),
    notes: [
      "QEMU's command line could not be read when the backup was taken. This one is made from " +
      "what QEMU said of the VM: check it against what you know",
      ...(hasUefi
        ? [`The firmware that goes with the UEFI variables is taken to be "${UEFI}"`]
        : []),
      ...(nics.length > 0
        ? ["The VM gets a network of its own (-netdev user): name its bridge"]
        : []),
      ...(tpm === null ? tpms.map((id) => tpmNote(id, null)) : []),
    ],
  };
}
