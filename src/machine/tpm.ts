/**
 * A TPM that swtpm plays: its part of QEMU's command line, and the command that starts swtpm. Pure.
 *
 * Source: QEMU's docs/specs/tpm.rst, "The QEMU TPM emulator device"; swtpm(8).
 *
 * @module
 */

import { joinOption, splitOption } from "./command_line.ts";

/** A folder with the state of a TPM. */
export interface TpmFolder {
  /** Absolute: in the background swtpm is in another working folder. */
  path: string;
  /** Where swtpm listens. It has room for 107 bytes, so it is relative where the folder's path may be long. */
  socket: string;
  version: "1.2" | "2.0";
}

/** Starts swtpm in the background. It ends when QEMU does. */
export function swtpmCommand(tpm: TpmFolder): string[] {
  return [
    ...["swtpm", "socket", ...(tpm.version === "2.0" ? ["--tpm2"] : [])],
    ...["--tpmstate", joinOption([{ key: "dir", value: tpm.path }])],
    ...[
      "--ctrl",
      joinOption([
        { key: "type", value: "unixio" },
        { key: "path", value: tpm.socket },
      ]),
    ],
    ...["--terminate", "--daemon"],
  ];
}

/** Points the emulated TPM of a command line to that swtpm; null if it has none. */
export function withTpmAt(commandLine: string[], tpm: TpmFolder): string[] | null {
  const after = (option: string, arg: number) => commandLine[arg - 1] === option;
  const valueOf = (arg: string, wanted: string) =>
    splitOption(arg).find(({ key }) => key === wanted)?.value;
  const device = commandLine.find((arg, i) => after("-tpmdev", i) && /^emulator,/.test(arg));
  const chardev = device === undefined ? undefined : valueOf(device, "chardev");
  const at = commandLine.findIndex((arg, i) =>
    after("-chardev", i) && /^socket,/.test(arg) && valueOf(arg, "id") === chardev
  );
  if (chardev === undefined || at < 0) return null;
  return commandLine.with(at, chardevOf(chardev, tpm));
}

/**
 * The arguments of a TPM.
 *
 * @param model Null if it is not known.
 */
export function tpmArgs(tpm: TpmFolder, arch: string, model: string | null): string[] {
  const isPc = arch === "x86_64" || arch === "i386";
  return [
    ...["-chardev", chardevOf("swtpm", tpm), "-tpmdev", "emulator,id=tpm0,chardev=swtpm"],
    ...["-device", `${model ?? (isPc ? "tpm-tis" : "tpm-tis-device")},tpmdev=tpm0`],
  ];
}

/** What to do for a TPM that is not started with the VM. */
export function tpmNote(id: string, tpm: TpmFolder | null): string {
  return tpm === null
    ? `The TPM "${id}" needs its state and its swtpm process, which must be started first: its state is in ` +
      "no backup, unless its folder or an archive of it was saved (--save)"
    : `The TPM "${id}" is not one that QEMU reaches through a socket: its saved state is in ` +
      `"${tpm.path}", start swtpm with it first`;
}

function chardevOf(id: string, tpm: TpmFolder): string {
  return joinOption([
    { key: null, value: "socket" },
    { key: "id", value: id },
    { key: "path", value: tpm.socket },
  ]);
}
