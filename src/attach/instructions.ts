/**
 * What to do with what was attached: commands to be typed. Pure.
 *
 * @module
 */

import { keyObject } from "../qemu_img/key.ts";
import { shellText } from "../shell.ts";

/** A command, and what it is for. */
export interface Instruction {
  does: string;
  line: string;
}

/** In QEMU's `-drive` a comma is written twice. */
const drive = (options: Record<string, string>) =>
  Object.entries(options).map(([key, value]) => `${key}=${value.replaceAll(",", ",,")}`).join(",");

/** No network: two machines of one address would be worse than none. */
const VM = [
  ...["qemu-system-x86_64", "-accel", "kvm", "-accel", "tcg", "-m", "2048", "-nic", "none"],
];

const MOUNT_POINT = "/mnt";

/**
 * What can be done with overlays, by their paths.
 *
 * @param keyFile Of encrypted images; null where none is. guestfish can't be told of a key.
 */
export function overlayInstructions(
  files: readonly string[],
  keyFile: string | null = null,
): Instruction[] {
  const first = files[0] as string;
  const key = (option: string) => keyFile === null ? [] : [option, keyObject(keyFile)];
  return [
    {
      does: "Start a VM on it, without a network; what it writes goes into the overlay",
      line: shellText([
        ...VM,
        ...key("-object"),
        ...files.flatMap((file) => ["-drive", drive({ file, format: "qcow2", if: "virtio" })]),
      ]),
    },
    {
      does: "Mount its first partition, as root",
      line: [
        shellText(["modprobe", "nbd", "max_part=16"]),
        shellText([
          ...["qemu-nbd", ...key("--object"), "--connect=/dev/nbd0", "--format=qcow2", first],
        ]),
        shellText(["mount", "/dev/nbd0p1", MOUNT_POINT]),
      ].join(" && "),
    },
    {
      does: "Undo that",
      line: `umount ${MOUNT_POINT} && qemu-nbd --disconnect /dev/nbd0`,
    },
    ...(keyFile === null ? [copyByGuestfish(first)] : []),
    {
      does: "Copy the whole disk into a new file",
      line: shellText([
        ...["qemu-img", "convert", ...key("--object"), "-p", "-f", "qcow2", "-O", "raw"],
        ...[first, "disk.raw"],
      ]),
    },
  ];
}

const copyByGuestfish = (file: string): Instruction => ({
  does: "Copy a folder out of it, without root",
  line: shellText([
    ...["guestfish", "--ro", "--format=qcow2", "--add", file],
    ...["--inspector", "copy-out", "/etc", "."],
  ]),
});

/** What can be done with the exports of an NBD server, by their URIs. */
export function nbdInstructions(uris: readonly string[]): Instruction[] {
  const first = uris[0] as string;
  return [
    {
      does: "Mount its first partition, as root (XFS: norecovery instead of noload)",
      line: [
        shellText(["modprobe", "nbd", "max_part=16"]),
        shellText(["qemu-nbd", "--read-only", "--connect=/dev/nbd0", "--format=raw", first]),
        shellText(["mount", "-o", "ro,noload", "/dev/nbd0p1", MOUNT_POINT]),
      ].join(" && "),
    },
    {
      does: "Undo that",
      line: `umount ${MOUNT_POINT} && qemu-nbd --disconnect /dev/nbd0`,
    },
    {
      does: "See it as a file, without root, until fusermount3 -u disk.raw",
      line: `touch disk.raw && ${shellText(["nbdfuse", "--readonly", "disk.raw", first])} &`,
    },
    {
      does: "Copy a folder out of it, without root",
      line: shellText([
        ...["guestfish", "--ro", "--format=raw", "--add", first.replace("nbd+unix:", "nbd:")],
        ...["--inspector", "copy-out", "/etc", "."],
      ]),
    },
    {
      does: "Start a VM on it, without a network; what it writes is thrown away when it ends",
      line: shellText([
        ...VM,
        ...uris.flatMap((file) => [
          "-drive",
          drive({ file, format: "raw", if: "virtio", snapshot: "on" }),
        ]),
      ]),
    },
    {
      does: "Copy the whole disk into a new file",
      line: shellText([
        ...["qemu-img", "convert", "-p", "-f", "raw", "-O", "qcow2", first, "disk.qcow2"],
      ]),
    },
  ];
}
