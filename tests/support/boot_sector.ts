/**
 * A guest of one sector: its boot sector prints the text at 64 KiB on the serial port, and shuts the machine
 * down. So what it prints is what an image holds.
 *
 * @module
 */

/** Where the text is: it ends with a zero. */
export const TEXT_AT = 64 << 10;
export const BOOT_DISK_BYTES = 1 << 20;

/**
 * In real mode: read sector 128 to 0x7e00 (int 0x13, function 0x42), print it to COM1, and tell ACPI's control
 * register to switch off, which is at 0x604 in QEMU's machines for PCs.
 */
const CODE =
  "31c0 8ed8 8ec0 b442 be407c cd13 be007e baf803 fc ac 84c0 7403 ee ebf8 ba0406 b80020 ef f4 ebfd";
/** What to read, as int 0x13 wants it, at 0x7c40. */
const PACKET = "1000 0100 007e 0000 8000 0000 0000 0000";

function bytesOf(hex: string): number[] {
  return hex.replaceAll(" ", "").match(/../g)?.map((byte) => parseInt(byte, 16)) ?? [];
}

/** Instead of switching off: write a byte to port 0xf4. */
const EXIT = (value: number) => `b0${value.toString(16).padStart(2, "0")} e6f4 9090 90`;

/** The disk that prints this, and says in the end how it went, if it is to. */
export function bootDisk(text: string, exit: number | null = null): Uint8Array {
  const disk = new Uint8Array(BOOT_DISK_BYTES);
  disk.set(bytesOf(exit === null ? CODE : CODE.replace("ba0406 b80020 ef", EXIT(exit))));
  disk.set(bytesOf(PACKET), 0x40);
  disk.set([0x55, 0xaa], 510);
  disk.set(new TextEncoder().encode(text), TEXT_AT);
  return disk;
}
