/**
 * A guest that brings its VM into a state: a few bytes of machine code in an option ROM, which the BIOS runs
 * before it looks for a disk.
 *
 * @module
 */

/** What to write where: `out` to an I/O port of the "pc" machine, of 8 or 16 bits. */
const ACTIONS = {
  /** ACPI's PM1a control register: sleep type 1 is S3, 0 is off. */
  suspended: { port: 0x604, value: 0x2400, qemuArgs: [] },
  shutdown: { port: 0x604, value: 0x2000, qemuArgs: ["-no-shutdown"] },
  "guest-panicked": {
    port: 0x505,
    value: 0x01,
    qemuArgs: ["-device", "pvpanic", "-action", "panic=pause"],
  },
  /** The iB700's enable register: 15 is a time-out of 0 seconds. */
  watchdog: {
    port: 0x443,
    value: 0x0f,
    qemuArgs: ["-device", "ib700", "-action", "watchdog=pause"],
  },
} as const;

export type GuestState = keyof typeof ACTIONS;
export const GUEST_STATES = Object.keys(ACTIONS) as GuestState[];

const ROM_BYTES = 512;

/**
 * Writes the ROM.
 *
 * @returns QEMU's arguments for it. The VM reaches the state when it is let run.
 */
export async function stateGuest(state: GuestState, romPath: string): Promise<string[]> {
  const { port, value, qemuArgs } = ACTIONS[state];
  const rom = new Uint8Array(ROM_BYTES);
  // deno-fmt-ignore
  rom.set([
    0x55, 0xaa, ROM_BYTES / 512,                  // an option ROM of so many blocks; the BIOS calls:
    0xba, port & 0xff, port >> 8,                 // mov dx, port
    0xb8, value & 0xff, value >> 8,               // mov ax, value
    value > 0xff ? 0xef : 0xee,                   // out dx, ax / al
    0xfa,                                         // cli
    0xf4,                                         // hlt
    0xeb, 0xfc,                                   // jmp to cli
  ]);
  // All of its bytes add up to 0.
  rom[ROM_BYTES - 1] = -rom.reduce((sum, byte) => sum + byte, 0) & 0xff;
  await Deno.writeFile(romPath, rom);
  return ["-option-rom", romPath, ...qemuArgs];
}
