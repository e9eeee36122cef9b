/**
 * The command line of the VM that a point in time is booted in: what the record knows of the VM that was
 * backed up, without its network. Pure.
 *
 * Source: QEMU's manual page qemu-system-x86_64(1).
 *
 * @module
 */

import { joinOption, jsonOf, splitOption } from "../machine/command_line.ts";
import type { DiskDevice, Machine } from "../machine/machine.ts";
import { tpmArgs, type TpmFolder } from "../machine/tpm.ts";
import { keyObject } from "../qemu_img/key.ts";

/** One disk of it. */
export interface BootDisk {
  /** What the record's rows call it. */
  name: string;
  /** An overlay. */
  path: string;
}

export interface BootOptions {
  disks: readonly BootDisk[];
  /** Null where no record says what the VM was. */
  machine: Machine | null;
  /** A file that is used instead of what the record says. */
  firmware: string | null;
  memoryBytes: number | null;
  /** Null tries KVM, and then TCG. */
  accel: "kvm" | "tcg" | null;
  /** The file with the key of encrypted images; null where none is. */
  keyFile: string | null;
  /** The swtpm that plays its TPM; null if it gets none. */
  tpm: TpmFolder | null;
  sockets: BootSockets;
}

export interface BootSockets {
  qmp: string;
  agent: string;
  serial: string;
  /** Gets what the guest writes to the port of {@linkcode EXIT_PORT}. */
  exit: string;
}

export interface BootCommand {
  /** Names of the program; the first that is installed is taken. */
  programs: string[];
  args: string[];
  /** Files of this host that it needs, besides the disks. */
  needs: string[];
  /** Disks with UEFI variables that this firmware has no use for. */
  leftOut: string[];
}

/** A test should not take the memory of those who live. */
const MAX_MEMORY_BYTES = 2 ** 31;
const MAX_PROCESSORS = 2;

/**
 * Where guests that test something write a byte when they are done: the port at which kernels' tests have
 * QEMU's `isa-debug-exit`. That device would end QEMU with an exit status, which in the background is lost.
 */
export const EXIT_PORT = "0xf4";

/** The id of the agent's port, which QEMU's events name. */
export const AGENT_PORT = "agent";

/** Makes the command line. The VM is stopped at first (`-S`), so that nothing it says is missed, and
 * stays when its guest has shut down (`-no-shutdown`), so that we end it. */
export function bootCommand(options: BootOptions): BootCommand {
  const { machine, accel, sockets } = options;
  const arch = machine?.arch ?? "x86_64";
  const family = familyOf(arch, machine?.type ?? "");
  const firmware = options.firmware ?? firmwareOf(machine?.commandLine ?? []);
  const direct = directBoot(machine?.commandLine ?? []);
  const memory = options.memoryBytes ?? Math.min(machine?.memoryBytes ?? 2 ** 30, MAX_MEMORY_BYTES);
  const processors = Math.min(machine?.processors ?? 1, MAX_PROCESSORS);
  const socket = (id: string, path: string) =>
    joinOption([
      ...[{ key: null, value: "socket" }, { key: "id", value: id }, { key: "path", value: path }],
      ...[{ key: "server", value: "on" }, { key: "wait", value: "off" }],
    ]);
  return {
    programs: programsOf(arch),
    leftOut: isCode(firmware) ? [] : options.disks
      .filter(({ name }) => flashUnitOf(deviceOf(machine, name)) !== undefined)
      .map(({ name }) => name),
    needs: [...(firmware === null ? [] : [firmware]), ...direct.files],
    args: [
      ...[
        "-nodefaults",
        "-no-user-config",
        "-S",
        "-no-shutdown",
        "-display",
        "none",
        "-nic",
        "none",
      ],
      ...["-machine", family, ...(accel === "tcg" ? [] : ["-accel", "kvm"])],
      ...(accel === "kvm" ? [] : ["-accel", "tcg"]),
      ...["-cpu", "max", "-smp", String(processors), "-m", `${Math.ceil(memory / 2 ** 20)}M`],
      ...(hasIsa(arch) ? ["-vga", "std"] : ["-device", "virtio-gpu-pci"]),
      ...(firmware === null ? [] : firmwareArgs(firmware)),
      ...direct.args,
      ...["-chardev", socket("qmp", sockets.qmp), "-mon", "chardev=qmp,mode=control"],
      ...["-chardev", socket("serial", sockets.serial), "-serial", "chardev:serial"],
      ...["-chardev", socket("agent", sockets.agent), "-device", "virtio-serial-pci"],
      "-device",
      `virtserialport,id=${AGENT_PORT},chardev=agent,name=org.qemu.guest_agent.0`,
      ...(options.keyFile === null ? [] : ["-object", keyObject(options.keyFile)]),
      ...(hasIsa(arch) ? ["-chardev", socket("exit", sockets.exit)] : []),
      ...(hasIsa(arch) ? ["-device", `isa-debugcon,iobase=${EXIT_PORT},chardev=exit`] : []),
      ...(options.tpm === null ? [] : tpmArgs(options.tpm, arch, tpmModelOf(machine))),
      ...diskArgs(options.disks, machine, firmware),
    ],
  };
}

/** Whether machines of this kind have ports. */
export const hasIsa = (arch: string) => arch === "x86_64" || arch === "i386";

/** What the TPM was: guests take one kind for the other's. */
function tpmModelOf(machine: Machine | null): string | null {
  const device = machine?.commandLine?.find((arg, i, all) =>
    all[i - 1] === "-device" && /^tpm-/.test(arg)
  );
  return device === undefined ? null : splitOption(device)[0]?.value ?? null;
}

function programsOf(arch: string): string[] {
  const name = `qemu-system-${arch}`;
  return arch === "x86_64" ? [name, "/usr/libexec/qemu-kvm"] : [name];
}

/** The kind of machine, without its version: this QEMU may have other ones. */
export function familyOf(arch: string, type: string): string {
  if (arch === "x86_64" || arch === "i386") return /q35/.test(type) ? "q35" : "pc";
  return type.replace(/-(?:rhel)?\d[\w.]*$/, "") || "virt";
}

const UEFI = /(ovmf|aavmf|edk2|qemu_efi|uefi)/i;
const VARIABLES = /vars/i;

/**
 * The firmware's file in a command line: what `-bios` names, or a flash that looks like UEFI's code by its
 * name; null where it is QEMU's own.
 */
export function firmwareOf(commandLine: readonly string[]): string | null {
  const bios = valueAfter(commandLine, "-bios");
  if (bios?.startsWith("/")) return bios;
  const files = commandLine.flatMap((arg, i) => {
    if (commandLine[i - 1] !== "-drive" && commandLine[i - 1] !== "-blockdev") return [];
    return filesIn(arg);
  });
  return files.find((file) => UEFI.test(file) && !VARIABLES.test(file)) ?? null;
}

function filesIn(arg: string): string[] {
  const json = arg.startsWith("{") ? jsonOf(arg) : null;
  const found = json === null
    ? splitOption(arg).filter(({ key }) => key === "file" || /(^|\.)filename$/.test(key ?? ""))
      .map(({ value }) => value)
    : [json.filename, typeof json.file === "object" ? Object(json.file).filename : undefined];
  return found.filter((value): value is string =>
    typeof value === "string" && value.startsWith("/")
  );
}

const isCode = (firmware: string | null) => /code/i.test(firmware ?? "");

function firmwareArgs(path: string): string[] {
  // Of UEFI that keeps its settings in a file of their own this is the code alone: it starts without any.
  if (!isCode(path)) return ["-bios", path];
  const parts = { if: "pflash", unit: "0", format: "raw", readonly: "on", file: path };
  return ["-drive", joinOption(Object.entries(parts).map(([key, value]) => ({ key, value })))];
}

/** A VM whose kernel QEMU loads from files of the host has no boot loader on its disks. */
export function directBoot(commandLine: readonly string[]): { args: string[]; files: string[] } {
  const kernel = valueAfter(commandLine, "-kernel");
  if (kernel === null) return { args: [], files: [] };
  const given = ["-kernel", "-initrd", "-append"].flatMap((option) => {
    const value = valueAfter(commandLine, option);
    return value === null ? [] : [{ option, value }];
  });
  return {
    args: given.flatMap(({ option, value }) => [option, value]),
    files: given.filter(({ option }) => option !== "-append").map(({ value }) => value),
  };
}

function valueAfter(commandLine: readonly string[], option: string): string | null {
  const at = commandLine.lastIndexOf(option);
  return at < 0 ? null : commandLine[at + 1] ?? null;
}

const deviceOf = (machine: Machine | null, name: string) =>
  machine?.disks.find(({ disk }) => disk === name);

/** The place of UEFI variables: firmware is unit 0. */
const flashUnitOf = (device: DiskDevice | undefined) =>
  /\.flash(\d+)$/.exec(device?.path ?? "")?.[1];

/** Each disk on a bus of the kind that it had, so that the guest finds its drivers. */
function diskArgs(
  disks: readonly BootDisk[],
  machine: Machine | null,
  firmware: string | null,
): string[] {
  const devices = disks.map(({ name }) => deviceOf(machine, name));
  const kinds = devices.map((device) => kindOf(device?.driver ?? ""));
  const option = (parts: Record<string, string>, first: string | null = null) =>
    joinOption([
      ...(first === null ? [] : [{ key: null, value: first }]),
      ...Object.entries(parts).map(([key, value]) => ({ key, value })),
    ]);
  return [
    ...(kinds.includes("scsi-hd") ? ["-device", "virtio-scsi-pci,id=scsi"] : []),
    ...(kinds.includes("usb-storage") ? ["-device", "qemu-xhci,id=usb"] : []),
    ...disks.flatMap(({ path }, i) => {
      const kind = kinds[i] ?? "virtio-blk-pci";
      const file = { file: path, format: "qcow2", cache: "unsafe" };
      const unit = flashUnitOf(devices[i]);
      if (unit !== undefined) {
        return isCode(firmware) ? ["-drive", option({ if: "pflash", unit, ...file })] : [];
      }
      const { bootIndex = null, serial = "" } = devices[i] ?? {};
      const id = `disk${i}`;
      return [
        ...["-drive", option({ if: "none", id, ...file })],
        "-device",
        option({
          drive: id,
          ...(serial !== "" ? { serial } : kind === "nvme" ? { serial: id } : {}),
          ...(bootIndex !== null ? { bootindex: String(bootIndex) } : {}),
        }, kind),
      ];
    }),
  ];
}

function kindOf(driver: string): string {
  if (/^scsi-/.test(driver)) return "scsi-hd";
  if (/^ide-/.test(driver)) return "ide-hd";
  return ["nvme", "usb-storage"].find((kind) => kind === driver) ?? "virtio-blk-pci";
}
